"""Steps of a few rows in the compiled library, without gradients or masks: the arguments of csrc/step.h."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Rates
from fastslow.backends.native.arguments import place_vectors
from fastslow.backends.native.library import Library, StepArgs, StepNodeArgs, library
from fastslow.backends.native.quantized import Quantized
from fastslow.cells.kinds import kind_of
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

STREAMED_ROWS = 4
"""Up to this many rows, the time is bound by reading the weights, which this path reads in place, once per step."""
PACKING = 12
"""Packing the weights for a window takes about as long as reading them this many times."""
SHARED_FROM = 150_000
"""From this many weights per node, threads share a step. Fewer weights are read before another thread has woken up."""


def contiguous(weights: Any) -> Any:
    """The same values, row-major."""
    return type(weights)(*(None if part is None else part.contiguous() for part in weights))


def streams(rows: int, steps: int) -> bool:
    """Whether a window without gradients or masks runs faster here than with packed weights."""
    return rows <= STREAMED_ROWS or steps * -(-rows // STREAMED_ROWS) <= PACKING


@dataclass(frozen=True)
class TokenLayers:
    """A language model's embedding (V, X), its head (V, H of the output) and bias (V): contiguous, of one dtype."""

    embedding: Tensor
    head: Tensor
    bias: Tensor | None


class Steps:
    """The prepared arguments of any number of calls with the same weights and number of rows.

    The weights are read in place, so in-place changes between calls take effect. They must be contiguous, of one dtype,
    on the CPU, and must not move. `quantized`: (w_x, w_h) of each node, used instead of the weights. With
    `token_layers`, calls take tokens as x and return logits as y.
    """

    def __init__(
        self,
        wiring: Wiring,
        weights: Sequence[Any],
        rates: Rates,
        rows: int,
        inputs: int,
        quantized: Sequence[tuple[Quantized | None, Quantized]] | None = None,
        token_layers: TokenLayers | None = None,
    ) -> None:
        found = library()
        if not isinstance(found, Library):
            raise RuntimeError(f"the native engine cannot run: {found}")
        self.output_size = weights[wiring.output_index].hidden_size
        self.dtype = dtype = weights[0].w_h.dtype
        self._keep = (weights, quantized, token_layers)
        self._token_layers = token_layers
        lanes = found.vector_bytes // dtype.itemsize
        slot_of, sources = wiring.slot_of, wiring.sources
        nodes = (StepNodeArgs * len(weights))()
        for n, (node, w) in enumerate(zip(nodes, weights, strict=True)):
            node.hidden, node.padded = w.hidden_size, -(-w.hidden_size // lanes) * lanes
            kind = kind_of(w)
            node.slot, node.source, node.norm = slot_of[n], sources[n], w.layer_norm
            node.code, node.blocks, node.joint = kind.code, kind.blocks, kind.joint
            node.forget_bias = rates.forget_bias if kind.forget_bias else 0.0
            node.x_blocks, node.h_blocks = len(kind.rows_x), len(kind.rows_h)
            node.x_places[: node.x_blocks], node.h_places[: node.h_blocks] = kind.rows_x, kind.rows_h
            node.w_x, node.w_h = None if w.w_x is None else w.w_x.data_ptr(), w.w_h.data_ptr()
            place_vectors(node, kind, w)
            node.inputs = node.ld_x = 0 if w.w_x is None or sources[n] == NO_INPUT else w.w_x.shape[1]
            node.ld_h = w.hidden_size
            if quantized is not None:
                q_x, q_h = quantized[n]
                node.w_h, node.ld_h, node.scale_h = q_h.addresses()
                if q_x is not None:
                    node.w_x, node.ld_x, node.scale_x = q_x.addresses()
            elif w.w_x is None and sources[n] >= FROM_INPUT:
                raise ValueError(f"node {wiring.nodes[n].name!r} has an input but no weights for it")
        self._nodes = nodes
        slots = len(wiring.slots)
        kinds = [kind_of(weights[slot_of.index(slot)]) for slot in range(slots)]
        self._leaves = [2 * slot + leaf for slot, kind in enumerate(kinds) for leaf in range(kind.leaves)]
        self._all_leaves = len(self._leaves) == 2 * slots
        self._states = (ctypes.c_void_p * (2 * slots))(), (ctypes.c_void_p * (2 * slots))()
        self._args = StepArgs(
            steps=1,
            rows=rows,
            nodes=len(weights),
            slots=slots,
            inputs=inputs,
            output=wiring.output_index,
            int8=quantized is not None,
            zoneout=0 if rates.zoneout_h == rates.zoneout_c == 0 else 2,
            rate_h=rates.zoneout_h,
            rate_c=rates.zoneout_c,
            node=nodes,
            state_in=self._states[0],
            state_out=self._states[1],
        )
        if token_layers is not None:
            self._args.embedding, self._args.head = token_layers.embedding.data_ptr(), token_layers.head.data_ptr()
            self._args.head_bias = None if token_layers.bias is None else token_layers.bias.data_ptr()
            self._args.vocabulary = self.output_size = token_layers.head.shape[0]
        elements = sum(w.w_h.numel() + (0 if w.w_x is None else w.w_x.numel()) for w in weights) // len(weights)
        self._most_threads = max(1, min(torch.get_num_threads(), elements // SHARED_FROM + 1))
        self._args.threads = self._most_threads
        self._byref = ctypes.byref(self._args)
        size = found.step_scratch[dtype](self._byref)
        self._scratch = torch.zeros(size + 64, dtype=dtype, device="cpu")
        self._args.scratch = -(-self._scratch.data_ptr() // 64) * 64
        self._function = found.step[dtype]
        self._lock = threading.Lock()  # one call at a time: the scratch is shared

    def __call__(self, steps: int, x: int, y: int, states_in: list[int], states_out: list[int]) -> None:
        """Run `steps` steps: x (T, B, X), y (T, B, H), the leaves of every slot's state (B, H); all are addresses.

        With token_layers: x (T, B) int64 in 0..V-1, y (T, B, V).
        """
        with self._lock:
            args = self._args
            args.steps = steps
            if self._token_layers is None:
                args.x, args.y = x, y
            else:
                args.tokens, args.logits = x, y
            args.threads = min(self._most_threads, torch.get_num_threads())
            if self._all_leaves:
                self._states[0][:], self._states[1][:] = states_in, states_out  # type: ignore[assignment]
            else:
                for addresses, given in zip(self._states, (states_in, states_out), strict=True):
                    for i, address in zip(self._leaves, given, strict=True):
                        addresses[i] = address
            self._function(self._byref)
