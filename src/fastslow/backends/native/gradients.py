"""The gradients of the weights, after the loop over time: one large product per matrix, one sum per vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastslow.backends.native.arguments import Gates, Memory, matrix_rows
from fastslow.backends.native.call import Call, compiled
from fastslow.backends.native.library import OuterArgs
from fastslow.backends.native.memory import Lease
from fastslow.wiring import FROM_INPUT, NO_INPUT

SIDE = 32
"""In bfloat16, the sizes of the matrix gradients are rounded up to a multiple of this."""
OUTER_BAND = 256
"""Number of gradient columns packed at a time in bfloat16 (BAND vectors in csrc/bf16.h)."""
OUTER_ROWS = 256
"""Number of rows packed at a time,"""
OUTER_CACHE = 1_600_000
"""or as many as leave this many bytes of a core's cache for a chunk of rows of both factors."""


@dataclass
class Wanted:
    """Which gradients are wanted: of x, of the states, of each field of each node's weights."""

    x: bool
    state: bool
    weights: list[list[bool]]


def matrix_gradients(
    call: Call,
    x: Tensor,
    memory: Memory,
    gates: Gates,
    first: int,
    wanted: Wanted,
    found: list[dict[str, Tensor]],
    steps: int | None = None,
) -> None:
    """Add steps first .. first + steps - 1, whose gradients are in `gates`, to the gradients of w_x and w_h."""
    steps = call.steps if steps is None else steps
    window = slice(first, first + steps)
    for n, source in enumerate(call.wiring.sources):
        kind, hidden, padded = call.kinds[n], call.hidden[n], call.padded[n]
        dz = gates.z[n][:steps].flatten(0, 1)
        factors: dict[str, Tensor] = {}
        if wanted.weights[n][0] and source != NO_INPUT:
            read = gates.dropped[n]
            if read is None:
                read = (x if source == FROM_INPUT else memory.output(call, source))[window]
            else:
                read = read[:steps]
            factors["w_x"] = read.flatten(0, 1)[:, : call.read[n]]
        if wanted.weights[n][1]:
            factors["w_h"] = memory.old(call, n)[0][window].flatten(0, 1)[:, : call.hidden[n]]
        together = [factors] if kind.joint else [{name: factor} for name, factor in factors.items()]
        for its in together:
            if not its:
                continue
            first_block, rows = matrix_rows(kind.rows(next(iter(its))))
            of_blocks = dz[:, first_block * padded : (first_block + len(rows)) * padded]
            if call.parts:
                _add_tiled_products(call, found[n], its, of_blocks, hidden, rows)
            else:
                for name, factor in its.items():
                    _add_product(found[n], name, of_blocks, factor, hidden, rows)


def _add_product(
    found: dict[str, Tensor], name: str, dz: Tensor, read: Tensor, hidden: int, rows: Sequence[int]
) -> None:
    """found[name] (blocks H, K) += dz (N, blocks P)^T read (N, K), without the pads; block i of dz is block rows[i]."""
    blocks = len(rows)
    padded = dz.shape[1] // blocks
    if padded == hidden and list(rows) == list(range(blocks)):
        found[name] = torch.addmm(found[name], dz.t(), read) if name in found else torch.mm(dz.t(), read)
        return
    if name not in found:
        found[name] = dz.new_zeros((blocks * hidden, read.shape[1]))
    for q, row in enumerate(rows):
        found[name][row * hidden : (row + 1) * hidden].addmm_(dz[:, q * padded : q * padded + hidden].t(), read)


def _add_tiled_products(
    call: Call, found: dict[str, Tensor], factors: dict[str, Tensor], dz: Tensor, hidden: int, to: Sequence[int]
) -> None:
    """`_add_product` of one or two factors in bfloat16, in one call."""
    reads = list(factors.values())
    add = next(iter(factors)) in found
    blocks = len(to)
    for name, read in factors.items():
        if not add:
            found[name] = dz.new_empty((blocks * hidden, read.shape[1]))
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
        padded=columns // blocks,
        ldb=dz.stride(0),
        blocks=blocks,
        parts=call.parts,
        tiles=call.tiles,
        threads=call.threads,
        chunk=chunk,
        add=add,
        b=dz.data_ptr(),
        sums=sums.data_ptr(),
        scratch=own.data_ptr(),
        scratch_size=own.stride(0),
    )
    args.to[:blocks] = to
    for i, (name, read) in enumerate(factors.items()):
        args.m[i], args.lda[i], args.a[i], args.out[i] = (
            read.shape[1],
            read.stride(0),
            read.data_ptr(),
            found[name].data_ptr(),
        )
    compiled().outer(args)


def vector_gradients(call: Call, node: int, sums: Tensor) -> dict[str, Tensor]:
    """The gradients of a node's vectors, from the threads' padded sums (threads, vector_blocks P)."""
    kind, hidden, padded = call.kinds[node], call.hidden[node], call.padded[node]
    total = sums.sum(0).view(kind.vector_blocks, padded)[:, :hidden]
    found = {}
    for field, places in kind.vectors.items():
        in_order = places == tuple(range(places[0], places[0] + len(places)))
        part = total[places[0] : places[0] + len(places)] if in_order else total[list(places)]
        # Two fields with the same place have equal gradients, which must not share memory.
        found[field] = part.clone().reshape(-1)
    return found
