"""The choices of `fastslow score --words`, apart from what needs torch, so that the help is quick."""

from __future__ import annotations

from typing import Literal

Split = Literal["unicode", "space"]
"""`unicode`: words by UAX 29, where a punctuation mark is a word of its own.  `space`: whatever stands between white
space."""

Space = Literal["before", "after"]
"""Which white space a word's bits include."""
