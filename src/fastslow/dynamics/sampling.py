"""Samples of a text for the study: streams of a given length that begin at even distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastslow.data.alphabet import Buffer, UInt8Array, as_bytes_array
from fastslow.data.text import Text
from fastslow.errors import DataError
from fastslow.lm.model import CharLM


@dataclass(frozen=True)
class Sample:
    """inputs, targets: (steps, B) int64 on the model's device; targets[t] follows inputs[t]."""

    inputs: Tensor
    targets: Tensor


def bytes_of(text: Buffer | Text) -> tuple[UInt8Array, str]:
    """A text's bytes and its name."""
    return (text.data, text.name) if isinstance(text, Text) else (as_bytes_array(text), "the text")


def sample(lm: CharLM, text: Buffer | Text, steps: int, streams: int) -> Sample:
    """`streams` streams of `steps` steps, beginning at even distances; fewer if the text is too short for all.

    Raises DataError for a text too short for one stream, AlphabetError for symbols outside the model's alphabet.
    """
    data, name = bytes_of(text)
    symbols = lm.alphabet.encode(data, name=name)
    streams = min(streams, (len(symbols) - 1) // steps)
    if streams < 1:
        raise DataError(f"{name} is too short: it has {len(symbols):,} symbols; at least {steps + 1:,} are needed")
    begins = np.arange(streams, dtype=np.int64) * ((len(symbols) - 1) // streams)
    at = begins + np.arange(steps + 1, dtype=np.int64)[:, None]  # (steps + 1, B)
    tokens = torch.from_numpy(symbols[at].astype(np.int64)).to(lm.device)
    return Sample(tokens[:-1], tokens[1:])
