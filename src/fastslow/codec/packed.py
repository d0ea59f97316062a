"""Float steps of many lanes by the native engine, its weights packed once for all of them.

A layer's step of many rows is a window of one step, which packs the weights for its products every time: most of its
time at 64 rows. The weights of a frozen model stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastslow.backends.native.arguments import Arguments, Memory
from fastslow.backends.native.call import describe, options
from fastslow.backends.native.library import Library, library
from fastslow.backends.native.steps import contiguous
from fastslow.backends.program import Request
from fastslow.lm import CharLM

FEWEST_LANES = 8
"""Fewer are faster with the weights read where they lie, as a layer's step does."""


def packs(lm: CharLM, lanes: int) -> bool:
    """Whether `PackedSteps` can run, and pays."""
    weight = lm.head.weight
    return (
        lanes >= FEWEST_LANES
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and lm.layer.backend in ("auto", "native")
        and isinstance(library(), Library)
    )


class PackedSteps:
    """Steps of `lanes` lanes from a zero state; zoneout's expectation, no dropout.

    Later changes of the layer's weights are missed.
    """

    def __init__(self, lm: CharLM, lanes: int) -> None:
        found = library()
        assert isinstance(found, Library)
        layer, embedding = lm.layer, lm.embedding.weight
        self.lanes, self._lm = lanes, lm
        self._weights = [contiguous(weights) for weights in layer.weights()]
        self._x = embedding.new_zeros((1, lanes, embedding.shape[1]))
        call = describe(Request.of(layer.wiring, self._weights, self._x, layer.rates, options()))
        self._memory = Memory.leased(call)
        self._args = Arguments(call, self._weights, self._x, self._memory)
        self._y = self._x.new_empty((1, lanes, layer.output_size))
        self._args.window.y = self._y.data_ptr()
        self._packed = self._args.forward_scratch()
        self._function = found.forward[call.dtype]
        self._prepared = False
        self.begin()

    def begin(self) -> None:
        """A zero state."""
        for part in (*self._memory.h, *self._memory.c):
            part.zero_()

    def step(self, tokens: Tensor) -> Tensor:
        """tokens (S,) -> logits of the next ones (S, V)."""
        torch.index_select(self._lm.embedding.weight, 0, tokens, out=self._x[0])
        self._args.run(self._function, 0, 1, prepare=not self._prepared)
        self._prepared = True
        logits: Tensor = self._lm.head(self._y[0])
        return logits
