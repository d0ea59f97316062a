"""Every cell that engines know. A new one is a file beside this and a line here: docs/adding-a-cell.md."""

from __future__ import annotations

from typing import Any

from fastslow.cells.gru import GRU
from fastslow.cells.kind import Kind
from fastslow.cells.lstm import LSTM
from fastslow.cells.plain_lstm import PLAIN_LSTM
from fastslow.cells.simple import RELU, TANH

KINDS: dict[str, Kind] = {kind.name: kind for kind in (LSTM, PLAIN_LSTM, GRU, TANH, RELU)}
"""Name to kind."""

_BY_WEIGHTS: dict[type[Any], Kind] = {kind.weights: kind for kind in KINDS.values()}


def kind_of(weights: Any) -> Kind:
    """The cell whose weights these are. TypeError if engines know none."""
    kind = _BY_WEIGHTS.get(type(weights))
    if kind is None:
        raise TypeError(f"no engine knows a cell whose weights are {type(weights).__name__}")
    return kind
