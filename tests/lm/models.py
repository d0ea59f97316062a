"""Models small enough to test with, and a text to run them on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, ModelOptions

TEXT = b"the quick brown fox jumps over the lazy dog\n" * 20
LETTERS = Alphabet.of(TEXT)
SMALL = ModelOptions(embedding_size=5, hidden_size=7, slow_size=6)


def small_lm(
    seed: int = 0, *, alphabet: Alphabet = LETTERS, dtype: torch.dtype | None = None, **options: Any
) -> CharLM:
    torch.manual_seed(seed)
    return CharLM(replace(SMALL, **options).with_alphabet(alphabet), backend="reference", dtype=dtype)
