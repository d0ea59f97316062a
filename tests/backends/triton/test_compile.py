"""Every kernel, as the engine launches it, compiles to machine code for sm_90 on a machine without a GPU.

In processes of their own: a driver of a device that is not there should not meet other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: its kernels cannot be compiled")
ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, sys, torch
from fastslow import FSLSTM
from tests.backends.triton.compiled import compile_training

sizes, precision, changes = json.loads(sys.argv[1])
layer = FSLSTM(*sizes, dropout=0.3, zoneout_h=0.1, zoneout_c=0.3)
made = compile_training(layer, precision=getattr(torch, precision), **changes)
told = []
for name, constants, kernel in made:
    ptx = kernel.asm["ptx"]
    told.append({
        "kernel": name, "cubin": len(kernel.asm["cubin"]), "waits": "griddepcontrol.wait" in ptx,
        "local": ".local" in ptx, "target": ptx.partition(".target ")[2].split()[0], "constants": constants,
    })
print(json.dumps(told))
"""


def compiled(tmp_path: Path, sizes: tuple[int, ...], precision: str, **changes: object) -> list[dict[str, object]]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([sizes, precision, changes])],
        cwd=ROOT,
        env={**env, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return result


def check(made: list[dict[str, object]], waits: bool = False) -> None:
    assert {kernel["kernel"] for kernel in made} == {
        "step_forward",
        "step_backward",
        "drop_copy",
        "norm_sums",
        "column_sums",
    }
    for kernel in made:
        assert kernel["cubin"], kernel
        assert str(kernel["target"]).startswith("sm_90"), kernel
        assert not kernel["local"], f"an array of this kernel is not in registers: {kernel}"
        assert kernel["waits"] == (waits and str(kernel["kernel"]).startswith("step_")), kernel


def test_a_small_layer_in_bfloat16(tmp_path: Path) -> None:
    check(compiled(tmp_path, (5, 20, 7), "bfloat16"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", [(128, 700, 400), (256, 1200, 1500, 4), (3, 5, 2)])
def test_the_papers_layers(tmp_path: Path, sizes: tuple[int, ...], precision: str) -> None:
    check(compiled(tmp_path, sizes, precision))


@pytest.mark.slow
def test_dependent_launches_wait(tmp_path: Path) -> None:
    check(compiled(tmp_path, (128, 700, 400), "bfloat16", dependent_launch=True), waits=True)
