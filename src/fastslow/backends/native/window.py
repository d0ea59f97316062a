"""One window in the compiled library: its memory, its arguments, and its gradients.

The loop over time runs in C++, forward and backward; the gradients of the weight matrices follow here as one large
product each. Saved for the backward: a node's states, its normalised gates (which the backward overwrites with the
gradients of the products), and its input after dropout. With `saving("states")` only the states are saved and the
backward computes the rest again, some steps at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastslow.backends.base import Rates, States
from fastslow.backends.native.library import Library, NodeArgs, OuterArgs, WindowArgs, library
from fastslow.backends.native.memory import Lease
from fastslow.backends.native.steps import Steps, contiguous, streams
from fastslow.backends.once import once
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise, dropout_threshold, zoneout_threshold
from fastslow.state import LSTMState
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

VECTORS = 14
"""A cell's vectors, padded: bias, gate gain and gate shift of 4 gates each, cell gain, cell shift."""
STATS = 8
SCRATCH = 40
FIELDS = len(CellWeights._fields)
CHUNKS = 8
"""With saved states only, the backward computes an eighth of the window again at a time."""

TILES = "FASTSLOW_TILES"
"""Environment variable: 0 keeps products off the tile unit."""
TILE_DEPTH = 32
"""Sums on the tile unit are padded to a multiple of this."""
TILE_SIDE = 16
"""Rows of a tile."""
SIDE = 32
"""Sizes that the gradients of the matrices are rounded up to on the tile unit,"""
OUTER_BAND = 256
"""columns of the gradients are packed there at a time (BAND vectors in csrc/amx.h),"""
OUTER_ROWS = 256
"""so many rows at a time,"""
OUTER_CACHE = 1_600_000
"""or what leaves a chunk of rows of both factors, in parts, so many bytes of a core's cache."""
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
"""Linux tells the second-level cache here, as in 2048K."""
TILE_ROWS = 4
"""A window of fewer rows does without the tile unit, which would read more for a weight than it saves."""

Saving = Literal["all", "states"]
_saving: ContextVar[Saving] = ContextVar("saving", default="all")


@contextlib.contextmanager
def saving(what: Saving) -> Iterator[None]:
    """What windows run in here save for their backward.

    "all": everything it needs. "states": a fourth to a third of that, for about a third more time a training step.
    """
    if what not in ("all", "states"):
        raise ValueError(f"saving takes 'all' or 'states'; got {what!r}")
    token = _saving.set(what)
    try:
        yield
    finally:
        _saving.reset(token)


@dataclass(frozen=True)
class Call:
    """Everything about a window but its tensors."""

    wiring: Wiring
    rates: Rates
    rows: int
    steps: int
    inputs: int
    hidden: tuple[int, ...]
    """H of each node."""
    read: tuple[int, ...]
    """Size of what each node reads, 0 if nothing."""
    norm: bool
    dtype: torch.dtype
    key: int | None
    """The noise's key as an unsigned number; None: no masks, zoneout's expectation."""
    first_step: int
    first_row: int
    lengths: Tensor | None
    threads: int
    groups: int
    lanes: int
    """Numbers in a vector."""
    saving: Saving
    parts: int
    """bfloat16 numbers a float32 is taken for in products on the processor's tile unit; 0: products do without it."""

    def pad(self, size: int) -> int:
        return -(-size // self.lanes) * self.lanes

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(self.pad(size) for size in self.hidden)

    @property
    def drops(self) -> bool:
        return self.key is not None and self.rates.dropout > 0

    def members(self, slot: int) -> list[int]:
        """The nodes of a slot, in order."""
        return [node for node, its in enumerate(self.wiring.slot_of) if its == slot]

    def readers(self, node: int) -> list[int]:
        return [reader for reader, source in enumerate(self.wiring.sources) if source == node]


def describe(
    wiring: Wiring,
    weights: Sequence[CellWeights],
    x: Tensor,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None,
) -> Call:
    steps, rows, inputs = x.shape
    hidden = tuple(w.hidden_size for w in weights)
    factors = parts(x.dtype, rows)
    threads, groups = deal(weights, rows, steps, torch.get_num_threads(), factors)
    return Call(
        wiring=wiring,
        rates=rates,
        rows=rows,
        steps=steps,
        inputs=inputs,
        hidden=hidden,
        read=tuple(
            0 if source == NO_INPUT else inputs if source == FROM_INPUT else hidden[source] for source in wiring.sources
        ),
        norm=weights[0].layer_norm,
        dtype=x.dtype,
        key=None if noise is None else int(noise.key) % 2**64,
        first_step=0 if noise is None else noise.first_step,
        first_row=0 if noise is None else noise.first_row,
        lengths=None if lengths is None else lengths.to("cpu", torch.int64).contiguous(),
        threads=threads,
        groups=groups,
        lanes=compiled().vector_bytes // x.dtype.itemsize,
        saving=_saving.get(),
        parts=factors,
    )


def parts(dtype: torch.dtype, rows: int) -> int:
    """`Call.parts` for a window of `rows` rows, where the processor has a tile unit.

    What `torch.set_float32_matmul_precision` asks for, or 1 under autocast to bfloat16. (Without the unit bfloat16
    would be no faster than float32, so products stay in float32.) The number of threads has no part in it, so that
    results do not depend on it.
    """
    if dtype != torch.float32 or rows < TILE_ROWS or not compiled().tiles or os.environ.get(TILES, "") == "0":
        return 0
    if torch.is_autocast_enabled("cpu"):
        return 1
    return {"highest": 3, "high": 2, "medium": 1}[torch.get_float32_matmul_precision()]


def deal(weights: Sequence[CellWeights], rows: int, steps: int, threads: int, parts: int) -> tuple[int, int]:
    """(threads, groups): how many threads a window gets, and into how many blocks of rows it falls.

    Every block reads every weight at every step: blocks of few rows pay where the weights lie in a core's own cache.
    Where they do not, a tile unit waits for weights unless a block has many rows, so that its threads had better share
    one, and read a part of the weights each. Several threads share a block only where a product is long beside the
    barrier that follows it, and a second thread is woken only for a window that is long beside that.

    parts: as in `Call`. The sizes below are those at which sharing began to pay on two cores.
    """
    numbers = sum(w.w_h.numel() + (0 if w.w_x is None else w.w_x.numel()) for w in weights)
    if numbers * rows * steps < 1 << 20:
        return 1, 1
    if parts and 2 * parts * sum(map(tiled, weights)) > 0.85 * own_cache():
        fewest = 32 if parts == 1 else 64
    else:
        fewest = 2 if numbers <= 1 << 19 else 8
    groups = max(1, min(threads, rows // fewest))
    shared = numbers * rows // (groups * len(weights) << 18)
    return groups * max(1, min(threads // groups, shared)), groups


def tiled(weights: CellWeights) -> int:
    """How many numbers a cell's matrices are once they are laid out in tiles: 16 columns a gate, 32 rows."""
    depths = [matrix.shape[1] for matrix in (weights.w_h, weights.w_x) if matrix is not None]
    return (
        4
        * TILE_SIDE
        * -(-weights.hidden_size // TILE_SIDE)
        * TILE_DEPTH
        * sum(-(-depth // TILE_DEPTH) for depth in depths)
    )


@functools.cache
def own_cache() -> int:
    """Bytes of a core's second-level cache; 1 MiB where the system does not say."""
    try:
        told = CACHE.read_text().strip()
        return int(told.removesuffix("K")) << 10
    except (OSError, ValueError):
        return 1 << 20


def compiled() -> Library:
    found = library()
    if isinstance(found, str):
        raise RuntimeError(f"the native engine cannot run: {found}")
    return found


# ---------------------------------------------------------------------- memory


class Memory:
    """What a window keeps from its forward to its backward.

    h[n], c[n]: (T, B, P) new states of node n; the last node of a slot has one step more, the initial state, in front.
    z[n] (T, B, 4P), stats[n] (T, B, 8), dropped[n] (T, B, inputs) or None. Not kept: all of them for one step only,
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
        self._states = Lease([*states, *states], call.dtype)
        self.h, self.c = self._states.tensors[: len(nodes)], self._states.tensors[len(nodes) :]
        self.gates = Gates(call, self.gate_steps) if self.gate_steps else None

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


# ---------------------------------------------------------------------- forward and backward


def run_forward(
    call: Call, weights: Sequence[CellWeights], x: Tensor, state: States, *, kept: bool
) -> tuple[Tensor, list[Tensor], Memory]:
    """y, the final h and c of every slot in turn, and the window's memory."""
    saves = kept and call.saving == "states"
    memory = Memory(call, kept=kept, gates=1 if saves else None)
    args = Arguments(call, weights, x, memory)
    if saves:
        for node in args.nodes:  # one step's worth, used again at every step
            node.z_step = node.stats_step = 0
            if node.dropped:
                node.read_step = 0
    for slot, pair in enumerate(state):
        last = call.members(slot)[-1]
        for old, given in zip((memory.h[last], memory.c[last]), pair, strict=True):
            old[0, :, : given.shape[1]] = given.detach()
            old[0, :, given.shape[1] :] = 0
    y = x.new_empty((call.steps, call.rows, call.hidden[call.wiring.output_index]))
    args.window.y = y.data_ptr()
    scratch = args.forward_scratch()
    args.run(compiled().forward[call.dtype], 0, call.steps, prepare=True)
    del scratch
    final = []
    for slot in range(len(state)):
        last = call.members(slot)[-1]
        final += [part[-1, :, : call.hidden[last]].clone() for part in memory.new(last)]
    if saves:
        memory.gates = None
    return y, final, memory


@dataclass
class Wanted:
    """Which gradients are asked for: of x, of the states, of each field of each node's weights."""

    x: bool
    state: bool
    weights: list[list[bool]]


def run_backward(
    call: Call,
    weights: Sequence[CellWeights],
    x: Tensor,
    memory: Memory,
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    wanted: Wanted,
) -> tuple[Tensor | None, list[Tensor | None], list[list[Tensor | None]]]:
    """The gradients of x, of the initial h and c of every slot in turn, of each field of each node's weights.

    Overwrites the memory's gates with gradients, and takes them from it: a second backward computes them again.
    """
    gates, memory.gates = memory.gates, None
    args = Arguments(call, weights, x, memory)
    count = len(call.hidden)
    d_x = torch.empty_like(x) if wanted.x else None
    scratch = args.backward_scratch(wanted.x)
    slots = [call.padded[call.members(slot)[-1]] for slot in range(len(call.wiring.slots))]
    widest_input = max(call.pad(size) for size in call.read)
    held = Lease(
        [
            *((call.rows, size) for size in slots for _ in "hc"),
            *((call.rows, size) for size in call.padded),
            *((call.threads, VECTORS * size) for size in call.padded),
            (call.rows, widest_input),
        ],
        call.dtype,
    )
    d_states = held.tensors[: 2 * len(slots)]
    for tensor, given in zip(d_states, d_final, strict=True):
        tensor.zero_()
        if given is not None:
            tensor[:, : given.shape[1]] = given
    d_out = held.tensors[2 * len(slots) :][:count]
    sums = held.tensors[2 * len(slots) + count :][:count]
    for n, node in enumerate(args.nodes):
        node.d_out = d_out[n].data_ptr() if call.readers(n) else None
        node.d_parameters = sums[n].data_ptr()
    window = args.window
    window.gather, window.gather_ld = held.tensors[-1].data_ptr(), widest_input
    pointers = [(ctypes.c_void_p * len(slots))(*(t.data_ptr() for t in d_states[part::2])) for part in (0, 1)]
    window.d_h, window.d_c = pointers
    window.d_y, window.d_x = None if d_y is None else d_y.data_ptr(), None if d_x is None else d_x.data_ptr()

    backward = compiled().backward[call.dtype]
    matrices: list[dict[str, Tensor]] = [{} for _ in range(count)]
    if gates is not None:
        args.set_gates(gates, 0)
        args.run(backward, 0, call.steps, prepare=True)
        _matrix_gradients(call, x, memory, gates, 0, wanted, matrices)
    else:
        length = call.steps if call.saving == "all" else -(-call.steps // CHUNKS)
        gates = Gates(call, length)
        again = args.forward_scratch()
        for last in range(call.steps, 0, -length):
            first = max(0, last - length)
            args.set_gates(gates, first)
            prepare = last == call.steps
            args.run(compiled().forward[call.dtype], first, last, prepare=prepare, replay=True)
            args.run(backward, first, last, prepare=prepare)
            _matrix_gradients(call, x, memory, gates, first, wanted, matrices, last - first)
        del again
    del scratch

    d_weights: list[list[Tensor | None]] = []
    for n in range(count):
        found = {**matrices[n], **_vector_gradients(call, n, sums[n])}
        fields = zip(CellWeights._fields, wanted.weights[n], strict=True)
        d_weights.append([found.get(name) if want else None for name, want in fields])
    d_initial: list[Tensor | None] = [None] * len(d_states)
    if wanted.state:
        for i, tensor in enumerate(d_states):
            d_initial[i] = tensor[:, : call.hidden[call.members(i // 2)[-1]]].clone()
    return d_x, d_initial, d_weights


def _matrix_gradients(
    call: Call,
    x: Tensor,
    memory: Memory,
    gates: Gates,
    first: int,
    wanted: Wanted,
    found: list[dict[str, Tensor]],
    steps: int | None = None,
) -> None:
    """Add the steps first .. first + steps - 1, whose gradients are in `gates`, to the gradients of w_x and w_h."""
    steps = call.steps if steps is None else steps
    window = slice(first, first + steps)
    for n, source in enumerate(call.wiring.sources):
        dz = gates.z[n][:steps].flatten(0, 1)
        factors: dict[str, Tensor] = {}
        if wanted.weights[n][0] and source != NO_INPUT:
            read = gates.dropped[n]
            if read is None:
                read = (x if source == FROM_INPUT else memory.new(source)[0])[window]
            else:
                read = read[:steps]
            factors["w_x"] = read.flatten(0, 1)[:, : call.read[n]]
        if wanted.weights[n][1]:
            factors["w_h"] = memory.old(call, n)[0][window].flatten(0, 1)[:, : call.hidden[n]]
        if call.parts and factors:
            _add_tiled_products(call, found[n], factors, dz, call.hidden[n])
        else:
            for name, factor in factors.items():
                _add_product(found[n], name, dz, factor, call.hidden[n])


def _add_product(found: dict[str, Tensor], name: str, dz: Tensor, read: Tensor, hidden: int) -> None:
    """found[name] (4H, K) += dz (N, 4P)^T read (N, K), without the pads."""
    padded = dz.shape[1] // 4
    if padded == hidden:
        found[name] = torch.addmm(found[name], dz.t(), read) if name in found else torch.mm(dz.t(), read)
    else:
        if name not in found:
            found[name] = dz.new_zeros((4 * hidden, read.shape[1]))
        for q in range(4):
            found[name][q * hidden : (q + 1) * hidden].addmm_(dz[:, q * padded : q * padded + hidden].t(), read)


def _add_tiled_products(
    call: Call, found: dict[str, Tensor], factors: dict[str, Tensor], dz: Tensor, hidden: int
) -> None:
    """`_add_product` of one or two factors on the tile unit, at once."""
    add = bool(found)
    reads = list(factors.values())
    for name, read in factors.items():
        if not add:
            found[name] = dz.new_empty((4 * hidden, read.shape[1]))
    rows, columns = dz.shape
    size = sum(-(-read.shape[1] // SIDE) * SIDE for read in reads)
    row = 2 * call.parts * (size + OUTER_BAND)
    chunk = min(max(OUTER_CACHE // row // SIDE, 2), OUTER_ROWS // SIDE, -(-rows // SIDE)) * SIDE
    scratch = Lease([(size * -(-columns // SIDE) * SIDE * dz.itemsize,), (call.threads, chunk * row)], torch.uint8)
    sums, own = scratch.tensors
    args = OuterArgs(
        rows=rows,
        count=len(reads),
        hidden=hidden,
        padded=columns // 4,
        ldb=dz.stride(0),
        parts=call.parts,
        threads=call.threads,
        chunk=chunk,
        add=add,
        b=dz.data_ptr(),
        sums=sums.data_ptr(),
        scratch=own.data_ptr(),
        scratch_size=own.stride(0),
    )
    for i, (name, read) in enumerate(factors.items()):
        args.m[i], args.lda[i], args.a[i], args.out[i] = (
            read.shape[1],
            read.stride(0),
            read.data_ptr(),
            found[name].data_ptr(),
        )
    compiled().outer(args)


def _vector_gradients(call: Call, node: int, sums: Tensor) -> dict[str, Tensor]:
    """Of bias and norms, from the threads' padded sums (threads, 14 P)."""
    hidden, padded = call.hidden[node], call.padded[node]
    total = sums.sum(0).view(VECTORS, padded)[:, :hidden]
    parts = {"bias": (0, 4), "gate_gain": (4, 8), "gate_shift": (8, 12), "cell_gain": (12, 13), "cell_shift": (13, 14)}
    return {name: total[first:last].reshape(-1) for name, (first, last) in parts.items()}


# ---------------------------------------------------------------------- autograd


class WindowFunction(torch.autograd.Function):
    """(call, x, h and c of every slot, the fields of every node's weights) -> (y, final h and c of every slot)."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        state, weights = _unflatten(call, tensors)
        y, final, memory = run_forward(call, weights, x, state, kept=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *tensors[2 * len(state) :])
        ctx.call, ctx.memory = call, memory
        return y, *final

    @staticmethod
    @once("native")
    def backward(ctx: Any, d_y: Tensor | None, *d_final: Tensor | None) -> tuple[Any, ...]:
        call: Call = ctx.call
        x, *flat = ctx.saved_tensors
        states = 2 * len(call.wiring.slots)
        needs = ctx.needs_input_grad[1:]
        fields = needs[1 + states :]
        wanted = Wanted(
            needs[0],
            any(needs[1 : 1 + states]),
            [list(fields[i : i + FIELDS]) for i in range(0, len(fields), FIELDS)],
        )
        weights = [CellWeights(*flat[i : i + FIELDS]) for i in range(0, len(flat), FIELDS)]
        d_y = None if d_y is None else d_y.contiguous()
        d_x, d_initial, d_weights = run_backward(call, weights, x, ctx.memory, d_y, d_final, wanted)
        return None, d_x, *d_initial, *(grad for node in d_weights for grad in node)


def _unflatten(call: Call, tensors: Sequence[Any]) -> tuple[States, list[CellWeights]]:
    slots = len(call.wiring.slots)
    state = tuple(LSTMState(*tensors[i : i + 2]) for i in range(0, 2 * slots, 2))
    return state, [CellWeights(*tensors[i : i + FIELDS]) for i in range(2 * slots, len(tensors), FIELDS)]


def run_window(
    wiring: Wiring,
    weights: Sequence[CellWeights],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None,
) -> tuple[Tensor, States]:
    x = x.contiguous()
    weights = [contiguous(w) for w in weights]
    tensors = [*(part for pair in state for part in pair), *(part for w in weights for part in w)]
    grads = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors))
    if not grads and noise is None and lengths is None and streams(x.shape[1], x.shape[0]):
        return _run_streamed(wiring, weights, x, state, rates)
    call = describe(wiring, weights, x, noise, rates, lengths)
    if grads:
        y, *final = WindowFunction.apply(call, x, *tensors)  # type: ignore[no-untyped-call]
    else:
        y, final, _ = run_forward(replace(call, saving="all"), weights, x, state, kept=False)
    return y, tuple(LSTMState(*final[i : i + 2]) for i in range(0, len(final), 2))


def _run_streamed(
    wiring: Wiring, weights: Sequence[CellWeights], x: Tensor, state: States, rates: Rates
) -> tuple[Tensor, States]:
    steps, rows, inputs = x.shape
    call = Steps(wiring, weights, rates, rows, inputs)
    before = [part.contiguous() for pair in state for part in pair]
    after = [torch.empty_like(part) for part in before]
    y = x.new_empty((steps, rows, call.output_size))
    call(steps, x.data_ptr(), y.data_ptr(), [part.data_ptr() for part in before], [part.data_ptr() for part in after])
    return y, tuple(LSTMState(*after[i : i + 2]) for i in range(0, len(after), 2))
