"""One window in the compiled library: its memory, its arguments, and its gradients.

The loop over time runs in C++, forward and backward; the gradients of the weight matrices follow here as one large
product each. Saved for the backward: a node's states, its normalised gates (which the backward overwrites with the
gradients of the products), and its input after dropout. With `saving("states")` only the states are saved and the
backward computes the rest again, some steps at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Rates, States
from fastslow.backends.native.arguments import VECTORS, Arguments, Gates, Memory
from fastslow.backends.native.call import Call, compiled, describe
from fastslow.backends.native.gradients import Wanted, matrix_gradients, vector_gradients
from fastslow.backends.native.memory import Lease
from fastslow.backends.native.steps import Steps, contiguous, streams
from fastslow.backends.once import once
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise
from fastslow.state import LSTMState
from fastslow.wiring import Wiring

FIELDS = len(CellWeights._fields)
CHUNKS = 8
"""With saved states only, the backward computes an eighth of the window again at a time."""


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
        matrix_gradients(call, x, memory, gates, 0, wanted, matrices)
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
            matrix_gradients(call, x, memory, gates, first, wanted, matrices, last - first)
        del again
    del scratch

    d_weights: list[list[Tensor | None]] = []
    for n in range(count):
        found = {**matrices[n], **vector_gradients(call, n, sums[n])}
        fields = zip(CellWeights._fields, wanted.weights[n], strict=True)
        d_weights.append([found.get(name) if want else None for name, want in fields])
    d_initial: list[Tensor | None] = [None] * len(d_states)
    if wanted.state:
        for i, tensor in enumerate(d_states):
            d_initial[i] = tensor[:, : call.hidden[call.members(i // 2)[-1]]].clone()
    return d_x, d_initial, d_weights


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
    resets: Tensor | None = None,
) -> tuple[Tensor, States]:
    x = x.contiguous()
    weights = [contiguous(w) for w in weights]
    tensors = [*(part for pair in state for part in pair), *(part for w in weights for part in w)]
    grads = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors))
    if not grads and noise is None and lengths is None and resets is None and streams(x.shape[1], x.shape[0]):
        return _run_streamed(wiring, weights, x, state, rates)
    call = describe(wiring, weights, x, noise, rates, lengths, resets)
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
