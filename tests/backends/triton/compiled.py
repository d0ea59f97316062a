"""Compile what the engine launches for a GPU that need not be there."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastslow.backends.triton import engine, ops, options
from fastslow.layers.wired import WiredRNN
from fastslow.noise import Noise, draw_key


class Target:
    """A driver of a device of compute capability 9.0 that can compile for it, and nothing else."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling() -> Iterator[list[tuple[str, dict[str, Any], Any]]]:
    """Inside, the engine's launches compile, for sm_90, and do not run; the list is of (kernel, constants, compiled).

    For a process of its own, which has no other use for Triton: its driver is replaced.
    """
    from triton.runtime import driver

    made: list[tuple[str, dict[str, Any], Any]] = []
    seen: set[int] = set()

    def launch(
        kernel: str, grid: tuple[int, ...], *args: Any, warps: int, dependent: bool = False, **constants: Any
    ) -> None:
        settings = {"num_warps": warps, **({"launch_pdl": True} if dependent else {})}
        done = ops.found(kernel).run(*args, grid=grid, warmup=True, **constants, **settings)
        if id(done) not in seen:
            seen.add(id(done))
            made.append((kernel, constants, done))

    before, ops.launch = ops.launch, launch
    driver.set_active(Target())
    try:
        yield made
    finally:
        ops.launch = before


def local_bytes(cubin: bytes) -> int:
    """Bytes of memory a thread has for what does not fit its registers, by the disassembler that comes with Triton."""
    from triton.backends import nvidia

    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?:STACK|LOCAL):(\d+)", told)
    assert len(found) == 2, told
    return sum(map(int, found))


def compile_training(
    layer: WiredRNN, T: int = 2, B: int = 2, *, ragged: bool = False, **changes: Any
) -> list[tuple[str, dict[str, Any], Any]]:
    """Everything one window of training and one of evaluation launches. Results are those of unwritten memory.

    ragged: rows end and start anew inside the window.
    """
    x = torch.randn(T, B, layer.input_size)
    anew = torch.zeros(T, B, dtype=torch.bool) if ragged else None
    ends = torch.full((B,), T - 1) if ragged else None
    with options.using(**changes), compiling() as made:
        for noise in (Noise(draw_key()), None):
            state = layer._states(None, x, True, x.dtype)
            y, _ = engine.run(layer.wiring, layer.weights(), x, state, noise, layer.rates, ends, anew)
            y.sum().backward()
    return made
