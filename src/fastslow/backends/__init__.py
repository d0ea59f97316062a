"""Engines: each runs one window of T steps of any wiring. `choose` picks one and gives the reason.

`reference` is the specification; `docs/architecture.md` describes the others.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

import torch
from torch.autograd import forward_ad

from fastslow.backends.base import Engine, Problem, Rates
from fastslow.backends.program import program_text
from fastslow.backends.trust import failed_check
from fastslow.wiring import Wiring

ENGINES: dict[str, str] = {
    "native": "fastslow.backends.native.engine",
    "triton": "fastslow.backends.triton.engine",
    "window": "fastslow.backends.window.engine",
    "reference": "fastslow.backends.reference",
}
"""Engine name -> module, fastest first. Modules are imported when first needed. "auto" tries them in this order."""


LOOPS = "torch.func, forward-mode differentiation and ONNX export need the reference loop"
"""Why only the reference engine can run in these cases."""


@dataclass(frozen=True)
class Choice:
    """The engine that runs a window, and why no faster engine does."""

    name: str
    refused: dict[str, str] = field(default_factory=dict)
    """Faster engines that were rejected: name -> reason."""

    def __str__(self) -> str:
        return "; ".join([self.name, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def engine(name: str) -> Engine:
    """The module of the engine with this name."""
    if name == "reference":  # a plain import, which torch.compile can trace
        from fastslow.backends import reference

        return reference
    return importlib.import_module(ENGINES[name])


def check_name(backend: str) -> None:
    """ValueError unless `backend` is "auto" or the name of an engine."""
    if backend != "auto" and backend not in ENGINES:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, ENGINES))}; got {backend!r}")


def choose(problem: Problem, backend: str = "auto") -> Choice:
    """The engine for this window.

    A named backend is used or rejected (RuntimeError with the reason); "auto" takes the first engine that can run.
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
            reason = failed_check(name, module, problem.device, problem.dtype, problem.kinds or ("lstm",))
        if reason is None:
            return Choice(name, refused)
        refused[name] = reason
    raise AssertionError("the reference engine runs everything")


def objection(name: str, problem: Problem) -> str | None:
    """Why an engine cannot run this window or failed its check; None if it can be used."""
    module = engine(name)
    reason = module.refusal(problem)
    if reason is not None:
        return reason
    return failed_check(name, module, problem.device, problem.dtype, problem.kinds or ("lstm",))


def loop_only() -> bool:
    """Whether only the reference loop can run here; see `LOOPS`."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return not torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def recorded_choice(description: str) -> str:
    """`choose` for a recorded graph: the engine and its program on two lines, or an empty line and the reason why the
    named engine cannot run.

    torch.compile calls this function and treats the result as a constant, so all arguments must be constants too.
    The lines of `description`: backend; device; dtype; wiring and cells as in a program; hidden sizes; rates;
    gradients, training and layer norm as 1 or 0; autocast's dtype or None; `loop_only`. The window's sizes are unknown
    at this point; the operators accept any.
    """
    backend, device, dtype, wiring, cells, hidden, rates, flags, autocast, traced = description.split("\n")
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
    return name + "\n" + program_text(wiring, cells, Rates(*map(float, rates.split())), tuple(chosen))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found


recorded_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result
# would load the compiler at import.
