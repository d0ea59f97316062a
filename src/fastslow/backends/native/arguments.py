"""A window's memory, and the structures that pass it to the compiled library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastslow.backends.native.call import TILE_DEPTH, TILE_SIDE, Call
from fastslow.backends.native.library import NodeArgs, StepNodeArgs, WindowArgs
from fastslow.backends.native.memory import Lease
from fastslow.cells.kind import Kind
from fastslow.noise import dropout_threshold, zoneout_threshold
from fastslow.wiring import FROM_INPUT

STATS = 8
SCRATCH = 40


class Memory:
    """The memory that a window saves in forward for its backward.

    h[n], c[n]: (T, B, P) new states of node n; the last node of a slot has one more step in front, the initial state;
    c is (., B, 0) for a cell without one. emitted[n]: (T, B, P) a second copy of h where `Call.emits`, else (0, B, P).
    gates: z[n] (T, B, blocks P), stats[n] (T, B, 8), dropped[n] (T, B, inputs) or None. If nothing is saved, all of
    them have one step, which every step reuses, and no initial state in front.
    """

    def __init__(
        self, call: Call, states: Sequence[Tensor], gates: Gates | None, *, kept: bool, owner: object = None
    ) -> None:
        """states: the tensors of `state_shapes`; owner: the object that keeps them alive."""
        self.kept, self._owner = kept, owner
        self.steps = call.steps if kept else 1
        self.front = fronts(call, kept)
        count = len(call.hidden)
        self.h, self.c, self.emitted = (states[i * count : (i + 1) * count] for i in range(3))
        self.gates = gates

    @classmethod
    def leased(cls, call: Call) -> Memory:
        """The memory of a window without gradients."""
        lease = Lease(state_shapes(call, False), call.dtype)
        return cls(call, lease.tensors, Gates.leased(call, 1), kept=False, owner=lease)

    def old(self, call: Call, node: int) -> tuple[Tensor, Tensor]:
        """The states h and c that the node reads from its slot: (T, B, P) each."""
        members = call.members(call.wiring.slot_of[node])
        place = members.index(node)
        if place == 0:
            last = members[-1]
            return self.h[last][: self.steps], self.c[last][: self.steps]
        return self.new(members[place - 1])

    def output(self, call: Call, node: int) -> Tensor:
        """The h that other nodes read from this one: (T, B, P)."""
        return self.emitted[node] if call.emits(node) else self.new(node)[0]

    def new(self, node: int) -> tuple[Tensor, Tensor]:
        return self.h[node][self.front[node] :], self.c[node][self.front[node] :]


def fronts(call: Call, kept: bool) -> list[int]:
    """The number of steps in front of the window in each node's states."""
    return [int(kept and call.members(slot)[-1] == node) for node, slot in enumerate(call.wiring.slot_of)]


def state_shapes(call: Call, kept: bool) -> list[tuple[int, ...]]:
    """The shapes of every node's h, then of every node's c, then of every node's second copy of h."""
    steps = call.steps if kept else 1
    h: list[tuple[int, ...]] = []
    c: list[tuple[int, ...]] = []
    emitted: list[tuple[int, ...]] = []
    for n, (front, size) in enumerate(zip(fronts(call, kept), call.padded, strict=True)):
        h.append((steps + front, call.rows, size))
        c.append((steps + front, call.rows, size if "c" in call.kinds[n].letters else 0))
        emitted.append((steps if call.emits(n) else 0, call.rows, size))
    return [*h, *c, *emitted]


def gate_shapes(call: Call, steps: int) -> list[tuple[int, ...]]:
    """The shapes of every node's z, then of every node's stats, then of the inputs that are dropped out."""
    shapes: list[tuple[int, ...]] = [(steps, call.rows, size) for size in call.blocks]
    shapes += [(steps, call.rows, STATS)] * len(shapes)
    return shapes + [(steps, call.rows, call.read[node]) for node in _readers(call)]


def _readers(call: Call) -> list[int]:
    return [node for node, size in enumerate(call.read) if size and call.drops]


class Gates:
    """z, stats and dropped for a range of steps."""

    def __init__(self, call: Call, tensors: Sequence[Tensor], owner: object = None) -> None:
        """tensors: those of `gate_shapes`; owner: the object that keeps them alive."""
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
        """The steps first .. last - 1, with other tensors for z."""
        found = object.__new__(Gates)
        found._owner, found.z = self, z
        found.stats = [tensor[first:last] for tensor in self.stats]
        found.dropped = [None if tensor is None else tensor[first:last] for tensor in self.dropped]
        return found


def _step(tensor: Tensor, moving: bool) -> int:
    return tensor.stride(0) if moving else 0


def _address(tensor: Tensor) -> int | None:
    return tensor.data_ptr() if tensor.numel() else None


def place_vectors(args: NodeArgs | StepNodeArgs, kind: Kind, weights: Any) -> None:
    """Set the addresses of a node's vectors and the place of each of their blocks."""
    for v, (field, places) in enumerate(kind.vectors.items()):
        given = getattr(weights, field)
        args.parameters[v] = None if given is None else given.data_ptr()
        args.places[v][:] = [*places, *[-1] * (4 - len(places))]
    args.vector_blocks = kind.vector_blocks


def matrix_rows(rows: Sequence[int]) -> tuple[int, list[int]]:
    """The first block of z that a matrix contributes to, and for each such block the block of rows that computes it."""
    first = min(rows)
    return first, [rows.index(first + block) for block in range(len(rows))]


class Product(NamedTuple):
    """One product of a node, with both its matrices or one of them: the depths it sums over and its columns."""

    node: int
    suffix: str
    depths: tuple[int, ...]
    columns: int


class Arguments:
    """The structures of one call, and the objects that keep their memory alive."""

    def __init__(self, call: Call, weights: Sequence[Any], x: Tensor, memory: Memory, first: int = 0) -> None:
        """first: the step at which the stored gates begin."""
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

    def _node(self, n: int, w: Any) -> None:
        call, node, source = self.call, self.nodes[n], self.call.wiring.sources[n]
        node.hidden, node.padded = call.hidden[n], call.padded[n]
        node.inputs, node.padded_inputs = call.read[n], call.pad(call.read[n])
        kind = call.kinds[n]
        node.slot, node.source, node.norm = call.wiring.slot_of[n], source, call.norms[n]
        node.code, node.blocks = kind.code, kind.blocks
        node.forget_bias = call.rates.forget_bias if kind.forget_bias else 0.0
        node.x_first, x_rows = matrix_rows(kind.rows_x)
        node.h_first, h_rows = matrix_rows(kind.rows_h)
        node.x_blocks, node.h_blocks = len(x_rows), len(h_rows)
        node.x_rows[: len(x_rows)], node.h_rows[: len(h_rows)] = x_rows, h_rows
        node.w_x, node.w_h = None if w.w_x is None else w.w_x.data_ptr(), w.w_h.data_ptr()
        place_vectors(node, kind, w)
        old, new = self.memory.old(call, n), self.memory.new(n)
        node.h_old, node.c_old = map(_address, old)
        node.h_new, node.c_new = map(_address, new)
        node.old_step, node.new_step = _step(old[0], self.moving), _step(new[0], self.moving)
        if source == FROM_INPUT:
            node.undropped, node.undropped_step, node.undropped_ld = self.x.data_ptr(), self.x.stride(0), call.inputs
        elif source >= 0:
            read = self.memory.output(call, source)
            node.undropped, node.undropped_ld = read.data_ptr(), call.padded[source]
            node.undropped_step = _step(read, self.moving)
        if call.emits(n):
            kept = self.memory.emitted[n]
            node.emitted, node.emitted_step = kept.data_ptr(), _step(kept, self.moving)

    def set_gates(self, gates: Gates, first: int) -> None:
        """Use z, stats and dropped from `gates`, whose first step is step `first` of the window."""

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
        products = []
        for n, (kind, padded) in enumerate(zip(call.kinds, call.padded, strict=True)):
            read, hidden = call.read[n], call.hidden[n]
            if kind.joint:
                products.append(Product(n, "", (read, hidden), kind.blocks * padded))
            else:
                products.append(Product(n, "", (read,), len(kind.rows_x) * padded))
                products.append(Product(n, "_h", (hidden,), len(kind.rows_h) * padded))
        return self._scratch("forward", products)

    def backward_scratch(self, x_grad: bool) -> Lease:
        call = self.call
        adds: set[int] = set()
        for n in reversed(range(len(self.nodes))):
            node, source = self.nodes[n], call.wiring.sources[n]
            node.input_grad = source >= 0 or (source == FROM_INPUT and x_grad)
            node.input_adds = source in adds
            adds.add(source)
        products = []
        for n, (kind, node) in enumerate(zip(call.kinds, self.nodes, strict=True)):
            of_x = node.padded_inputs if node.input_grad else 0
            if kind.joint:
                products.append(Product(n, "", (kind.blocks * node.padded,), of_x + node.padded))
            else:
                products.append(Product(n, "", (len(kind.rows_x) * node.padded,), of_x))
                products.append(Product(n, "_h", (len(kind.rows_h) * node.padded,), node.padded))
        return self._scratch("backward", products)

    def _scratch(self, direction: str, products: Sequence[Product]) -> Lease:
        """Panels and tiles of every product, vectors of every node, and scratch per thread."""
        call, widest = self.call, max(self.call.padded)
        # bfloat16 elements, two of which take the place of one float32
        tiled = [sum(-(-k // TILE_DEPTH) * TILE_DEPTH for k in p.depths) * call.parts for p in products]
        group = -(-call.rows // call.groups)
        split = max(tiled) * -(-group // TILE_SIDE) * TILE_SIDE  # whole tiles, even for few rows
        shapes: list[tuple[int, ...]] = [(p.columns * sum(p.depths),) for p in products]
        shapes += [(p.columns * k // 2,) for p, k in zip(products, tiled, strict=True)]
        shapes += [(size,) for size in call.vectors]
        lease = Lease([*shapes, (call.threads, split // 2), (call.threads, SCRATCH * widest)], call.dtype)
        count = len(products)
        for p, panels, tiles in zip(products, lease.tensors, lease.tensors[count:], strict=False):
            setattr(self.nodes[p.node], f"{direction}_panels{p.suffix}", panels.data_ptr())
            setattr(self.nodes[p.node], f"{direction}_tiles{p.suffix}", tiles.data_ptr())
        for node, tensor in zip(self.nodes, lease.tensors[2 * count :], strict=False):
            node.vectors = tensor.data_ptr()
        self.window.parts, self.window.tiles = call.parts, call.tiles
        if split > self.window.split_size:  # a pass that recomputes forward needs the larger size of both
            self.window.split, self.window.split_size = lease.tensors[-2].data_ptr(), split
        self.window.scratch, self.window.scratch_size = lease.tensors[-1].data_ptr(), SCRATCH * widest
        return lease
