"""Engines: each runs one window of T steps of any wiring. `choose` picks one and says why.

`reference` is the specification; `docs/architecture.md` describes the others.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from fastslow.backends.base import Engine, Problem

ENGINES: dict[str, str] = {
    "native": "fastslow.backends.native.engine",
    "triton": "fastslow.backends.triton.engine",
    "window": "fastslow.backends.window.engine",
    "reference": "fastslow.backends.reference",
}
"""Name to module, fastest first; imported when first considered. "auto" tries them in this order."""


TRACED = "torch.compile, torch.export and torch.func cannot look inside it"
"""Why only the reference runs where they look."""


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
        return Choice("reference", {name: TRACED for name in ENGINES if name != "reference"})
    if backend != "auto":
        reason = TRACED if problem.traced and backend != "reference" else engine(backend).refusal(problem)
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
            return Choice(name, refused)
        refused[name] = reason
    raise AssertionError("the reference engine runs everything")
