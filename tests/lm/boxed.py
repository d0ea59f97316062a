"""A model in the box that is small enough to test with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastslow.codec.package import Made, make
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, packaged
from tests.lm.models import small_lm


def boxed_lm() -> CharLM:
    return small_lm(5, alphabet=Alphabet.bytes())


def put_in_the_box(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Made:
    """Make `folder` the place of the packaged models, with one called english in it."""
    made = make(boxed_lm(), folder / packaged.DEFAULT)
    monkeypatch.setattr(packaged, "models_folder", lambda: folder)
    return made


def empty_the_box(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A package without models."""
    monkeypatch.setattr(packaged, "models_folder", lambda: folder / "no models")
