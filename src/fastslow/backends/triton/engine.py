"""The "triton" engine: its requirements and the kernels of its operators. It needs a CUDA device and Triton, but no C++
compiler.

Kernels are compiled when a shape first runs (this takes seconds; Triton caches them). The engine is designed for CUDA
graphs: `fastslow.training.graphed` captures a whole training step. Without a graph it is much slower, because a window
of 150 steps is about a thousand kernel launches.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Option, Problem, Rates, States
from fastslow.backends.flat import KINDS
from fastslow.backends.operators import run as run_operator
from fastslow.backends.program import Request
from fastslow.backends.triton import options as run_options
from fastslow.backends.triton.backward import Gradients, Wanted
from fastslow.backends.triton.backward import backward as backward_pass
from fastslow.backends.triton.cells import CELLS
from fastslow.backends.triton.forward import forward as forward_pass
from fastslow.backends.triton.plan import plan, runs
from fastslow.backends.triton.window import STATS, Given, Held, Setting
from fastslow.noise import Noise
from fastslow.wiring import FROM_INPUT, Wiring

NAME = "triton"
LARGEST = 8192
"""Largest H: a row must fit in the registers of one program."""
MEMORY = tuple(part.name for part in fields(Held))
"""The parts of a window's saved tensors."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes of matrix operands, by their names in a program."""


def refusal(problem: Problem) -> str | None:
    if problem.device.type != "cuda" and not (problem.device.type == "cpu" and _interpreting()):
        return f"it runs on CUDA devices only, and x is on {problem.device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if problem.dtype != torch.float32:
        return f"it needs torch.float32 weights (use autocast for bfloat16); got {problem.dtype}"
    kind = _kind(problem.autocast)
    if kind not in (torch.float32, torch.bfloat16):
        return f"its products are float32 or bfloat16, and autocast requests {kind}"
    unknown = sorted(name for name in set(problem.kinds) if KINDS[name].code not in CELLS)
    if unknown:
        return f"it has no kernels for {', '.join(unknown)} cells; fastslow.backends.triton.cells lists those it has"
    if max(problem.hidden_sizes) > LARGEST:
        return f"its largest hidden size is {LARGEST}; got {max(problem.hidden_sizes)}"
    if problem.device.type == "cuda":
        return _device_refusal(problem.device, kind)
    return None


def reluctance(problem: Problem) -> str | None:
    """Why "auto" skips the engine although it could run."""
    if problem.device.type != "cuda":
        return "Triton's interpreter is for tests; name the backend to use it"
    return None


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@lru_cache
def _device_refusal(device: torch.device, kind: torch.dtype) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    least = (8, 0) if kind == torch.bfloat16 else (7, 0)
    if (major, minor) < least:
        return f"{kind} needs compute capability {least[0]}.{least[1]}; this device has {major}.{minor}"
    return None


def _kind(autocast: torch.dtype | None) -> torch.dtype:
    """The dtype of matrix operands."""
    asked = run_options.current().precision
    return asked if asked is not None else autocast if autocast is not None else torch.float32


def options(device: str = "cuda") -> tuple[tuple[str, Option], ...]:
    """The options of a window started now, as a program stores them; autocast's dtype is resolved."""
    kind = _kind(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)
    chosen = asdict(run_options.current()) | {"precision": str(kind).removeprefix("torch.")}
    return tuple(chosen.items())


def run(
    wiring: Wiring,
    weights: Sequence[Any],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, States]:
    chosen = options(x.device.type)
    return run_operator(NAME, chosen, weights, x, state, noise, rates, wiring, lengths, resets)


# ---------------------------------------------------------------------- the operators' kernels


def _setting(request: Request) -> Setting:
    chosen = dict(request.program.options)
    kind = TYPES[chosen.pop("precision")]
    noise = request.noise
    return Setting(
        wiring=request.wiring,
        steps=plan(request.wiring, request.weights),
        T=request.x.shape[0],
        B=request.x.shape[1],
        rates=request.rates,
        random=noise is not None,
        first_step=0 if noise is None else noise.first_step,
        first_row=0 if noise is None else noise.first_row,
        kind=kind,
        options=run_options.Options(precision=kind, **chosen),
    )


def _given(request: Request, setting: Setting) -> Given:
    key = None if request.noise is None else request.noise.key
    return Given.of(setting, request.weights, key, request.lengths, request.resets)


def forward(request: Request, keep: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    assert request.states is not None
    setting = _setting(request)
    with torch.autocast(request.x.device.type, enabled=False), _on(request.x.device):
        given = _given(request, setting)
        y, final, held = forward_pass(setting, given, request.weights, request.x, request.states, keep)
    kept = [tensor for part in MEMORY for tensor in getattr(held, part) if tensor is not None]
    return y, final, kept if keep else []


def memory(request: Request) -> list[tuple[tuple[int, ...], torch.dtype]]:
    setting, wide = _setting(request), torch.float32
    T, B, kind = setting.T, setting.B, setting.kind
    found: list[tuple[tuple[int, ...], torch.dtype]] = []
    of_x = [s for s in setting.steps if s.source == FROM_INPUT and s.x_size]
    found += [((s.z_width, s.columns), kind) for s in setting.steps]
    found += [((s.z_width, s.x_width), kind) for s in of_x]
    found += [((T * B, s.x_width), kind) for s in of_x]
    found += [((T + s.first, B, s.columns), kind) for s in setting.steps]
    found += [((T, B, s.z_width), kind) for s in setting.steps]
    found += [((T, B, s.width), wide) for s in setting.steps]
    found += [((T, B, STATS), wide) for s in setting.steps if s.norm]
    slots = range(len(setting.wiring.slots))
    return found + [((B, next(s.width for s in setting.steps if s.slot == slot)), wide) for slot in slots]


def _held(setting: Setting, memory: Sequence[Tensor]) -> Held:
    """The tensors held from the forward pass."""
    held = Held(*([] for _ in MEMORY))
    each = iter(memory)
    for part in MEMORY:
        count = len(setting.wiring.slots) if part == "wide0" else len(setting.steps)
        for n in range(count):
            s = setting.steps[n]
            lacks = part in ("matrix_x", "x") and not (s.source == FROM_INPUT and s.x_size)
            lacks = lacks or (part == "stats" and not s.norm)
            getattr(held, part).append(None if lacks else next(each))
    return held


def backward(
    request: Request,
    memory: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor]:
    setting = _setting(request)
    leaves = 1 + len(d_final)
    given = iter(needs[leaves:])
    asked = [[field is not None and next(given) for field in node] for node in request.weights]
    want = Wanted(
        x=needs[0],
        matrices=tuple(any(node[:2]) for node in asked),
        vectors=tuple(any(node[2:]) for node in asked),
    )
    device = request.x.device
    with torch.autocast(device.type, enabled=False), _on(device):
        grads = backward_pass(setting, _given(request, setting), _held(setting, memory), d_y, d_final, want)
        found: list[Tensor | None] = [grads.x]
        for slot in range(len(setting.wiring.slots)):
            s = next(s for s in setting.steps if s.slot == slot)
            found += [leaf[slot][:, : s.size] for leaf in (grads.dh, grads.dc)[: s.kind.leaves]]
        for n in range(len(setting.steps)):
            found += _parameter_gradients(setting, grads, n)
    wanted = [*needs[:leaves], *(field for node in asked for field in node)]
    likes = [request.x, *d_final, *(field for node in request.weights for field in node)]
    every = zip(wanted, found, likes, strict=True)
    return [_or_zeros(grad, like) for need, grad, like in every if need]


def _or_zeros(gradient: Tensor | None, like: Tensor | None) -> Tensor:
    """The gradient, or zeros for the input matrix of a node without input."""
    if gradient is None:
        assert like is not None
        return torch.zeros_like(like)
    return gradient


def _on(device: torch.device) -> torch.cuda.device:
    """Make the device current, because Triton launches there; -1 changes nothing."""
    index = -1 if device.type != "cuda" else torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.device(index)


def _parameter_gradients(setting: Setting, grads: Gradients, n: int) -> list[Tensor | None]:
    """Gradients in the order of the fields of the node's weights, from the padded ones; None: not computed."""
    s = setting.steps[n]
    found: dict[str, Tensor | None] = dict.fromkeys(s.kind.weights._fields)
    matrix, matrix_x, sums, own = grads.matrix[n], grads.matrix_x[n], grads.sums[n], grads.own[n]

    def blocks(of_z: Tensor, field: str, first: int, columns: int) -> Tensor:
        """The rows of z that a matrix contributes to, in the matrix's order."""
        rows = of_z.view(s.blocks, s.width, -1)[:, : s.size, first : first + columns]
        return _picked(rows, s.kind.rows(field)).view(-1, columns)

    if matrix is not None:
        found["w_h"] = blocks(matrix, "w_h", s.h_at, s.size)
        if s.reads_node:
            found["w_x"] = blocks(matrix, "w_x", 0, s.x_size)
    if matrix_x is not None:
        found["w_x"] = blocks(matrix_x, "w_x", 0, s.x_size)
    if sums is not None:
        totals = [part.sum(0).view(-1, s.width)[:, : s.size] for part in (sums, own) if part is not None]
        vectors = torch.cat(totals)
        for field, places in s.kind.vectors.items():
            if max(places) < len(vectors):
                found[field] = _picked(vectors, places).view(-1)
    return list(found.values())


def _picked(blocks: Tensor, places: Sequence[int]) -> Tensor:
    """The blocks at the given places."""
    return torch.cat([blocks[place : place + count] for _, place, count in runs(places)])
