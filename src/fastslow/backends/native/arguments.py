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
    gates: z[n] (T, B, 4P), stats[n] (T, B, 8), dropped[n] (T, B, inputs) or None. Not kept: all of them for one step
    only, which every step uses again, and no step in front.
    """

    def __init__(
        self, call: Call, states: Sequence[Tensor], gates: Gates | None, *, kept: bool, owner: object = None
    ) -> None:
        """states: the tensors of `state_shapes`; owner: whose life they share."""
        self.kept, self._owner = kept, owner
        self.steps = call.steps if kept else 1
        self.front = fronts(call, kept)
        count = len(call.hidden)
        self.h, self.c = states[:count], states[count:]
        self.gates = gates

    @classmethod
    def leased(cls, call: Call) -> Memory:
        """Of a window without gradients."""
        lease = Lease(state_shapes(call, False), call.dtype)
        return cls(call, lease.tensors, Gates.leased(call, 1), kept=False, owner=lease)

    def old(self, call: Call, node: int) -> tuple[Tensor, Tensor]:
        """What node reads from its slot: (T, B, P) each."""
        members = call.members(call.wiring.slot_of[node])
        place = members.index(node)
        if place == 0:
            last = members[-1]
            return self.h[last][: self.steps], self.c[last][: self.steps]
        return self.new(members[place - 1])

    def new(self, node: int) -> tuple[Tensor, Tensor]:
        return self.h[node][self.front[node] :], self.c[node][self.front[node] :]


def fronts(call: Call, kept: bool) -> list[int]:
    """How many steps lie in front of the window in each node's states."""
    return [int(kept and call.members(slot)[-1] == node) for node, slot in enumerate(call.wiring.slot_of)]


def state_shapes(call: Call, kept: bool) -> list[tuple[int, ...]]:
    """Of every node's h, then of every node's c."""
    steps, found = call.steps if kept else 1, []
    for front, size in zip(fronts(call, kept), call.padded, strict=True):
        found.append((steps + front, call.rows, size))
    return [*found, *found]


def gate_shapes(call: Call, steps: int) -> list[tuple[int, ...]]:
    """Of every node's z, then of every node's stats, then of the inputs that are dropped out."""
    shapes: list[tuple[int, ...]] = [(steps, call.rows, 4 * size) for size in call.padded]
    shapes += [(steps, call.rows, STATS)] * len(shapes)
    return shapes + [(steps, call.rows, call.read[node]) for node in _readers(call)]


def _readers(call: Call) -> list[int]:
    return [node for node, size in enumerate(call.read) if size and call.drops]


class Gates:
    """z, stats and dropped of some steps."""

    def __init__(self, call: Call, tensors: Sequence[Tensor], owner: object = None) -> None:
        """tensors: those of `gate_shapes`; owner: whose life they share."""
        count = len(call.hidden)
        self._owner = owner
        self.z, self.stats = tensors[:count], tensors[count : 2 * count]
        self.dropped: list[Tensor | None] = [None] * count
        for node, tensor in zip(_readers(call), tensors[2 * count :], strict=True):
            self.dropped[node] = tensor

    @classmethod
    def leased(cls, call: Call, steps: int) -> Gates:
        lease = Lease(gate_shapes(call, steps), call.dtype)
        return cls(call, lease.tensors, lease)

    def part(self, z: Sequence[Tensor], first: int, last: int) -> Gates:
        """The steps first .. last - 1, with z elsewhere."""
        found = object.__new__(Gates)
        found._owner, found.z = self, z
        found.stats = [tensor[first:last] for tensor in self.stats]
        found.dropped = [None if tensor is None else tensor[first:last] for tensor in self.dropped]
        return found


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
            node.undropped, node.undropped_ld = self.memory.new(source)[0].data_ptr(), call.padded[source]
            node.undropped_step = _step(self.memory.new(source)[0], self.moving)

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
