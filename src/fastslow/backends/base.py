"""What every engine takes and returns.

An engine is a module with

    NAME: str
    refusal(problem: Problem) -> str | None      why it cannot run this window, in words; None if it can
    run(wiring, weights, x, state, noise, rates, lengths=None, resets=None) -> (y, state)
    options(device: str) -> ((name, value), ...)  how a window that starts now on such a device would run
    reluctance(problem: Problem) -> str | None   where it has one: why "auto" passes it over though it could run

    wiring   Wiring of N nodes and S slots
    weights  N named tuples, one a node, each of the weights of a cell in `fastslow.cells.kinds`
    x        (T, B, X)
    state    S states, leaves (B, H of the slot), as the slot's cells have them: `LSTMState(h, c)`, or h: the state
             before the window
    noise    the masks of training, or None: no dropout, and zoneout's expectation
    rates    the drop probabilities and the forget gate's constant
    lengths  (B,) int64 on the CPU, or None: row b stops after lengths[b] steps, keeps its state, and puts out zeros
    resets   (T, B) bool on the device of x, or None: where true, the row's whole state is zeros before that step, and
             no gradient flows across; steps past a row's length do not count
    y        (T, B, H of the output node), after the output's dropout
    state    S states: the state after the window

Engines are pure functions: they change nothing they are given.
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
"""One state a slot: `LSTMState(h, c)`, or a tensor h where its cells have no c."""
Option = str | int | float | bool | None
"""A choice of an engine."""


@dataclass(frozen=True)
class Rates:
    """Drop probabilities, and the constant added to the forget gate after its norm."""

    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    forget_bias: float = 1.0

    @property
    def random(self) -> bool:
        """Whether training draws any mask at all."""
        return self.dropout > 0 or self.zoneout_h > 0 or self.zoneout_c > 0


@dataclass(frozen=True)
class Problem:
    """What an engine must know to say whether it can run a window."""

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
    """The type autocast gives to matrix products on this device, or None when it is off."""
    traced: bool
    """Whether only the loop will do: a torch.func transform, forward-mode differentiation, an ONNX export."""
    kinds: tuple[str, ...] = ()
    """The cell of each node by its name in `fastslow.cells.kinds`; empty: the LSTM in all of them."""


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
