"""The properties of a window other than its tensors: sizes, rates, threads and the kind of products."""

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
"""Environment variable: 0 disables the tile unit."""
TILE_DEPTH = 32
"""Sums in bfloat16 are padded to a multiple of this."""
TILE_SIDE = 16
"""Rows of a tile."""
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
"""The size of the L2 cache on Linux, for example 2048K."""
TILE_ROWS = 4
"""A window of fewer rows has products of float32: packing its weights for others would cost more than it saves."""

Saving = Literal["all", "states"]
_saving: ContextVar[Saving] = ContextVar("saving", default="all")


@contextlib.contextmanager
def saving(what: Saving) -> Iterator[None]:
    """Choose what windows in this context save for backward.

    "all": everything that backward needs. "states": a fourth to a third of that memory, for about a third more time per
    training step.
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
    """All properties of a window other than its tensors."""

    wiring: Wiring
    rates: Rates
    rows: int
    steps: int
    inputs: int
    hidden: tuple[int, ...]
    """H of each node."""
    read: tuple[int, ...]
    """The input size of each node, 0 without input."""
    kinds: tuple[Kind, ...]
    """The cell of each node."""
    norms: tuple[bool, ...]
    dtype: torch.dtype
    key: int | None
    """The noise key as an unsigned integer; None: no masks, and zoneout in expectation."""
    first_step: int
    first_row: int
    lengths: Tensor | None
    resets: Tensor | None
    threads: int
    groups: int
    lanes: int
    """Elements per SIMD vector."""
    saving: Saving
    parts: int
    """The number of bfloat16 parts of a float32 in products; 0: products of float32."""
    tiles: bool
    """With parts: products run on the tile unit, not as dot products."""

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
        """Elements in a row of each node's z."""
        return tuple(kind.blocks * size for kind, size in zip(self.kinds, self.padded, strict=True))

    @functools.cached_property
    def vectors(self) -> tuple[int, ...]:
        """Elements in each node's vectors, padded."""
        return tuple(kind.vector_blocks * size for kind, size in zip(self.kinds, self.padded, strict=True))

    def letters(self, slot: int) -> tuple[str, ...]:
        """The names of the tensors of a slot's state."""
        return self.kinds[self.wiring.slot_of.index(slot)].letters

    def emits(self, node: int) -> bool:
        """Whether other nodes read this node's h, which the next step may set to zero in rows that are reset."""
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
    """The properties that memory sizes depend on: all but threads and products. The window's sizes may be symbolic."""
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
        tiles=False,
    )


def describe(request: Request) -> Call:
    found, weights, lengths, noise = outline(request), request.weights, request.lengths, request.noise
    resets = request.resets
    factors, tiles = products(found.dtype, found.rows, request.program.options["precision"])
    threads, groups = split_threads(weights, found.rows, found.steps, torch.get_num_threads(), factors)
    return replace(
        found,
        key=None if noise is None else int(noise.key) % 2**64,
        lengths=None if lengths is None else lengths.to("cpu", torch.int64).contiguous(),
        resets=None if resets is None else resets.to("cpu", torch.bool).contiguous(),
        threads=threads,
        groups=groups,
        parts=factors,
        tiles=tiles,
    )


def options(device: str = "cpu") -> tuple[tuple[str, Option], ...]:
    """What a window started now saves, and the precision of its products; see `products`."""
    precision = "medium" if torch.is_autocast_enabled("cpu") else torch.get_float32_matmul_precision()
    return ("saving", _saving.get()), ("precision", precision)


def products(dtype: torch.dtype, rows: int, precision: str) -> tuple[int, bool]:
    """`Call.parts` and `Call.tiles` for a window of `rows` rows.

    precision: "highest", "high" or "medium", as for `torch.set_float32_matmul_precision`; autocast to bfloat16 means
    "medium". A processor with dot products of bfloat16 but no tile unit uses them for "medium" only: two parts would be
    slower than float32. The result does not depend on the number of threads, so neither do the results of a window.
    """
    found = compiled()
    if dtype != torch.float32 or rows < TILE_ROWS or not found.dots:
        return 0, False
    if found.tiles and os.environ.get(TILES, "") != "0":
        return {"highest": 3, "high": 2, "medium": 1}[precision], True
    return int(precision == "medium"), False


def split_threads(weights: Sequence[Any], rows: int, steps: int, threads: int, parts: int) -> tuple[int, int]:
    """(threads, groups): the number of threads for a window, and the number of row blocks that it is split into.

    Every block reads every weight at every step: blocks of few rows are faster while the weights fit in a core's own
    cache. If they do not, the tile unit waits for weights unless a block has many rows, so it is better if several
    threads share one block and each reads a part of the weights. Threads only share a block if a product takes long
    compared with the barrier after it, and a second thread is only woken for a window that takes long compared with
    that.

    parts: as in `Call`. The thresholds below were measured on two cores.
    """
    elements = sum(w.w_h.numel() + (0 if w.w_x is None else w.w_x.numel()) for w in weights)
    if elements * rows * steps < 1 << 20:
        return 1, 1
    if parts and 2 * parts * sum(map(tiled, weights)) > 0.85 * own_cache():
        fewest = 32 if parts == 1 else 64
    else:
        fewest = 2 if elements <= 1 << 19 else 8
    groups = max(1, min(threads, rows // fewest))
    shared = elements * rows // (groups * len(weights) << 18)
    return groups * max(1, min(threads // groups, shared)), groups


def tiled(weights: Any) -> int:
    """The number of elements of a cell's matrices in tile layout: blocks padded to 16 columns, rows to 32."""
    hidden = weights.hidden_size
    side = -(-hidden // TILE_SIDE) * TILE_SIDE
    return sum(
        matrix.shape[0] // hidden * side * -(-matrix.shape[1] // TILE_DEPTH) * TILE_DEPTH
        for matrix in (weights.w_h, weights.w_x)
        if matrix is not None
    )


@functools.cache
def own_cache() -> int:
    """Bytes of a core's L2 cache; 1 MiB if the system does not report it."""
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
