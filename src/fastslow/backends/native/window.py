"""One window in the compiled library: its memory, its arguments, and its gradients.

The loop over time runs in C++, forward and backward; the gradients of the weight matrices follow as one large product
each. Forward saves each node's states, its normalised gates, and its input after dropout. With `saving("states")` only
the states are saved, and backward recomputes the rest, a few steps at a time.

The C++ code replaces normalised gates by the gradients of the products. If the saved tensors may be overwritten, this
happens in place, and a flag in the last saved tensor records it; a second backward pass then recomputes the gates. If
not, the gates are copied, a part at a time, so that the copy stays in the cache until it is read.

Forward and backward are the kernels of the operators `fastslow::native`, `..._backward` and `..._backward_`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.flat import flat_states
from fastslow.backends.native.arguments import Arguments, Gates, Memory, gate_shapes, state_shapes
from fastslow.backends.native.call import Call, compiled, describe, outline
from fastslow.backends.native.gradients import Wanted, matrix_gradients, vector_gradients
from fastslow.backends.native.memory import ALIGNMENT, Lease, cut, flat_size, pooled
from fastslow.backends.native.steps import Steps, contiguous, streams
from fastslow.backends.program import Request
from fastslow.state import state_tensors

CHUNKS = 8
"""Backward processes an eighth of a window at a time, to save memory,"""
CHUNK_BYTES = 1 << 26
"""or as many steps as have this many bytes of gates, which it copies a sixty-fourth at a time."""
MARK = (ALIGNMENT // 8,)
"""Shape of the last saved tensor of the gates. Its first element is 0 while the gates are valid, 1 once overwritten."""
_spending = threading.Lock()


def forward(request: Request, keep: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """y, the final h and c of every slot in turn, and the saved tensors."""
    x, weights, states = request.x.contiguous(), [contiguous(w) for w in request.weights], request.states
    assert states is not None
    if not keep and _plain(request) and streams(x.shape[1], x.shape[0]):
        return _run_streamed(request, weights, x)
    call = describe(request)
    held = [pooled(shapes, call.dtype) for shapes in memory_shapes(call)] if keep else []
    if held:
        both = len(held) == 2
        gates, mark = _saved_gates(call, held[1]) if both else (Gates.leased(call, 1), None)
        memory = Memory(call, cut(held[0], state_shapes(call, True)), gates, kept=True)
        if mark is not None:
            # Zero the elements that are never written: results of an operator must be deterministic.
            ended = () if call.lengths is None else (*gates.z, *(t for t in gates.dropped if t is not None))
            for tensor in (*gates.stats, *ended, mark):
                tensor.zero_()
    else:
        memory = Memory.leased(call)
    args = Arguments(call, weights, x, memory)
    if len(held) == 1:
        for node in args.nodes:  # one step, reused by every step
            node.z_step = node.stats_step = 0
            if node.dropped:
                node.read_step = 0
    for slot, state in enumerate(states):
        last = call.members(slot)[-1]
        for old, given in zip((memory.h[last], memory.c[last]), state_tensors(state), strict=False):
            old[0, :, : given.shape[1]] = given
            old[0, :, given.shape[1] :] = 0
    y = x.new_empty((call.steps, call.rows, call.hidden[call.wiring.output_index]))
    args.window.y = y.data_ptr()
    scratch = args.forward_scratch()
    args.run(compiled().forward[call.dtype], 0, call.steps, prepare=True)
    del scratch
    final = []
    for slot in range(len(states)):
        last = call.members(slot)[-1]
        leaves = memory.new(last)[: len(call.letters(slot))]
        final += [part[-1, :, : call.hidden[last]].clone() for part in leaves]
    return y, final, held


def _plain(request: Request) -> bool:
    return request.noise is None and request.lengths is None and request.resets is None


def memory_shapes(call: Call) -> list[list[tuple[int, ...]]]:
    """The shapes of the parts of each saved tensor."""
    states = state_shapes(call, True)
    return [states, [*gate_shapes(call, call.steps), MARK]] if call.saving == "all" else [states]


def _saved_gates(call: Call, flat: Tensor) -> tuple[Gates, Tensor]:
    """The saved gates, and their flag tensor."""
    *tensors, mark = cut(flat, [*gate_shapes(call, call.steps), MARK])
    return Gates(call, tensors), mark


def _unspent(call: Call, flat: Tensor, spend: bool) -> Gates | None:
    """The saved gates, or None if they were overwritten. With `spend`, marks them as overwritten."""
    gates, mark = _saved_gates(call, flat)
    with _spending:
        if mark[0] != 0:
            return None
        if spend:
            mark[0] = 1
    return gates


def memory(request: Request) -> list[tuple[tuple[int], torch.dtype]]:
    dtype = request.x.dtype
    return [((flat_size(shapes, dtype),), dtype) for shapes in memory_shapes(outline(request))]


def backward(
    request: Request,
    held: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    needs: Sequence[bool],
    *,
    spend: bool = False,
) -> list[Tensor]:
    """The gradients selected by `needs`; spend: whether the saved tensors may be overwritten."""
    call = describe(request)
    leaves = len(d_final)
    given = iter(needs[1 + leaves :])
    wanted = Wanted(
        needs[0],
        any(needs[1 : 1 + leaves]),
        [[next(given) if field is not None else False for field in w] for w in request.weights],
    )
    states = cut(held[0], state_shapes(call, True))
    gates = _unspent(call, held[1], spend) if len(held) == 2 else None
    d_x, d_initial, d_weights = run_backward(
        call,
        [contiguous(w) for w in request.weights],
        request.x.contiguous(),
        Memory(call, states, gates, kept=True),
        None if d_y is None else d_y.contiguous(),
        d_final,
        wanted,
        spend,
    )
    found = [d_x] if d_x is not None else []
    found += [d for d, need in zip(d_initial, needs[1 : 1 + leaves], strict=True) if need and d is not None]
    for w, grads, wants in zip(request.weights, d_weights, wanted.weights, strict=True):
        for field, grad, want in zip(w, grads, wants, strict=True):
            if want:  # there is none for the input matrix of a node without input
                found.append(torch.zeros_like(field) if grad is None else grad)
    return found


def run_backward(
    call: Call,
    weights: Sequence[Any],
    x: Tensor,
    memory: Memory,
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    wanted: Wanted,
    spend: bool,
) -> tuple[Tensor | None, list[Tensor | None], list[list[Tensor | None]]]:
    """The gradients of x, of the initial h and c of every slot in turn, and of each field of each node's weights."""
    saved, memory.gates = memory.gates, None
    args = Arguments(call, weights, x, memory)
    count = len(call.hidden)
    d_x = torch.empty_like(x) if wanted.x else None
    scratch = args.backward_scratch(wanted.x)
    slots = [call.padded[call.members(slot)[-1]] for slot in range(len(call.wiring.slots))]
    widest_input = max(call.pad(size) for size in call.read)
    held = Lease(
        [
            *((call.rows, size if x in call.letters(slot) else 0) for slot, size in enumerate(slots) for x in "hc"),
            *((call.rows, size) for size in call.padded),
            *((call.threads, size) for size in call.vectors),
            (call.rows, widest_input),
        ],
        call.dtype,
    )
    both = held.tensors[: 2 * len(slots)]  # h and c of every slot in turn
    d_states = [both[2 * slot + leaf] for slot in range(len(slots)) for leaf in range(len(call.letters(slot)))]
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
    pointers = [(ctypes.c_void_p * len(slots))(*(t.data_ptr() or None for t in both[part::2])) for part in (0, 1)]
    window.d_h, window.d_c = pointers
    window.d_y, window.d_x = None if d_y is None else d_y.data_ptr(), None if d_x is None else d_x.data_ptr()

    backward = compiled().backward[call.dtype]
    matrices: list[dict[str, Tensor]] = [{} for _ in range(count)]
    if saved is not None and spend:
        args.set_gates(saved, 0)
        args.run(backward, 0, call.steps, prepare=True)
        matrix_gradients(call, x, memory, saved, 0, wanted, matrices)
    elif saved is not None:
        own = CHUNK_BYTES // (call.dtype.itemsize * call.rows * sum(call.blocks))
        length, piece = min(call.steps, max(-(-call.steps // CHUNKS), own)), max(1, own // 64)
        room = Lease([(length, call.rows, size) for size in call.blocks], call.dtype)
        for last in range(call.steps, 0, -length):
            first = max(0, last - length)
            gates = saved.part(room.tensors, first, last)
            args.set_gates(gates, first)
            for end in range(last, first, -piece):
                start = max(first, end - piece)
                for to, source in zip(gates.z, saved.z, strict=True):
                    to[start - first : end - first] = source[start:end]
                args.run(backward, start, end, prepare=end == call.steps)
            matrix_gradients(call, x, memory, gates, first, wanted, matrices, last - first)
        del room
    else:
        length = call.steps if call.saving == "all" else -(-call.steps // CHUNKS)
        gates = Gates.leased(call, length)
        again = args.forward_scratch()
        for last in range(call.steps, 0, -length):
            first = max(0, last - length)
            args.set_gates(gates, first)
            prepare = last == call.steps
            args.run(compiled().forward[call.dtype], first, last, prepare=prepare, replay=True)
            args.run(backward, first, last, prepare=prepare)
            matrix_gradients(call, x, memory, gates, first, wanted, matrices, last - first)
        del again
    del scratch

    d_weights: list[list[Tensor | None]] = []
    for n in range(count):
        found = {**matrices[n], **vector_gradients(call, n, sums[n])}
        fields = zip(weights[n]._fields, wanted.weights[n], strict=True)
        d_weights.append([found.get(name) if want else None for name, want in fields])
    d_initial: list[Tensor | None] = [None] * len(d_states)
    if wanted.state:
        owners = [slot for slot in range(len(slots)) for _ in call.letters(slot)]
        for i, (slot, tensor) in enumerate(zip(owners, d_states, strict=True)):
            d_initial[i] = tensor[:, : call.hidden[call.members(slot)[-1]]].clone()
    return d_x, d_initial, d_weights


def _run_streamed(request: Request, weights: Sequence[Any], x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    assert request.states is not None
    steps, rows, inputs = x.shape
    call = Steps(request.wiring, weights, request.rates, rows, inputs)
    before = [part.contiguous() for part in flat_states(request.states)]
    after = [torch.empty_like(part) for part in before]
    y = x.new_empty((steps, rows, call.output_size))
    call(steps, x.data_ptr(), y.data_ptr(), [part.data_ptr() for part in before], [part.data_ptr() for part in after])
    return y, after, []
