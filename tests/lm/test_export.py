"""Exported files compute what the models compute, by another program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastslow import CharLM
from fastslow.data import Alphabet
from fastslow.lm import LMConfig
from fastslow.lm.export import ExportError, export_onnx, state_names
from fastslow.state import state_tensors

KINDS: list[dict[str, Any]] = [
    {"slow_size": 4, "depth": 3, "zoneout_c": 0.25, "zoneout_h": 0.125, "dropout": 0.5},
    {"architecture": "stacked", "depth": 2, "layer_norm": False},
    {"architecture": "sequential", "depth": 2},
]


def small(**options: Any) -> CharLM:
    torch.manual_seed(1)
    return CharLM(LMConfig(hidden_size=6, embedding_size=3, alphabet=Alphabet(b"\nab"), **options))


def test_names_of_the_state() -> None:
    names = [state_names(small(**kind)) for kind in KINDS]
    assert names == [
        ["fast_h", "fast_c", "slow_h", "slow_c"],
        ["layer0_h", "layer0_c", "layer1_h", "layer1_c"],
        ["state_h", "state_c"],
    ]


@pytest.mark.parametrize("window", [0, 257])
def test_windows_out_of_bounds(window: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"window must be from 1 to 256 steps; got {window}"):
        export_onnx(small(), tmp_path / "lm.onnx", window=window)


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"the package onnx is not installed; .*pip install 'fastslow\[export\]'"):
        export_onnx(small(), tmp_path / "lm.onnx")


def streamed(path: Path, lm: CharLM, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits (T, B, V) of the file, a step at a time from the zero state."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert bytes.fromhex(session.get_modelmeta().custom_metadata_map["alphabet"]) == b"\nab"
    state = {
        name: leaf.numpy()
        for name, leaf in zip(state_names(lm), state_tensors(lm.initial_state(tokens.shape[1])), strict=True)
    }
    found = []
    for row in tokens:
        logits, *new = session.run(None, {"tokens": row, **state})
        state = dict(zip(state, new, strict=True))
        found.append(logits)
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("architecture", "fs-lstm"))
def test_steps_of_the_file_are_the_model_s(kind: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    lm = small(**kind).train()
    assert export_onnx(lm, tmp_path / "lm.onnx") < 1e-5
    assert lm.training  # it is a copy that is exported
    tokens = torch.randint(3, (20, 5), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, _ = lm.eval()(tokens)
    np.testing.assert_allclose(streamed(tmp_path / "lm.onnx", lm, tokens.numpy()), wanted.numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_window_is_its_steps(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    lm = small(**KINDS[0]).eval()
    assert export_onnx(lm, tmp_path / "lm.onnx", window=3) < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "lm.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, "streams"]
