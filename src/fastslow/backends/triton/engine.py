"""The "triton" engine: what it takes, and its place in autograd. It needs a CUDA device and Triton; no compiler.

Kernels are compiled at the first run of a shape (seconds; Triton keeps them in its cache). The engine was written to
be captured: `fastslow.training.graphed` records a whole training step, and only so does it reach its speed, because a
window of 150 steps is about a thousand launches.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastslow.backends.base import Problem, Rates, States
from fastslow.backends.once import once
from fastslow.backends.triton import options as run_options
from fastslow.backends.triton.backward import Gradients, Wanted, backward
from fastslow.backends.triton.forward import forward
from fastslow.backends.triton.plan import plan
from fastslow.backends.triton.window import Held, Setting
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise
from fastslow.state import LSTMState
from fastslow.wiring import Wiring

NAME = "triton"
LARGEST = 8192
"""Largest H: a row must fit the registers of one program."""
FIELDS = len(CellWeights._fields)


def refusal(problem: Problem) -> str | None:
    if problem.traced:
        return "torch.compile, torch.export and torch.func see the loop instead"
    if problem.device.type != "cuda" and not (problem.device.type == "cpu" and _interpreting()):
        return f"it runs on a CUDA device, and x is on {problem.device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if problem.dtype != torch.float32:
        return f"its weights are torch.float32 (bfloat16 comes from autocast), and these are {problem.dtype}"
    kind = _kind(problem.autocast)
    if kind not in (torch.float32, torch.bfloat16):
        return f"its products are float32 or bfloat16, and autocast asks for {kind}"
    if max(problem.hidden_sizes) > LARGEST:
        return f"hidden sizes go up to {LARGEST}; got {max(problem.hidden_sizes)}"
    if problem.device.type == "cuda":
        return _device_refusal(problem.device, kind)
    return None


def reluctance(problem: Problem) -> str | None:
    """Why "auto" passes the engine over where it could run."""
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
    """The type of matrix operands."""
    asked = run_options.current().precision
    return asked if asked is not None else autocast if autocast is not None else torch.float32


def run(
    wiring: Wiring,
    weights: Sequence[CellWeights],
    x: Tensor,
    state: States,
    noise: Noise | None,
    rates: Rates,
    lengths: Tensor | None = None,
) -> tuple[Tensor, States]:
    device = x.device.type
    kind = _kind(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)
    setting = Setting(
        wiring=wiring,
        steps=plan(wiring, weights),
        T=x.shape[0],
        B=x.shape[1],
        rates=rates,
        random=noise is not None,
        first_step=0 if noise is None else noise.first_step,
        first_row=0 if noise is None else noise.first_row,
        kind=kind,
        options=run_options.current(),
        norm=weights[0].layer_norm,
    )
    key = None if noise is None else noise.key
    leaves = [leaf for pair in state for leaf in pair]
    parameters = [parameter for cell in weights for parameter in cell]
    wanted = any(t is not None and t.requires_grad for t in (x, *leaves, *parameters))
    with torch.autocast(device, enabled=False), _on(x.device):
        if torch.is_grad_enabled() and wanted:
            y, *final = _Window.apply(setting, key, lengths, x, *leaves, *parameters)  # type: ignore[no-untyped-call]
            return y, tuple(LSTMState(*final[2 * slot : 2 * slot + 2]) for slot in range(len(state)))
        with torch.no_grad():
            y, new, _ = forward(setting, weights, x, state, key, lengths, keep=False)
        return y, new


def _on(device: torch.device) -> torch.cuda.device:
    """Triton launches on the current device; -1 leaves it as it is."""
    index = -1 if device.type != "cuda" else torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.device(index)


class _Window(torch.autograd.Function):
    """x, h and c of every slot, parameters of every node -> y, h and c of every slot."""

    @staticmethod
    def forward(
        ctx: Any, setting: Setting, key: Tensor | None, lengths: Tensor | None, x: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        slots, nodes = len(setting.wiring.slots), len(setting.steps)
        leaves, parameters = tensors[: 2 * slots], tensors[2 * slots :]
        state = tuple(LSTMState(*leaves[2 * slot : 2 * slot + 2]) for slot in range(slots))  # type: ignore[arg-type]
        weights = [CellWeights(*parameters[FIELDS * n : FIELDS * (n + 1)]) for n in range(nodes)]  # type: ignore[arg-type]
        y, final, held = forward(setting, weights, x, state, key, lengths, keep=True)
        ctx.setting, ctx.counts = setting, held.counts()
        ctx.save_for_backward(*held.flat())
        ctx.set_materialize_grads(False)
        return (y, *(leaf for pair in final for leaf in pair))

    @staticmethod
    @once(NAME)
    def backward(ctx: Any, dy: Tensor | None, *dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        setting: Setting = ctx.setting
        slots, nodes = len(setting.wiring.slots), len(setting.steps)
        held = Held.unflat(ctx.counts, ctx.saved_tensors)
        needs = ctx.needs_input_grad[3:]
        of_parameters = needs[1 + 2 * slots :]
        cells = [CellWeights(*of_parameters[FIELDS * n : FIELDS * (n + 1)]) for n in range(nodes)]
        want = Wanted(
            x=needs[0],
            matrices=tuple(bool(cell.w_x or cell.w_h) for cell in cells),
            vectors=tuple(any(cell[2:]) for cell in cells),
        )
        device = next(z.device for z in held.z if z is not None)
        with torch.autocast(device.type, enabled=False), _on(device):
            grads = backward(setting, held, dy, dfinal, want)
            found: list[Tensor | None] = [grads.x]
            for slot in range(slots):
                size = next(s.size for s in setting.steps if s.slot == slot)
                found += [grads.dh[slot][:, :size], grads.dc[slot][:, :size]]
            for n in range(nodes):
                found += _parameter_gradients(setting, grads, n)
        keep = (needs[0], *needs[1 : 1 + 2 * slots], *of_parameters)
        return (None, None, None, *(grad if needed else None for grad, needed in zip(found, keep, strict=True)))


def _parameter_gradients(setting: Setting, grads: Gradients, n: int) -> list[Tensor | None]:
    """Gradients in the order of `CellWeights`' fields, out of the padded ones."""
    s = setting.steps[n]
    found: dict[str, Tensor | None] = dict.fromkeys(CellWeights._fields)
    matrix, matrix_x, sums, cell = grads.matrix[n], grads.matrix_x[n], grads.sums[n], grads.cell[n]
    if matrix is not None:
        rows = matrix.view(4, s.width, -1)[:, : s.size]
        found["w_h"] = rows[..., s.h_at : s.h_at + s.size].reshape(4 * s.size, s.size)
        if s.reads_node:
            found["w_x"] = rows[..., : s.x_size].reshape(4 * s.size, s.x_size)
    if matrix_x is not None:
        rows = matrix_x.view(4, s.width, -1)[:, : s.size, : s.x_size]
        found["w_x"] = rows.reshape(4 * s.size, s.x_size)
    if sums is not None:
        totals = sums.sum(0).view(-1, 4, s.width)[..., : s.size].flatten(1)
        found["bias"] = totals[0]
        if setting.norm:
            found["gate_shift"], found["gate_gain"] = totals[1], totals[2]
    if cell is not None:
        parts = cell.sum(0).view(2, s.width)[:, : s.size]
        found["cell_shift"], found["cell_gain"] = parts[0], parts[1]
    return [found[name] for name in CellWeights._fields]
