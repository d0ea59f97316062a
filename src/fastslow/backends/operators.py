"""The engines as PyTorch operators in the namespace `fastslow`.

    native, window, triton               a window: (program, tensors) -> y, the final states, the saved tensors
    native_backward, ...                 the gradients, from the saved tensors
    native_backward_                     the same, reusing the saved tensors as buffers: only in plain eager code
    step                                 one step of a few rows without masks

The operators put PyTorch's dispatcher between a layer and an engine. Tensors without plain memory on a device that the
engine supports (fake tensors, subclasses, tensors wrapped by a transform) are dispatched elsewhere, and their addresses
are never read. Tools that inspect programs (torch.compile, torch.export, make_fx, the profiler, FLOP counters) see one
operator, whose schema, shapes, gradient and FLOP count are defined here.

`program` is the text format of `fastslow.backends.program`. Operators are pure: everything that backward needs is
returned in `memory`. The one exception is `native_backward_`, which is marked as mutating by its name and schema. It is
used where the window was called with `spend`, because nobody else holds the saved tensors when a layer makes the call.
It marks the saved tensors as overwritten. A second backward pass detects this and recomputes them, so a graph can be
traversed any number of times.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastslow.backends.base import Option, Rates, States
from fastslow.backends.dispatch import no_active_modes, plain
from fastslow.backends.flat import flat_states, flat_weights, states_like
from fastslow.backends.program import Request, cells_text, parse, program_text
from fastslow.backends.second import reference_gradients
from fastslow.noise import Noise

LIBRARY: Any = torch.library.Library("fastslow", "DEF")  # type: ignore[no-untyped-call]

_WINDOW = (
    "(str program, Tensor x, Tensor[] states, Tensor[] weights, Tensor? key, Tensor? lengths, Tensor? resets, "
    "int first_step, int first_row, bool keep, bool spend=False) -> (Tensor, Tensor[], Tensor[])"
)
_BACKWARD = (
    "(str program, Tensor x, Tensor[] weights, Tensor? key, Tensor? lengths, Tensor? resets, int first_step, "
    "int first_row, Tensor[] memory, Tensor? d_y, Tensor?[] d_final, bool[] needs) -> Tensor[]"
)
_SPENDING = _BACKWARD.replace("Tensor[] memory", "Tensor(a!)[] memory")
_STEP = "(str program, Tensor x, Tensor[] states, Tensor[] weights) -> (Tensor, Tensor[])"

DEVICES = {"native": ("CPU",), "window": ("CPU", "CUDA"), "triton": ("CPU", "CUDA")}
"""The devices for which each engine's operator has a kernel. Triton on the CPU means its interpreter."""
MODULES = {
    "native": "fastslow.backends.native.window",
    "window": "fastslow.backends.window.engine",
    "triton": "fastslow.backends.triton.engine",
}
"""The modules with the kernels, imported on first use.

    forward(request, keep) -> y, the leaves of the final states, the saved tensors (empty unless `keep`)
    backward(request, memory, d_y, d_final, needs) -> a gradient for each true entry of `needs`
    memory(request) -> [(shape, dtype)] of the saved tensors
"""
SPENDS = ("native",)
"""Engines whose backward pass is faster if it may overwrite the saved tensors: their `backward` takes `spend=True`."""


def run(
    name: str,
    options: Sequence[tuple[str, Option]],
    weights: Sequence[Any],
    x: Tensor,
    states: States,
    noise: Noise | None,
    rates: Rates,
    wiring: Any,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, States]:
    """Run a window through the operator of engine `name`. The other arguments are those of `fastslow.backends.base`."""
    program = program_text(wiring.text, cells_text(weights), rates, tuple(options))
    return call(name, program, weights, x, states, noise, lengths, resets)


def call(
    name: str,
    program: str,
    weights: Sequence[Any],
    x: Tensor,
    states: States,
    noise: Noise | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, States]:
    """`run` for a program that is already text. Written so that torch.compile can trace it."""
    given = [field.contiguous() for field in flat_weights(weights) if field is not None]
    leaves = flat_states(states)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *leaves, *given))
    if keep and not torch.compiler.is_compiling():  # a state may come from inference mode, which autograd cannot save
        leaves = [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves]
    key, first_step, first_row = (None, 0, 0) if noise is None else noise
    y, final, _ = getattr(torch.ops.fastslow, name).default(
        program, x.contiguous(), leaves, given, key, lengths, resets, first_step, first_row, keep, keep
    )
    return y, states_like(states, final)


def step(program: str, weights: Sequence[Any], x: Tensor, states: States) -> tuple[Tensor, States]:
    """One step without gradients or masks: x (B, X) -> y (B, H), the new states."""
    given = [field.contiguous() for field in flat_weights(weights) if field is not None]
    y, final = torch.ops.fastslow.step.default(program, x.contiguous(), flat_states(states), given)
    return y, states_like(states, final)


def _request(
    program: str,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    key: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    first_step: int,
    first_row: int,
) -> Request:
    read = parse(program)
    if len(weights) != read.count:
        raise RuntimeError(f"the program has {read.count} parameters; got {len(weights)}")
    request = Request(
        read,
        read.weights(weights),
        x,
        None if states is None else read.flat.states(states),
        None if key is None else Noise(key, first_step, first_row),
        lengths,
        resets,
    )
    request.check()
    return request


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy with its own storage unless the tensor is one already, as the fake kernels promise."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _define(name: str) -> None:
    tags = (torch.Tag.pt2_compliant_tag,)
    forward_name, backward_name = f"fastslow::{name}", f"fastslow::{name}_backward"
    LIBRARY.define(name + _WINDOW, tags=tags)
    LIBRARY.define(f"{name}_backward{_BACKWARD}", tags=tags)

    def kernels() -> Any:
        return importlib.import_module(MODULES[name])

    def forward(
        program: str, x: Tensor, states: list[Tensor], weights: list[Tensor], key: Tensor | None,
        lengths: Tensor | None, resets: Tensor | None, first_step: int, first_row: int, keep: bool, spend: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        request = _request(program, x, states, weights, key, lengths, resets, first_step, first_row)
        if x.shape[0] == 0 or x.shape[1] == 0:
            y, final, memory = _fake_forward(request, keep, kernels)
            return y, [new.copy_(old) for new, old in zip(final, states, strict=True)], memory
        with torch.no_grad():
            y, final, memory = kernels().forward(request, keep)
        return _own(y), [_own(leaf) for leaf in final], memory

    def fake_forward(
        program: str, x: Tensor, states: list[Tensor], weights: list[Tensor], key: Tensor | None,
        lengths: Tensor | None, resets: Tensor | None, first_step: int, first_row: int, keep: bool, spend: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        request = _request(program, x, states, weights, key, lengths, resets, first_step, first_row)
        return _fake_forward(request, keep, kernels)

    def backward(
        program: str, x: Tensor, weights: list[Tensor], key: Tensor | None, lengths: Tensor | None,
        resets: Tensor | None, first_step: int, first_row: int, memory: list[Tensor], d_y: Tensor | None,
        d_final: list[Tensor | None], needs: list[bool], **how: bool,
    ) -> list[Tensor]:  # fmt: skip
        request = _request(program, x, None, weights, key, lengths, resets, first_step, first_row)
        for gradient, shape in zip((d_y, *d_final), (request.output_shape, *request.state_shapes()), strict=True):
            if gradient is not None and tuple(gradient.shape) != shape:
                raise RuntimeError(f"a gradient must have its output's shape {shape}; got {tuple(gradient.shape)}")
        if x.shape[0] == 0 or x.shape[1] == 0:
            return _empty_gradients(request, weights, d_final, needs)
        expected = kernels().memory(request)
        if [(tuple(t.shape), t.dtype) for t in memory] != expected:
            raise RuntimeError(f"the saved tensors do not belong to this window: expected {expected}")
        with torch.no_grad():
            return [_own(gradient) for gradient in kernels().backward(request, memory, d_y, d_final, needs, **how)]

    def fake_backward(
        program: str, x: Tensor, weights: list[Tensor], key: Tensor | None, lengths: Tensor | None,
        resets: Tensor | None, first_step: int, first_row: int, memory: list[Tensor], d_y: Tensor | None,
        d_final: list[Tensor | None], needs: list[bool],
    ) -> list[Tensor]:  # fmt: skip
        request = _request(program, x, None, weights, key, lengths, resets, first_step, first_row)
        shapes = [x.shape, *request.state_shapes(), *(weight.shape for weight in weights)]
        return [x.new_empty(shape) for shape, need in zip(shapes, needs, strict=True) if need]

    if name in SPENDS:
        LIBRARY.define(f"{name}_backward_{_SPENDING}", tags=tags)
        for device in DEVICES[name]:
            LIBRARY.impl(f"{name}_backward_", partial(backward, spend=True), device)
        torch.library.register_fake(f"{backward_name}_", fake_backward, lib=LIBRARY)
        _refuse_vmap(f"{backward_name}_")
    for device in DEVICES[name]:
        LIBRARY.impl(name, forward, device)
        LIBRARY.impl(f"{name}_backward", backward, device)
    torch.library.register_fake(forward_name, fake_forward, lib=LIBRARY)
    torch.library.register_fake(backward_name, fake_backward, lib=LIBRARY)
    LIBRARY.impl(name, _gradient_of(name), "Autograd", with_keyset=True)
    torch.library.register_autograd(backward_name, _no_derivative(name), lib=LIBRARY)
    for operator in (forward_name, backward_name):
        _refuse_vmap(operator)
        for kind in {device.lower() for device in DEVICES[name]}:
            # Windows compute in the dtype of the weights; the precision of products is an engine option.
            torch.library.register_autocast(operator, kind, torch.float32, lib=LIBRARY)


def _fake_forward(
    request: Request, keep: bool, kernels: Callable[[], Any]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x = request.x
    final = [x.new_empty(shape) for shape in request.state_shapes()]
    memory = [x.new_empty(shape, dtype=dtype) for shape, dtype in kernels().memory(request)] if keep else []
    return x.new_empty(request.output_shape), final, memory


def _empty_gradients(
    request: Request, weights: Sequence[Tensor], d_final: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor]:
    """The gradients of a window without steps or rows, whose final states are its initial states."""
    x, shapes = request.x, request.state_shapes()
    states = [x.new_zeros(shape) if d is None else d.clone() for d, shape in zip(d_final, shapes, strict=True)]
    every = (torch.zeros_like(x), *states, *map(torch.zeros_like, weights))
    return [gradient for gradient, need in zip(every, needs, strict=True) if need]


# ---------------------------------------------------------------------- gradients


@dataclass(frozen=True)
class _Static:
    """The arguments of an operator other than tensors."""

    name: str
    keys: Any
    program: str
    first: tuple[int, int]
    states: int
    """The number of leaves of all states."""
    spend: bool


class _Window(torch.autograd.Function):
    """Static, key, lengths, resets, x, leaves of the states, parameters -> y, leaves of the final states, saved
    tensors.

    Does the same as `torch.library.register_autograd` without its traversal of nested lists in every call.
    """

    @staticmethod
    def forward(ctx: Any, static: _Static, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        key, lengths, resets, x, *rest = tensors
        states, weights = rest[: static.states], rest[static.states :]
        y, final, memory = _below(static, x, states, weights, key, lengths, resets, True)
        ctx.static, ctx.count = static, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*memory)
        ctx.save_for_backward(*tensors, *memory)
        return (y, *final, *memory)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        static: _Static = ctx.static
        saved = ctx.saved_tensors  # read once: under checkpointing each tensor can be unpacked only once
        key, lengths, resets, x, *rest = saved[: ctx.count]
        memory, d_final = list(saved[ctx.count :]), list(gradients[: static.states])
        states, weights = rest[: static.states], rest[static.states :]
        needs = list(ctx.needs_input_grad[4:])
        if torch.is_grad_enabled():  # the gradient will be differentiated; only the loop supports that
            request = _request(static.program, x, states, weights, key, lengths, resets, *static.first)
            found = reference_gradients(request, [x, *rest], d_y, d_final, needs)
        else:
            spends = static.spend and no_active_modes() and plain(memory)
            if spends:  # hidden from autograd: a second backward pass recomputes them
                memory = [tensor.data for tensor in memory]
            operator = getattr(torch.ops.fastslow, f"{static.name}_backward{'_' * spends}").default
            d_y = None if d_y is None else d_y.contiguous()
            given = iter(
                operator(static.program, x, weights, key, lengths, resets, *static.first, memory, d_y, d_final, needs)
            )
            found = [next(given) if need else None for need in needs]
        return None, None, None, None, *found


def _below(
    static: _Static, x: Any, states: Any, weights: Any, key: Any, lengths: Any, resets: Any, keep: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run the window with the kernels below autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, list[Tensor], list[Tensor]] = getattr(torch.ops.fastslow, static.name).default.redispatch(
            static.keys & torch._C._after_autograd_keyset,
            static.program, x, states, weights, key, lengths, resets, *static.first, keep,
        )  # fmt: skip
    return found


def _gradient_of(name: str) -> Callable[..., tuple[Tensor, list[Tensor], list[Tensor]]]:
    """The autograd kernel of an engine's window; its graph nodes are named NativeBackward and so on."""
    function = cast("Any", type(name.capitalize(), (_Window,), {}))

    def window(
        keys: Any, program: str, x: Tensor, states: list[Tensor], weights: list[Tensor], key: Tensor | None,
        lengths: Tensor | None, resets: Tensor | None, first_step: int, first_row: int, keep: bool, spend: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        static = _Static(name, keys, program, (first_step, first_row), len(states), spend and name in SPENDS)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *states, *weights))):
            return _below(static, x, states, weights, key, lengths, resets, keep)
        if not keep:
            raise RuntimeError(f"fastslow::{name} saves no tensors for a backward pass; call it with keep=True")
        y, *rest = function.apply(static, key, lengths, resets, x, *states, *weights)
        return y, rest[: len(states)], rest[len(states) :]

    return window


def _no_derivative(name: str) -> Callable[..., Any]:
    def gradient(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(f"the backward pass of engine {name!r} is not differentiable; use backend='reference'")

    return gradient


def _refuse_vmap(operator: str) -> None:
    def refuse(info: Any, in_dims: Any, *args: Any) -> Any:
        raise RuntimeError(
            f"{operator} has no batching rule for torch.func.vmap: call the layer, which uses its loop there, "
            "or pass the rows as a batch"
        )

    torch.library.register_vmap(operator, refuse, lib=LIBRARY)


# ---------------------------------------------------------------------- one step


def _define_step() -> None:
    LIBRARY.define(f"step{_STEP}", tags=(torch.Tag.pt2_compliant_tag,))

    def request_of(program: str, x: Tensor, states: list[Tensor], weights: list[Tensor]) -> Request:
        return _request(program, x.unsqueeze(0), states, weights, None, None, None, 0, 0)

    def step(program: str, x: Tensor, states: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        request = request_of(program, x, states, weights)
        if x.shape[0] == 0:
            return x.new_empty(request.output_shape[1:]), [leaf.clone() for leaf in states]
        with torch.no_grad():
            y, final, _ = importlib.import_module(MODULES["native"]).forward(request, False)
        return y[0], [_own(leaf) for leaf in final]

    def fake(program: str, x: Tensor, states: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        request = request_of(program, x, states, weights)
        return x.new_empty(request.output_shape[1:]), [x.new_empty(shape) for shape in request.state_shapes()]

    def gradient(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("fastslow::step has no gradient; with gradients, layer.step runs a window of one step")

    LIBRARY.impl("step", step, "CPU")
    torch.library.register_fake("fastslow::step", fake, lib=LIBRARY)
    torch.library.register_autograd("fastslow::step", gradient, lib=LIBRARY)
    torch.library.register_autocast("fastslow::step", "cpu", torch.float32, lib=LIBRARY)
    _refuse_vmap("fastslow::step")


for _name in MODULES:
    _define(_name)
_define_step()


# ---------------------------------------------------------------------- arithmetic


def _products(x: Sequence[int], weights: Sequence[Sequence[int]]) -> int:
    """Floating-point operations for z = W_x x + W_h h at every node, step and row; x and weights as shapes."""
    rows = 1
    for size in x[:-1]:
        rows *= size
    return 2 * rows * sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)


def _forward_flops(program: str, x: Any, states: Any, weights: Any, *rest: Any, **named: Any) -> int:
    return _products(x, weights)


def _backward_flops(program: str, x: Any, weights: Any, *rest: Any, **named: Any) -> int:
    return 2 * _products(x, weights)


for _name in MODULES:
    register_flop_formula(getattr(torch.ops.fastslow, _name))(_forward_flops)
    register_flop_formula(getattr(torch.ops.fastslow, f"{_name}_backward"))(_backward_flops)
for _name in SPENDS:
    register_flop_formula(getattr(torch.ops.fastslow, f"{_name}_backward_"))(_backward_flops)
register_flop_formula(torch.ops.fastslow.step)(_forward_flops)
