"""The options of `fastslow score --words`, in a file without torch, so that the help text appears quickly."""

from __future__ import annotations

from typing import Literal

Split = Literal["unicode", "space"]
"""`unicode`: words by UAX 29, where a punctuation mark is a separate word.  `space`: everything between white
space."""

Predictor = Literal["auto", "network", "mixed"]
"""`network`: the model alone.  `mixed`: with contexts that learn from the text as it is read.  `auto`: the network,
unless the contexts alone are better at the beginning of the text."""

Space = Literal["before", "after"]
"""Which white space a word's bits include."""
