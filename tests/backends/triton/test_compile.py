"""Every kernel, as the engine launches it, compiles to machine code for sm_90 on a machine without a GPU.

In processes of their own: a driver of a device that is not there should not meet other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: its kernels cannot be compiled")
ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, sys, torch
from fastslow import FSLSTM
from tests.backends.triton.compiled import compile_training, local_bytes

sizes, precision, changes = json.loads(sys.argv[1])
layer = FSLSTM(*sizes, dropout=0.3, zoneout_h=0.1, zoneout_c=0.3)
made = compile_training(layer, precision=getattr(torch, precision), **changes)
told = []
for name, constants, kernel in made:
    ptx = kernel.asm["ptx"]
    before, waits, after = ptx.partition("griddepcontrol.wait")
    told.append({
        "kernel": name, "cubin": len(kernel.asm["cubin"]), "waits": bool(waits), "constants": constants,
        "loads_ahead": before.count("ld.global"), "loads_behind": after.count("ld.global"),
        "matrix_units": "wgmma.mma_async" in ptx,
        "local": local_bytes(kernel.asm["cubin"]), "target": ptx.partition(".target ")[2].split()[0],
    })
print(json.dumps(told))
"""


def compiled(tmp_path: Path, sizes: tuple[int, ...], precision: str, **changes: object) -> list[dict[str, Any]]:
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
    result: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return result


KERNELS = {"step_forward", "step_backward", "drop_copy", "norm_sums", "column_sums"}


def check(made: list[dict[str, Any]], waits: bool = False) -> None:
    assert {kernel["kernel"] for kernel in made} - {"part_product"} == KERNELS
    for kernel in made:
        assert kernel["cubin"], kernel
        assert str(kernel["target"]).startswith("sm_90"), kernel
        assert not kernel["local"], f"not all of this kernel is in registers: {kernel}"
        assert kernel["waits"] == (waits and kernel["constants"].get("DEPENDENT", False)), kernel


def check_waiting(made: list[dict[str, Any]]) -> None:
    check(made, waits=True)
    forward = [kernel for kernel in made if kernel["kernel"] == "step_forward"]
    for kernel in forward:
        # h and c, and of bias, gains and shifts the four gates' and c's; behind: z of four gates, and the key.
        assert kernel["loads_ahead"] >= 2 + 3 * 4 + 2, kernel
        assert kernel["loads_behind"] <= kernel["loads_ahead"] - 8, kernel
    # The very first one of a backward pass does not run ahead.
    assert {kernel["waits"] for kernel in made if kernel["kernel"] == "step_backward"} == {True, False}


def test_a_small_layer_in_bfloat16(tmp_path: Path) -> None:
    made = compiled(tmp_path, (5, 20, 7), "bfloat16", dependent_launch=True, own_products=True)
    check_waiting(made)
    assert all(kernel["waits"] for kernel in made if kernel["kernel"] == "part_product")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_products_of_ours_use_the_matrix_units(tmp_path: Path, precision: str) -> None:
    made = compiled(tmp_path, (128, 700, 400), precision, own_products=True, dependent_launch=True, B=128)
    check_waiting(made)
    products = [kernel for kernel in made if kernel["kernel"] == "part_product"]
    assert len(products) >= 3  # three nodes, of two sizes, reading a node or not
    assert all(kernel["matrix_units"] == (precision == "bfloat16") for kernel in products)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", [(128, 700, 400), (256, 1200, 1500, 4), (3, 5, 2)])
def test_the_papers_layers(tmp_path: Path, sizes: tuple[int, ...], precision: str) -> None:
    check(compiled(tmp_path, sizes, precision))


@pytest.mark.slow
def test_dependent_launches_wait(tmp_path: Path) -> None:
    check_waiting(compiled(tmp_path, (128, 700, 400), "bfloat16", dependent_launch=True))
