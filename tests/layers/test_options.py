"""Constructors take options of one description, and say so as if each were written out."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from fastslow import FSGRU, FSLSTM, SequentialGRU, SequentialLSTM, StackedGRU, StackedLSTM, WiredRNN

SIZES: dict[type[WiredRNN], dict[str, Any]] = {
    FSLSTM: {"slow_size": None, "num_fast": 2},
    FSGRU: {"slow_size": None, "num_fast": 2},
    StackedLSTM: {"num_layers": 1},
    StackedGRU: {"num_layers": 1},
    SequentialLSTM: {"num_cells": 2},
    SequentialGRU: {"num_cells": 2},
}
OF_LSTM = {"zoneout_c": 0.0, "forget_bias": 1.0}
OF_ALL = {
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "zoneout_h": 0.0,
    "layer_norm": True,
    "backend": "auto",
    "device": None,
    "dtype": None,
}


def defaults(layer: type[WiredRNN]) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """What its signature says: arguments that must be given, those that may be by place, and keywords."""
    parameters = inspect.signature(layer).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    by_place = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in needed}
    return needed, by_place, {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("layer", SIZES)
def test_signatures_name_every_option(layer: type[WiredRNN]) -> None:
    keywords = OF_ALL | OF_LSTM if layer.__name__.endswith("LSTM") else OF_ALL
    assert defaults(layer) == (["input_size", "hidden_size"], SIZES[layer], keywords)
    made = layer(3, 4, **SIZES[layer], **keywords)
    assert repr(made) == repr(layer(3, 4))
    for name in keywords.keys() - {"device", "dtype"}:
        assert getattr(made, name) == keywords[name]


@pytest.mark.parametrize("layer", SIZES)
def test_other_options_are_refused(layer: type[WiredRNN]) -> None:
    name = layer.__name__
    with pytest.raises(TypeError, match=rf"^{name}.__init__\(\) got an unexpected keyword argument 'zonout_h'"):
        layer(3, 4, zonout_h=0.1)
    with pytest.raises(TypeError, match=f"^{name} does not support proj_size=2: its output is the state h itself"):
        layer(3, 4, proj_size=2)
    layer(3, 4, proj_size=0, bidirectional=False)


def test_a_subclass_has_its_own_signature() -> None:
    class Square(FSLSTM):
        def __init__(self, size: int) -> None:
            super().__init__(size, size)

    assert list(inspect.signature(Square).parameters) == ["size"]
    assert Square(3).slow_size == 3
