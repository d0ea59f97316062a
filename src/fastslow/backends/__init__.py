"""Engines: each runs one window of T steps of any wiring. `choose` picks one and says why.

`reference` is the specification; `docs/architecture.md` describes the others.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

import torch
from torch.autograd import forward_ad

from fastslow.backends.base import Engine, Problem, Rates
from fastslow.backends.program import program_text
from fastslow.backends.trust import trouble
from fastslow.wiring import Wiring

ENGINES: dict[str, str] = {
    "native": "fastslow.backends.native.engine",
    "triton": "fastslow.backends.triton.engine",
    "window": "fastslow.backends.window.engine",
    "reference": "fastslow.backends.reference",
}
"""Name to module, fastest first; imported when first considered. "auto" tries them in this order."""


LOOPS = "torch.func, forward-mode differentiation and ONNX export need the loop"
"""Why only the reference runs there."""


@dataclass(frozen=True)
class Choice:
    """The engine that runs a window, and why no faster one does."""

    name: str
    refused: dict[str, str] = field(default_factory=dict)
    """Faster engines that were passed over: name -> reason."""

    def __str__(self) -> str:
        return "; ".join([self.name, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def engine(name: str) -> Engine:
    """The engine's module."""
    if name == "reference":  # in words that torch.compile can follow
        from fastslow.backends import reference

        return reference
    return importlib.import_module(ENGINES[name])


def check_name(backend: str) -> None:
    """ValueError unless `backend` is "auto" or an engine."""
    if backend != "auto" and backend not in ENGINES:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, ENGINES))}; got {backend!r}")


def choose(problem: Problem, backend: str = "auto") -> Choice:
    """The engine for this window.

    A named backend is taken or refused (RuntimeError, with its reason); "auto" takes the first that can run.
    """
    check_name(backend)
    if problem.traced and backend == "auto":
        return Choice("reference", {name: LOOPS for name in ENGINES if name != "reference"})
    if backend != "auto":
        reason = LOOPS if problem.traced and backend != "reference" else objection(backend, problem)
        if reason is not None:
            raise RuntimeError(f"backend {backend!r} cannot run this: {reason}; backend='auto' picks one that can")
        return Choice(backend)
    refused: dict[str, str] = {}
    for name in ENGINES:
        module = engine(name)
        reason = module.refusal(problem)
        if reason is None and hasattr(module, "reluctance"):
            reason = module.reluctance(problem)
        if reason is None:
            reason = trouble(name, module, problem.device, problem.dtype, problem.kinds or ("lstm",))
        if reason is None:
            return Choice(name, refused)
        refused[name] = reason
    raise AssertionError("the reference engine runs everything")


def objection(name: str, problem: Problem) -> str | None:
    """Why an engine cannot run this window, or is not trusted to; None if it can."""
    module = engine(name)
    reason = module.refusal(problem)
    if reason is not None:
        return reason
    return trouble(name, module, problem.device, problem.dtype, problem.kinds or ("lstm",))


def loop_only() -> bool:
    """Whether somebody looks who needs the loop: see `LOOPS`."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return not torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def recorded_choice(asked: str) -> str:
    """`choose` where a graph is recorded: the engine and its program in two lines, or an empty line and why the named
    one cannot run.

    torch.compile calls this and takes the result for a constant, so it is given constants alone. asked, line by line:
    backend; device; dtype; wiring and cells as a program has them; hidden sizes; the rates; gradients, training and
    layer norm, 1 or 0; autocast's type or None; `loop_only`. The window's sizes are not known; operators take any.
    """
    backend, device, dtype, wiring, cells, hidden, numbers, flags, autocast, traced = asked.split("\n")
    needs_grad, training, layer_norm = (flag == "1" for flag in flags)
    problem = Problem(
        device=torch.device(device),
        dtype=_dtype(dtype),
        steps=2,
        rows=2,
        wiring=Wiring.parse(wiring),
        hidden_sizes=tuple(map(int, hidden.split())),
        needs_grad=needs_grad,
        training=training,
        layer_norm=layer_norm,
        autocast=None if autocast == "None" else _dtype(autocast),
        traced=traced == "True" or torch.onnx.is_in_onnx_export(),
        kinds=tuple(cell.split(":")[0] for cell in cells.split()),
    )
    try:
        name = choose(problem, backend).name
    except RuntimeError as error:
        return f"\n{error}"
    chosen = engine(name).options(problem.device.type)
    return name + "\n" + program_text(wiring, cells, Rates(*map(float, numbers.split())), tuple(chosen))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found


recorded_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result
# would load the compiler at import.
