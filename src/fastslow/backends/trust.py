"""Compiled engines are checked before first use, once per process, device, dtype, precision and cell.

Two tiny windows of a cell run through the engine's operator, forward and backward, and through the reference loop. This
takes a few milliseconds. If any result differs, the layer uses another engine and warns once, so a faulty kernel costs
speed but never gives a wrong gradient. `FASTSLOW_CHECK=0` turns the check off.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastslow.backends import reference
from fastslow.backends.base import Engine, Rates
from fastslow.backends.flat import KINDS, Kind, flat, flat_states, flat_weights
from fastslow.noise import Noise
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring, fast_slow

SWITCH = "FASTSLOW_CHECK"
TOLERANCE = {"high": 1e-3, "medium": 6e-2, "bfloat16": 6e-2}
"""Largest allowed difference relative to a tensor's largest entry, by the precision of products, else by dtype."""
_OF_TYPE = {torch.float64: 1e-9, torch.float32: 3e-4}
INPUTS, STEPS, ROWS = 5, 2, 5
SIZES = {"fast": 19, "slow": 9}

_found: dict[tuple[Any, ...], str | None] = {}
_lock = threading.Lock()


def failed_check(
    name: str, engine: Engine, device: torch.device, dtype: torch.dtype, kinds: Iterable[str] = KINDS
) -> str | None:
    """The result that the engine computes differently from the loop; None if there is none, or no check could run.

    kinds: the names of the cells to check; only those that the window uses, as an engine may compile code for each.
    """
    if name == "reference" or os.environ.get(SWITCH, "") == "0":
        return None
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None  # no check can run here
    options = tuple(engine.options(device.type))
    for kind in dict.fromkeys(kinds):
        key = (name, device, dtype, options, kind)
        if key not in _found:
            with _lock:
                if key not in _found:
                    _found[key] = _examined(engine, kind, device, dtype, options)
                    if _found[key] is not None:
                        warnings.warn(
                            f"the {name!r} engine is not used on {device}: {_found[key]} (please report this; "
                            f"{SWITCH}=0 turns the check off)",
                            RuntimeWarning,
                            stacklevel=2,
                        )
        if _found[key] is not None:
            return f"its check failed: {_found[key]}"
    return None


def _examined(engine: Engine, kind: str, device: torch.device, dtype: torch.dtype, options: Any) -> str | None:
    found: list[str | None] = []

    def compare() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            found.append(difference(engine, KINDS[kind], device, dtype, options))
        except Exception as error:
            found.append(f"it fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    # A new thread has none of the modes that may be active in this one: a trace, a fake tensor mode, a transform,
    # autocast.
    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    return found[0]


def difference(engine: Engine, kind: Kind, device: torch.device, dtype: torch.dtype, options: Any) -> str | None:
    """The first result that differs between the engine and the loop on windows of this cell."""
    chosen = dict(options)
    tolerance = TOLERANCE.get(str(chosen.get("precision")), _OF_TYPE[dtype])
    if dtype == torch.float64:
        tolerance = _OF_TYPE[dtype]
    for masks in (True, False):
        expected = _results(reference, kind, masks, torch.device("cpu"), torch.float64)
        got = _results(engine, kind, masks, device, dtype)
        for what, value in expected.items():
            other = got[what].to("cpu", torch.float64)
            scale = max(value.abs().max().item(), 1e-2)
            worst = (other - value).abs().max().item()
            if not worst <= tolerance * scale:  # also true for NaN
                masked = "with" if masks else "without"
                return (
                    f"{what} of a small window of {kind.name} cells {masked} masks differs from the reference "
                    f"loop's by {worst:.2g}, and its largest entry is {scale:.2g}"
                )
    return None


def _results(engine: Engine, kind: Kind, masks: bool, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, final states and gradients by name. Without masks, rows have different lengths and resets, and the
    results of a window without gradients are included.
    """
    wiring = fast_slow(3)
    generator = torch.Generator().manual_seed(5)

    def leaf(*shape: int, scale: float, mean: float = 0.0) -> Tensor:
        value = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + mean
        return value.bfloat16().to(device, dtype).requires_grad_()

    weights = []
    for node, source in zip(wiring.nodes, wiring.sources, strict=True):
        weights.append(kind.weights(*_fields(kind, wiring, node.slot, source, leaf)))
    x = leaf(STEPS, ROWS, INPUTS, scale=1.0)
    form = flat(wiring, (kind.name,) * len(wiring.nodes))
    sizes = [SIZES[slot] for slot, one in zip(wiring.slots, form.slots, strict=True) for _ in range(one.leaves)]
    states = form.states([leaf(ROWS, size, scale=0.5) for size in sizes])
    noise = Noise(torch.tensor(0x1234_5678_9ABC, device=device), 3, 2) if masks else None
    lengths = None if masks else torch.tensor([2, 0, 1, 2, 2])
    resets = None
    if not masks:
        resets = torch.tensor([[False, True, True, True, False], [False, True, True, False, True]], device=device)
    rates = Rates(0.25, 0.2, 0.4)
    y, final = engine.run(wiring, weights, x, states, noise, rates, lengths, resets)
    outputs = [y, *flat_states(final)]
    pull = [torch.randn(out.shape, generator=generator, dtype=torch.float64).bfloat16().to(out) for out in outputs]
    inputs = [x, *flat_states(states), *(field for field in flat_weights(weights) if field is not None)]
    grads = torch.autograd.grad(outputs, inputs, pull, allow_unused=True)
    named = {"y": y.detach(), **{f"final state {n}": out.detach() for n, out in enumerate(outputs[1:])}}
    named |= {f"gradient {n}": grad for n, grad in enumerate(grads) if grad is not None}
    if not masks:
        with torch.no_grad():
            alone, final = engine.run(wiring, weights, x, states, None, rates, None)
        named |= {"y without gradients": alone, **{f"its state {n}": out for n, out in enumerate(flat_states(final))}}
    return named


def _fields(kind: Kind, wiring: Wiring, slot: str, source: int, leaf: Any) -> list[Tensor | None]:
    inputs = INPUTS if source == FROM_INPUT else 0 if source == NO_INPUT else SIZES[wiring.nodes[source].slot]
    made: list[Tensor | None] = []
    for name in kind.weights._fields:
        shape = kind.shape(name, inputs, SIZES[slot])
        if name == "w_x" and source == NO_INPUT:
            made.append(None)
        elif len(shape) == 2:
            made.append(leaf(*shape, scale=shape[1] ** -0.5))
        else:
            made.append(leaf(*shape, scale=0.3, mean=1.0 if name.endswith("gain") else 0.0))
    return made
