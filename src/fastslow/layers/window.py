"""A window of a layer, handed to an engine: which one it is, in an ordinary call and in a graph being recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends import choose, engine, loop_only, operators, recorded_choice
from fastslow.backends.base import Problem, States
from fastslow.backends.program import cells_text, program_text
from fastslow.backends.streaming import MOST_ROWS, layer_window
from fastslow.cells.kinds import kind_of
from fastslow.layers.wired_cells import WiredCells
from fastslow.noise import Noise, draw_key
from fastslow.wiring import Wiring


def run(
    layer: WiredCells,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, States]:
    """x (T, B, X), state one per slot -> y (T, B, H), state."""
    dtype, device = weights[0].w_h.dtype, x.device.type
    autocast = autocast_dtype(x.device)
    if x.dtype != dtype:
        if autocast is None:
            raise ValueError(f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype})")
        x = x.to(dtype)
    _check_weights(layer.wiring, weights, x)
    rates, noise = layer.rates, None
    if layer.training and rates.random:
        key = draw_key(x.device) if layer.noise_key is None else layer.noise_key
        noise = Noise(key, 0, layer.first_row)
    if torch.compiler.is_compiling():
        return _recorded(layer, weights, x, state, noise, lengths, resets)
    wiring = layer.wiring
    name = choose(problem_of(layer, weights, x), layer.backend).name
    plain = noise is None and lengths is None and resets is None and not torch.is_grad_enabled()
    if plain and name == "native":
        if x.shape[0] == 1 and x.shape[1] <= MOST_ROWS:
            program = program_text(wiring.text, cells_text(weights), rates, engine(name).options(device))
            y, new = operators.step(program, weights, x[0], state)
            return y.unsqueeze(0), new
        streamed = layer_window(layer, x, state)
        if streamed is not None:
            return streamed
    return engine(name).run(wiring, weights, x, state, noise, rates, lengths, resets)


def _recorded(
    layer: WiredCells,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    noise: Noise | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, States]:
    """The window in a graph that is being recorded, in words that torch.compile can follow."""
    wiring = layer.wiring
    flags = (torch.is_grad_enabled(), layer.training, layer.layer_norm)
    asked = [
        layer.backend,
        str(x.device),
        str(x.dtype),
        wiring.text,
        cells_text(weights),
        " ".join([str(w.hidden_size) for w in weights]),
        layer.rates_text,
        "".join(["1" if flag else "0" for flag in flags]),
        str(autocast_dtype(x.device)),
        str(loop_only()),
    ]
    choice = recorded_choice("\n".join(asked))
    name, program = choice.split("\n", 1)
    if not name:
        raise RuntimeError(program)
    if name == "reference":
        return engine(name).run(wiring, weights, x, state, noise, layer.rates, lengths, resets)
    return operators.call(name, program, weights, x, state, noise, lengths, resets)


def _check_weights(wiring: Wiring, weights: Sequence[Any], x: Tensor) -> None:
    """Compiled engines read addresses: every weight must be where x is, and of one type."""
    for node, cell in zip(wiring.nodes, weights, strict=True):
        for weight in cell:
            if weight is not None and (weight.device != x.device or weight.dtype != x.dtype):
                raise RuntimeError(
                    f"x is {x.dtype} on {x.device} and cell {node.cell_name!r} has a weight that is {weight.dtype} "
                    f"on {weight.device}: move the layer to the device of x, and give all of it one type"
                )


def problem_of(layer: WiredCells, weights: Sequence[Any], x: Tensor) -> Problem:
    """The window as engines are asked about it."""
    return problem(layer.wiring, weights, x, training=layer.training, layer_norm=layer.layer_norm, traced=loop_only())


def problem(
    wiring: Wiring, weights: Sequence[Any], x: Tensor, *, training: bool, layer_norm: bool, traced: bool
) -> Problem:
    """x (T, B, X) and these weights, as engines are asked about them."""
    return Problem(
        device=x.device,
        dtype=weights[0].w_h.dtype,
        steps=x.shape[0],
        rows=x.shape[1],
        wiring=wiring,
        hidden_sizes=tuple(w.hidden_size for w in weights),
        needs_grad=torch.is_grad_enabled(),
        training=training,
        layer_norm=layer_norm,
        autocast=autocast_dtype(x.device),
        traced=traced,
        kinds=tuple(kind_of(w).name for w in weights),
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type of products under autocast there; None without."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)
