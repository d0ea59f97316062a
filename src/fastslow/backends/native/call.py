"""What is known of a window but its tensors: sizes, rates, threads, and how its products are made."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastslow.backends.base import Option, Rates
from fastslow.backends.native.library import Library, library
from fastslow.backends.program import Request
from fastslow.cells.kind import Kind
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring

TILES = "FASTSLOW_TILES"
"""Environment variable: 0 keeps products off the tile unit."""
TILE_DEPTH = 32
"""Sums on the tile unit are padded to a multiple of this."""
TILE_SIDE = 16
"""Rows of a tile."""
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
    kinds: tuple[Kind, ...]
    """The cell of each node."""
    norms: tuple[bool, ...]
    dtype: torch.dtype
    key: int | None
    """The noise's key as an unsigned number; None: no masks, zoneout's expectation."""
    first_step: int
    first_row: int
    lengths: Tensor | None
    resets: Tensor | None
    threads: int
    groups: int
    lanes: int
    """Numbers in a vector."""
    saving: Saving
    parts: int
    """bfloat16 numbers a float32 is taken for in products on the processor's tile unit; 0: products do without it."""

    def pad(self, size: int) -> int:
        return -(-size // self.lanes) * self.lanes

    @functools.cached_property
    def padded(self) -> tuple[int, ...]:
        return tuple(self.pad(size) for size in self.hidden)

    @functools.cached_property
    def drops(self) -> bool:
        return self.key is not None and self.rates.dropout > 0

    @functools.cached_property
    def blocks(self) -> tuple[int, ...]:
        """Numbers in a row of each node's z."""
        return tuple(kind.blocks * size for kind, size in zip(self.kinds, self.padded, strict=True))

    @functools.cached_property
    def vectors(self) -> tuple[int, ...]:
        """Numbers in each node's vectors, padded."""
        return tuple(kind.vector_blocks * size for kind, size in zip(self.kinds, self.padded, strict=True))

    def letters(self, slot: int) -> tuple[str, ...]:
        """What the tensors of a slot's state are called."""
        return self.kinds[self.wiring.slot_of.index(slot)].letters

    def emits(self, node: int) -> bool:
        """Whether other nodes read h of this one, which the next step may clear in rows that start anew."""
        last = self.members(self.wiring.slot_of[node])[-1]
        return self.resets is not None and last == node and node in self.wiring.sources

    def members(self, slot: int) -> tuple[int, ...]:
        """The nodes of a slot, in order."""
        return self._members[slot]

    @functools.cached_property
    def _members(self) -> tuple[tuple[int, ...], ...]:
        slot_of = self.wiring.slot_of
        return tuple(
            tuple(node for node, its in enumerate(slot_of) if its == slot) for slot in range(len(self.wiring.slots))
        )

    def readers(self, node: int) -> list[int]:
        return [reader for reader, source in enumerate(self.wiring.sources) if source == node]


def outline(request: Request) -> Call:
    """What sizes of memory depend on: all but threads and how products are made. The window's sizes may be symbols."""
    x, wiring, noise, rates = request.x, request.wiring, request.noise, request.rates
    hidden = request.hidden
    return Call(
        wiring=wiring,
        rates=rates,
        rows=x.shape[1],
        steps=x.shape[0],
        inputs=x.shape[2],
        hidden=hidden,
        read=tuple(
            0 if source == NO_INPUT else x.shape[2] if source == FROM_INPUT else hidden[source]
            for source in wiring.sources
        ),
        kinds=request.program.flat.nodes,
        norms=tuple(w.layer_norm for w in request.weights),
        dtype=x.dtype,
        key=None if noise is None else 0,
        first_step=0 if noise is None else noise.first_step,
        first_row=0 if noise is None else noise.first_row,
        lengths=None,
        resets=request.resets,
        threads=1,
        groups=1,
        lanes=compiled().vector_bytes // x.dtype.itemsize,
        saving=request.program.options["saving"],
        parts=0,
    )


def describe(request: Request) -> Call:
    found, weights, lengths, noise = outline(request), request.weights, request.lengths, request.noise
    resets = request.resets
    factors = parts(found.dtype, found.rows, request.program.options["precision"])
    threads, groups = deal(weights, found.rows, found.steps, torch.get_num_threads(), factors)
    return replace(
        found,
        key=None if noise is None else int(noise.key) % 2**64,
        lengths=None if lengths is None else lengths.to("cpu", torch.int64).contiguous(),
        resets=None if resets is None else resets.to("cpu", torch.bool).contiguous(),
        threads=threads,
        groups=groups,
        parts=factors,
    )


def options(device: str = "cpu") -> tuple[tuple[str, Option], ...]:
    """What a window that starts now saves, and how exact its products are: see `parts`."""
    precision = "medium" if torch.is_autocast_enabled("cpu") else torch.get_float32_matmul_precision()
    return ("saving", _saving.get()), ("precision", precision)


def parts(dtype: torch.dtype, rows: int, precision: str) -> int:
    """`Call.parts` for a window of `rows` rows, where the processor has a tile unit.

    precision: "highest", "high" or "medium", as `torch.set_float32_matmul_precision` takes it; autocast to bfloat16
    asks for "medium". (Without the unit bfloat16 would be no faster than float32, so products stay in float32.) The
    number of threads has no part in it, so that results do not depend on it.
    """
    if dtype != torch.float32 or rows < TILE_ROWS or not compiled().tiles or os.environ.get(TILES, "") == "0":
        return 0
    return {"highest": 3, "high": 2, "medium": 1}[precision]


def deal(weights: Sequence[Any], rows: int, steps: int, threads: int, parts: int) -> tuple[int, int]:
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


def tiled(weights: Any) -> int:
    """How many numbers a cell's matrices are once they are laid out in tiles: 16 columns a block, 32 rows."""
    hidden = weights.hidden_size
    side = -(-hidden // TILE_SIDE) * TILE_SIDE
    return sum(
        matrix.shape[0] // hidden * side * -(-matrix.shape[1] // TILE_DEPTH) * TILE_DEPTH
        for matrix in (weights.w_h, weights.w_x)
        if matrix is not None
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
