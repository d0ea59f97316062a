"""Data, from bytes to windows: texts, alphabets, streams, and public corpora.

- :mod:`~fastslow.data.alphabet`: which bytes are symbols
- :mod:`~fastslow.data.encodings`: line ends, byte-order marks and UTF-16, removed and restored
- :mod:`~fastslow.data.augment`: augmentation of training text
- :mod:`~fastslow.data.text`: files as one memory-mapped text, and its training, validation and test parts
- :mod:`~fastslow.data.streams`: contiguous streams and the windows that a network reads
- :mod:`~fastslow.data.corpora`: the public corpora: digests, splits, protocols
- :mod:`~fastslow.data.fetch`, :mod:`~fastslow.data.unpack`: downloading and unpacking them
- :mod:`~fastslow.data.stdlib`: the text of the demo

This package does not depend on models.
"""

from __future__ import annotations

from fastslow.data.alphabet import Alphabet
from fastslow.data.encodings import Normalised, normalise
from fastslow.data.streams import Streams, Window, random_offset, rank_columns
from fastslow.data.text import Splits, Text, open_splits, open_text, split_fractions

__all__ = [
    "Alphabet",
    "Normalised",
    "Splits",
    "Streams",
    "Text",
    "Window",
    "normalise",
    "open_splits",
    "open_text",
    "random_offset",
    "rank_columns",
    "split_fractions",
]
