"""The cells of a wiring: which kind and size each has, and its place among a module's children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fastslow.cells.gru import LayerNormGRUCell
from fastslow.cells.lstm import LayerNormLSTMCell
from fastslow.cells.module import CellModule
from fastslow.cells.simple import SimpleCell
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

CELLS = ("lstm", "gru", "tanh", "relu")
"""Kinds of cells that a layer makes."""


def kind_at(cell: str | Mapping[str, str], path: str, zoneout_c: float) -> str:
    """The kind of the cell at this path. ValueError for one that layers do not make, or has no c to zone out."""
    if not isinstance(cell, str) and path not in cell:
        raise ValueError(f"cell must give the kind of {path!r}, or be one name for all; got {dict(cell)}")
    kind = cell if isinstance(cell, str) else cell[path]
    if kind not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(map(repr, CELLS))}; got {kind!r} for {path!r}")
    if kind != "lstm" and cell == kind and zoneout_c > 0:
        raise ValueError(f"cell {kind!r} has no c, so zoneout_c must be 0; got {zoneout_c}: use zoneout_h")
    return kind


def new_cell(kind: str, input_size: int | None, hidden_size: int, own: Mapping[str, Any], **common: Any) -> CellModule:
    """A cell of this kind, with the options that all kinds have and those of the `own` ones that it has."""
    if kind == "lstm":
        return LayerNormLSTMCell(input_size, hidden_size, **own, **common)
    if kind == "gru":
        return LayerNormGRUCell(input_size, hidden_size, layer_norm=own["layer_norm"], **common)
    return SimpleCell(input_size, hidden_size, nonlinearity=kind, **common)  # type: ignore[arg-type]


def cell_sizes(wiring: Wiring, input_size: int, hidden_sizes: Mapping[str, int]) -> dict[str, tuple[int | None, int]]:
    """Input and hidden size of every cell by its path; ValueError where nodes that share a cell disagree."""
    made: dict[str, tuple[int | None, int]] = {}
    for node, source in zip(wiring.nodes, wiring.sources, strict=True):
        x_size: int | None
        if source == NO_INPUT:
            x_size = None
        elif source == FROM_INPUT:
            x_size = input_size
        else:
            x_size = hidden_sizes[wiring.nodes[source].slot]
        needs = (x_size, hidden_sizes[node.slot])
        if made.setdefault(node.cell_name, needs) != needs:
            raise ValueError(
                f"node {node.name!r} shares cell {node.cell_name!r}, which has input and hidden sizes "
                f"{made[node.cell_name]}, but needs {needs}"
            )
    return made


def attach(root: nn.Module, path: str, cell: nn.Module) -> None:
    """Put `cell` at a dotted path, with a ModuleList where the names below are 0, 1, 2, ..."""
    *parents, leaf = path.split(".")
    here = root
    for depth, name in enumerate(parents):
        if name not in here._modules:
            following = (*parents[depth + 1 :], leaf)[0]
            here.add_module(name, nn.ModuleList() if following == "0" else nn.Module())
        here = here.get_submodule(name)
    if leaf in here._modules or hasattr(here, leaf):
        raise ValueError(f"cell {path!r} cannot be named so: the layer already has an attribute of that name")
    here.add_module(leaf, cell)
