"""The interface of an engine: its inputs and outputs.

An engine is a module with

    NAME: str
    refusal(problem: Problem) -> str | None      the reason why it cannot run this window; None if it can
    run(wiring, weights, x, state, noise, rates, lengths=None, resets=None) -> (y, state)
    options(device: str) -> ((name, value), ...)  the options that a window started now on such a device would use
    reluctance(problem: Problem) -> str | None   optional: why "auto" skips the engine although it could run

    wiring   Wiring of N nodes and S slots
    weights  N named tuples, one per node: the weights of one of the cells in `fastslow.cells.kinds`
    x        (T, B, X)
    state    S states before the window, leaves (B, H of the slot); `LSTMState(h, c)`, or h alone where the slot's cells
             have no c
    noise    the random masks of training, or None: no dropout, and zoneout in expectation
    rates    the drop probabilities and the constant of the forget gate
    lengths  (B,) int64 on the CPU, or None: row b ends after lengths[b] steps; then its state stays and its
             outputs are zero
    resets   (T, B) bool on the device of x, or None: where true, the row's whole state is set to zero before that step,
             and no gradient flows across; steps past a row's length are ignored
    y        (T, B, H of the output node), after output dropout
    state    S states: the state after the window

Engines are pure functions: they do not modify their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastslow.noise import Noise
from fastslow.wiring import Wiring

States = tuple[Any, ...]
"""One state per slot: `LSTMState(h, c)`, or a tensor h where its cells have no c."""
Option = str | int | float | bool | None
"""The value of an engine option."""


@dataclass(frozen=True)
class Rates:
    """Drop probabilities, and the constant added to the forget gate after its layer norm."""

    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    forget_bias: float = 1.0

    @property
    def random(self) -> bool:
        """Whether training draws any random masks."""
        return self.dropout > 0 or self.zoneout_h > 0 or self.zoneout_c > 0


@dataclass(frozen=True)
class Problem:
    """The properties of a window that decide whether an engine can run it."""

    device: torch.device
    dtype: torch.dtype
    steps: int
    rows: int
    wiring: Wiring
    hidden_sizes: tuple[int, ...]
    """H of each node."""
    needs_grad: bool
    training: bool
    layer_norm: bool
    autocast: torch.dtype | None
    """The dtype that autocast uses for matrix products on this device, or None if autocast is off."""
    traced: bool
    """Whether only the reference loop can run: torch.func transforms, forward-mode differentiation, ONNX export."""
    kinds: tuple[str, ...] = ()
    """The cell of each node by its name in `fastslow.cells.kinds`; empty means LSTM cells only."""


class Engine(Protocol):
    NAME: str

    def refusal(self, problem: Problem) -> str | None: ...

    def options(self, device: str) -> tuple[tuple[str, Option], ...]: ...

    def run(
        self,
        wiring: Wiring,
        weights: Sequence[Any],
        x: Tensor,
        state: States,
        noise: Noise | None,
        rates: Rates,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, States]: ...
