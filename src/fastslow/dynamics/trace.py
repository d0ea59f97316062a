"""The memory of every cell at every step: the reference loop with stored memories, optionally with their graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow.backends.base import States
from fastslow.cells.lstm import CellWeights, lstm_step
from fastslow.lm.model import CharLM
from fastslow.state import LSTMState
from fastslow.storage import ModelError
from fastslow.wiring import FROM_INPUT, NO_INPUT


class Trace(NamedTuple):
    """One window of T steps, in evaluation mode: no noise, zoneout in expectation.

    memory: [node][step], each (B, H of the node): the c that the node wrote.
    nats: (T, B), the loss of each target.
    state: the slots after the window, detached.
    """

    memory: list[list[Tensor]]
    nats: Tensor
    state: States


def trace(lm: CharLM, inputs: Tensor, targets: Tensor, state: States, *, history: bool = False) -> Trace:
    """Run `lm` on inputs (T, B) int64 and store every node's memory.

    state: one LSTMState per slot, leaves (B, H). With `history`, memories and losses can be differentiated with respect
    to earlier memories; weights are detached.

    Written with the reference cell, in the order of `backends.reference`.
    """
    layer, wiring = lm.layer, lm.layer.wiring
    if any(type(cell) is not CellWeights for cell in layer.weights()):
        raise ModelError("the dynamics of c are those of LSTM cells, and this model has others")
    weights = [_detached(cell) for cell in layer.weights()]
    rates = layer.rates
    with torch.set_grad_enabled(history):
        # One leaf that requires grad is enough for everything that depends on it.
        slots = [LSTMState(*(leaf.detach().requires_grad_(history) for leaf in pair)) for pair in state]
        x = F.embedding(inputs, lm.embedding.weight.detach())
        memory: list[list[Tensor]] = [[] for _ in wiring.nodes]
        outputs: list[Tensor] = []
        for t in range(inputs.shape[0]):
            out: list[Tensor] = []
            for node, (slot, source) in enumerate(zip(wiring.slot_of, wiring.sources, strict=True)):
                slots[slot] = lstm_step(
                    weights[node],
                    None if source == NO_INPUT else x[t] if source == FROM_INPUT else out[source],
                    slots[slot],
                    forget_bias=rates.forget_bias,
                    zoneout_h=rates.zoneout_h,
                    zoneout_c=rates.zoneout_c,
                )
                memory[node].append(slots[slot].c)
                out.append(slots[slot].h)
            outputs.append(out[wiring.output_index])
        logits = F.linear(torch.stack(outputs), lm.head.weight.detach(), lm.head.bias.detach())
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return Trace(memory, nats, tuple(LSTMState(s.h.detach(), s.c.detach()) for s in slots))


def _detached(cell: CellWeights) -> CellWeights:
    return CellWeights._make(None if weight is None else weight.detach() for weight in cell)


def warmed_state(lm: CharLM, inputs: Tensor) -> States:
    """The slots after inputs (T, B) int64 from zero, by the layer's own engine; zeros for T = 0."""
    if inputs.shape[0] == 0:
        return _slots(lm.initial_state(inputs.shape[1]))
    with torch.no_grad(), lm.evaluating():
        _, state = lm.layer(lm.embedding(inputs))
    return _slots(state)


def _slots(state: Any) -> States:
    return (state,) if isinstance(state, LSTMState) else tuple(state)
