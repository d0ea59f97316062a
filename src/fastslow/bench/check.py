"""A small comparison with the loop that an engine must pass before it is timed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastslow.backends import ENGINES, choose, engine
from fastslow.backends.base import Problem
from fastslow.bench.shapes import Shape
from fastslow.noise import Noise
from fastslow.state import LSTMState

STEPS, ROWS, INPUTS = 7, 5, 13
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""The largest allowed difference relative to a tensor's largest entry, by the dtype of the products."""


def usable(name: str, shape: Shape, device: torch.device, autocast: torch.dtype | None = None) -> str | None:
    """The reason why the engine cannot run this shape or must not be timed on it, or None."""
    if name not in ENGINES:
        return f"unknown engine; available: {', '.join(ENGINES)}"
    problem = Problem(
        device=device,
        dtype=torch.float32,
        steps=shape.steps,
        rows=shape.rows,
        wiring=shape.wiring,
        hidden_sizes=tuple(shape.sizes[slot] for slot in shape.wiring.slot_of),
        needs_grad=True,
        training=True,
        layer_norm=True,
        autocast=autocast,
        traced=False,
    )
    try:
        choose(problem, name)
    except RuntimeError as refused:
        return str(refused)
    wrong = disagreement(name, shape, device, autocast)
    return None if wrong is None else f"not timed, because its results differ from the loop's: {wrong}"


def disagreement(name: str, shape: Shape, device: torch.device, autocast: torch.dtype | None = None) -> str | None:
    """The first difference between engine and loop on this wiring, at a small size with all masks on; None if equal."""
    results = {}
    tolerance = TOLERANCE[torch.float32 if autocast is None else autocast]
    for which in ("reference", name):
        lower = autocast if which == name else None
        around: AbstractContextManager[object] = nullcontext() if lower is None else torch.autocast(device.type, lower)
        with around:
            results[which] = _run(which, shape, device)
    for what, expected in results["reference"].items():
        got = results[name][what]
        worst, scale = (got - expected).abs().max().item(), expected.abs().max().item()
        if not worst <= tolerance * max(scale, 1e-3):  # also true for NaN
            return f"{what} differs by {worst:.2g}, and its largest entry is {scale:.2g}"
    return None


def _run(name: str, shape: Shape, device: torch.device) -> dict[str, Tensor]:
    """Outputs, final states and all gradients."""
    generator = torch.Generator().manual_seed(0)
    sizes = {slot: 37 + 12 * i for i, slot in enumerate(shape.wiring.slots)}
    small = Shape(shape.name, shape.wiring, INPUTS, tuple(sizes.values()), ROWS, STEPS)
    layer = small.layer("auto", device)
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(device)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device).requires_grad_()

    x = draw(STEPS, ROWS, INPUTS)
    state = tuple(LSTMState(draw(ROWS, size), draw(ROWS, size)) for size in sizes.values())
    noise = Noise(torch.tensor(20170524, device=device))
    y, new = engine(name).run(shape.wiring, layer.weights(), x, state, noise, layer.rates)
    values = {"y": y}
    for slot, pair in zip(shape.wiring.slots, new, strict=True):
        values |= {f"final h of {slot}": pair.h, f"final c of {slot}": pair.c}
    leaves = dict(layer.named_parameters()) | {"x": x}
    for slot, pair in zip(shape.wiring.slots, state, strict=True):
        leaves |= {f"initial h of {slot}": pair.h, f"initial c of {slot}": pair.c}
    weights = [torch.randn(value.shape, generator=generator).to(value) for value in values.values()]
    grads = torch.autograd.grad(list(values.values()), list(leaves.values()), weights)
    found = dict(values) | {f"gradient of {leaf}": grad for leaf, grad in zip(leaves, grads, strict=True)}
    return {what: value.detach().float() for what, value in found.items()}
