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
from fastslow.layers.wired import WiredRNN
from fastslow.wiring import fast_slow
from tests.backends.triton.compiled import compile_training, local_bytes

sizes, precision, cell, changes = json.loads(sys.argv[1])
inputs, fast, slow, *count = sizes
rates = {"zoneout_h": 0.1, "dropout": 0.3} | ({"zoneout_c": 0.3} if cell == "lstm" else {})
layer = WiredRNN(fast_slow(*count), inputs, {"fast": fast, "slow": slow}, cell=cell, **rates)
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


def compiled(
    tmp_path: Path, sizes: tuple[int, ...], precision: str, cell: str | dict[str, str] = "lstm", **changes: object
) -> list[dict[str, Any]]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([sizes, precision, cell, changes])],
        cwd=ROOT,
        env={**env, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return result


KERNELS = {"lstm_forward", "lstm_backward", "drop_copy", "norm_sums", "column_sums"}


def check(made: list[dict[str, Any]], waits: bool = False, kernels: set[str] = KERNELS) -> None:
    assert {kernel["kernel"] for kernel in made} - {"part_product"} == kernels
    for kernel in made:
        assert kernel["cubin"], kernel
        assert str(kernel["target"]).startswith("sm_90"), kernel
        assert not kernel["local"], f"not all of this kernel is in registers: {kernel}"
        assert kernel["waits"] == (waits and kernel["constants"].get("DEPENDENT", False)), kernel


def check_waiting(made: list[dict[str, Any]]) -> None:
    check(made, waits=True)
    forward = [kernel for kernel in made if kernel["kernel"] == "lstm_forward"]
    for kernel in forward:
        # h and c, and of bias, gains and shifts the four gates' and c's; behind: z of four gates, and the key.
        assert kernel["loads_ahead"] >= 2 + 3 * 4 + 2, kernel
        assert kernel["loads_behind"] <= kernel["loads_ahead"] - 8, kernel
    # The very first one of a backward pass does not run ahead.
    assert {kernel["waits"] for kernel in made if kernel["kernel"] == "lstm_backward"} == {True, False}


@pytest.mark.slow
def test_a_small_layer_in_bfloat16(tmp_path: Path) -> None:
    made = compiled(tmp_path, (5, 20, 7), "bfloat16", dependent_launch=True, own_products=True)
    check_waiting(made)
    assert all(kernel["waits"] for kernel in made if kernel["kernel"] == "part_product")


MIXED = {"fast.0": "gru", "slow": "lstm", "fast.1": "tanh", "fast.2": "relu"}
OF_MIXED = {f"{cell}_{way}" for cell in ("lstm", "gru", "simple") for way in ("forward", "backward")}


def test_every_cell_in_ragged_windows(tmp_path: Path) -> None:
    made = compiled(tmp_path, (5, 20, 7, 3), "bfloat16", MIXED, dependent_launch=True, ragged=True)
    check(made, waits=True, kernels=OF_MIXED | {"drop_copy", "norm_sums", "column_sums"})
    of_cells = [kernel for kernel in made if kernel["kernel"] in OF_MIXED]
    assert {kernel["constants"]["RESETS"] for kernel in of_cells} == {True, False}  # the last of a slot, and others
    for kernel in of_cells:
        if kernel["kernel"] == "gru_forward":  # h and the four sums' biases, gains and shifts; behind: z and the key
            assert kernel["loads_ahead"] >= 1 + 3 * 4, kernel
            assert kernel["loads_behind"] <= kernel["loads_ahead"] - 6, kernel


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("cell", ["gru", "tanh"])
def test_other_cells_of_the_papers_sizes(tmp_path: Path, cell: str, precision: str) -> None:
    made = compiled(tmp_path, (128, 700, 400), precision, cell, ragged=True)
    kind = {"gru": "gru", "tanh": "simple"}[cell]
    rest = {"drop_copy", "column_sums"} if cell == "tanh" else {"drop_copy", "norm_sums"}
    check(made, kernels={f"{kind}_forward", f"{kind}_backward", *rest})


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
