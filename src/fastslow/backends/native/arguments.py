"""A window's memory, and the structures that hand it to the compiled library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastslow.backends.native.call import TILE_DEPTH, TILE_SIDE, Call
from fastslow.backends.native.library import NodeArgs, WindowArgs
from fastslow.backends.native.memory import Lease
from fastslow.cells.lstm import CellWeights
from fastslow.noise import dropout_threshold, zoneout_threshold
from fastslow.wiring import FROM_INPUT

VECTORS = 14
"""A cell's vectors, padded: bias, gate gain and gate shift of 4 gates each, cell gain, cell shift."""
STATS = 8
SCRATCH = 40


class Memory:
    """What a window keeps from its forward to its backward.

    h[n], c[n]: (T, B, P) new states of node n; the last node of a slot has one step more, the initial state, in front.
    emitted[n] (T, B, P): h once more, where `Call.emits`; else (0, B, P). z[n] (T, B, 4P), stats[n] (T, B, 8),
    dropped[n] (T, B, inputs) or None. Not kept: all of them for one step only,
    which every step uses again, and no step in front.
    """

    def __init__(self, call: Call, *, kept: bool, gates: int | None = None) -> None:
        """gates: for how many steps z, stats and dropped have room; all if None."""
        self.kept = kept
        self.steps = call.steps if kept else 1
        self.gate_steps = self.steps if gates is None else gates
        nodes = range(len(call.hidden))
        front = [int(kept and call.members(slot)[-1] == node) for node, slot in enumerate(call.wiring.slot_of)]
        self.front = front
        states = [(self.steps + front[n], call.rows, call.padded[n]) for n in nodes]
        emitted = [(self.steps * call.emits(n), call.rows, call.padded[n]) for n in nodes]
        self._states = Lease([*states, *states, *emitted], call.dtype)
        parts = self._states.tensors
        self.h, self.c, self.emitted = (parts[i * len(nodes) : (i + 1) * len(nodes)] for i in range(3))
        self.gates = Gates(call, self.gate_steps) if self.gate_steps else None

    def old(self, call: Call, node: int) -> tuple[Tensor, Tensor]:
        """What node reads from its slot: (T, B, P) each."""
        members = call.members(call.wiring.slot_of[node])
        place = members.index(node)
        if place == 0:
            last = members[-1]
            return self.h[last][: self.steps], self.c[last][: self.steps]
        return self.new(members[place - 1])

    def output(self, call: Call, node: int) -> Tensor:
        """What others read of a node: (T, B, P)."""
        return self.emitted[node] if call.emits(node) else self.new(node)[0]

    def new(self, node: int) -> tuple[Tensor, Tensor]:
        return self.h[node][self.front[node] :], self.c[node][self.front[node] :]


class Gates:
    """z, stats and dropped of `steps` steps."""

    def __init__(self, call: Call, steps: int) -> None:
        self.steps = steps
        shapes: list[tuple[int, ...]] = [(steps, call.rows, 4 * size) for size in call.padded]
        shapes += [(steps, call.rows, STATS)] * len(shapes)
        readers = [node for node, size in enumerate(call.read) if size and call.drops]
        shapes += [(steps, call.rows, call.read[node]) for node in readers]
        self._lease = Lease(shapes, call.dtype)
        count = len(call.hidden)
        self.z, self.stats = self._lease.tensors[:count], self._lease.tensors[count : 2 * count]
        self.dropped: list[Tensor | None] = [None] * count
        for node, tensor in zip(readers, self._lease.tensors[2 * count :], strict=True):
            self.dropped[node] = tensor


def _step(tensor: Tensor, moving: bool) -> int:
    return tensor.stride(0) if moving else 0


class Arguments:
    """The structures of one call, and what keeps their memory alive."""

    def __init__(self, call: Call, weights: Sequence[CellWeights], x: Tensor, memory: Memory, first: int = 0) -> None:
        """first: the step at which the memory's gates begin."""
        count = len(call.hidden)
        self.call, self.memory, self.x = call, memory, x
        self.nodes = (NodeArgs * count)()
        self.window = WindowArgs(
            steps=call.steps,
            rows=call.rows,
            nodes=count,
            slots=len(call.wiring.slots),
            inputs=call.inputs,
            output=call.wiring.output_index,
            threads=call.threads,
            groups=call.groups,
            node=self.nodes,
            x=x.data_ptr(),
            lengths=None if call.lengths is None else call.lengths.data_ptr(),
            resets=None if call.resets is None else call.resets.data_ptr(),
            first=0,
            last=call.steps,
            forget_bias=call.rates.forget_bias,
        )
        self._rates()
        self.moving = memory.kept
        for n, w in enumerate(weights):
            self._node(n, w)
        if memory.gates is not None:
            self.set_gates(memory.gates, first)

    def _rates(self) -> None:
        call, window, rates = self.call, self.window, self.call.rates
        window.random = call.key is not None
        window.zoneout = 0 if rates.zoneout_h == rates.zoneout_c == 0 else 2 if call.key is None else 1
        window.rate_h, window.rate_c = rates.zoneout_h, rates.zoneout_c
        window.threshold_h, window.threshold_c = zoneout_threshold(rates.zoneout_h), zoneout_threshold(rates.zoneout_c)
        window.drop = call.drops
        window.drop_threshold = dropout_threshold(rates.dropout)
        window.drop_scale = 0.0 if rates.dropout == 1 else 1 / (1 - rates.dropout)
        if call.key is not None:
            window.key_low, window.key_high = call.key & 0xFFFFFFFF, call.key >> 32
        window.first_step, window.first_row = call.first_step % 2**32, call.first_row % 2**32

    def _node(self, n: int, w: CellWeights) -> None:
        call, node, source = self.call, self.nodes[n], self.call.wiring.sources[n]
        node.hidden, node.padded = call.hidden[n], call.padded[n]
        node.inputs, node.padded_inputs = call.read[n], call.pad(call.read[n])
        node.slot, node.source, node.norm = call.wiring.slot_of[n], source, call.norm
        for name, tensor in zip(CellWeights._fields, w, strict=True):
            setattr(node, name, None if tensor is None else tensor.data_ptr())
        old, new = self.memory.old(call, n), self.memory.new(n)
        node.h_old, node.c_old = (tensor.data_ptr() for tensor in old)
        node.h_new, node.c_new = (tensor.data_ptr() for tensor in new)
        node.old_step, node.new_step = _step(old[0], self.moving), _step(new[0], self.moving)
        if source == FROM_INPUT:
            node.undropped, node.undropped_step, node.undropped_ld = self.x.data_ptr(), self.x.stride(0), call.inputs
        elif source >= 0:
            read = self.memory.output(call, source)
            node.undropped, node.undropped_ld = read.data_ptr(), call.padded[source]
            node.undropped_step = _step(read, self.moving)
        if call.emits(n):
            node.emitted, node.emitted_step = (
                self.memory.emitted[n].data_ptr(),
                _step(self.memory.emitted[n], self.moving),
            )

    def set_gates(self, gates: Gates, first: int) -> None:
        """z, stats and dropped lie in `gates`, whose first step is the window's step `first`."""

        def base(tensor: Tensor) -> int:
            return tensor.data_ptr() - (first * tensor.stride(0) * tensor.itemsize if self.moving else 0)

        for n, node in enumerate(self.nodes):
            node.z, node.stats = base(gates.z[n]), base(gates.stats[n])
            node.z_step, node.stats_step = _step(gates.z[n], self.moving), _step(gates.stats[n], self.moving)
            dropped = gates.dropped[n]
            if dropped is None:
                node.dropped = None
                node.read, node.read_step, node.read_ld = node.undropped, node.undropped_step, node.undropped_ld
            else:
                node.dropped = node.read = base(dropped)
                node.read_step, node.read_ld = _step(dropped, self.moving), self.call.read[n]

    def run(self, function: Any, first: int, last: int, *, prepare: bool, replay: bool = False) -> None:
        self.window.first, self.window.last, self.window.replay = first, last, replay
        function(ctypes.byref(self.window), prepare)

    def forward_scratch(self) -> Lease:
        """Packed weights and the threads' scratch; the lease must live as long as calls are made."""
        call = self.call
        depths = [(read, hidden) for read, hidden in zip(call.read, call.hidden, strict=True)]
        lease = self._scratch(depths, [4 * size for size in call.padded])
        for node, panels, tiles in zip(self.nodes, lease.tensors, lease.tensors[len(depths) :], strict=False):
            node.forward_panels, node.forward_tiles = panels.data_ptr(), tiles.data_ptr()
        return lease

    def backward_scratch(self, x_grad: bool) -> Lease:
        call = self.call
        adds: set[int] = set()
        for n in reversed(range(len(self.nodes))):
            node, source = self.nodes[n], call.wiring.sources[n]
            node.input_grad = source >= 0 or (source == FROM_INPUT and x_grad)
            node.input_adds = source in adds
            adds.add(source)
        columns = [(node.padded_inputs if node.input_grad else 0) + node.padded for node in self.nodes]
        lease = self._scratch([(4 * size,) for size in call.padded], columns)
        for node, panels, tiles in zip(self.nodes, lease.tensors, lease.tensors[len(columns) :], strict=False):
            node.backward_panels, node.backward_tiles = panels.data_ptr(), tiles.data_ptr()
        return lease

    def _scratch(self, depths: Sequence[tuple[int, ...]], columns: Sequence[int]) -> Lease:
        """Panels, tiles and vectors of every node, whose weights are packed for sums over `depths`; a thread's own."""
        call, widest = self.call, max(self.call.padded)
        # bfloat16 numbers, two of which take a float32's place
        tiled = [sum(-(-k // TILE_DEPTH) * TILE_DEPTH for k in parts) * call.parts for parts in depths]
        group = -(-call.rows // call.groups)
        split = max(tiled) * -(-group // TILE_SIDE) * TILE_SIDE  # whole tiles, however few rows
        shapes: list[tuple[int, ...]] = [(n * sum(parts),) for n, parts in zip(columns, depths, strict=True)]
        shapes += [(n * k // 2,) for n, k in zip(columns, tiled, strict=True)]
        shapes += [(VECTORS * size,) for size in call.padded]
        lease = Lease([*shapes, (call.threads, split // 2), (call.threads, SCRATCH * widest)], call.dtype)
        for node, tensor in zip(self.nodes, lease.tensors[2 * len(columns) :], strict=False):
            node.vectors = tensor.data_ptr()
        self.window.parts = call.parts
        if split > self.window.split_size:  # a pass that runs forward again has the room of both
            self.window.split, self.window.split_size = lease.tensors[-2].data_ptr(), split
        self.window.scratch, self.window.scratch_size = lease.tensors[-1].data_ptr(), SCRATCH * widest
        return lease
