"""Layers on disk: the same layer comes back; damage of every kind is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastslow import FSGRU, FSLSTM, Node, SequentialGRU, SequentialLSTM, StackedGRU, StackedLSTM, WiredRNN, Wiring
from fastslow.storage import ModelError, StorageError

TIERS = Wiring((Node("a", "low", "x"), Node("b", "high", "a"), Node("c", "low", "b", cell="shared")))
LAYERS = [
    FSLSTM(3, 6, slow_size=4, num_fast=3, dropout=0.25, zoneout_c=0.5),
    StackedLSTM(3, 5, num_layers=2, layer_norm=False, bias=False),
    SequentialLSTM(3, 5, num_cells=3, batch_first=True, forget_bias=0.5, dtype=torch.float64),
    WiredRNN(TIERS, 3, {"low": 4, "high": 2}, zoneout_h=0.125),
    WiredRNN(TIERS, 3, {"low": 4, "high": 2}, cell="relu"),
    FSGRU(3, 4, 2, zoneout_h=0.25),
    StackedGRU(3, 4, 2),
    SequentialGRU(3, 4, 3, layer_norm=False),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_same_layer_comes_back(layer: WiredRNN, tmp_path: Path) -> None:
    layer.save_pretrained(tmp_path)
    for cls in (type(layer), WiredRNN):
        back = cls.from_pretrained(tmp_path)
        assert type(back) is type(layer)
        assert not back.training
        assert repr(back) == repr(layer)
        for name, value in layer.state_dict().items():
            assert torch.equal(back.state_dict()[name], value)


def test_arguments_of_the_place_are_the_loader_s(tmp_path: Path) -> None:
    FSLSTM(3, 4, backend="window").save_pretrained(tmp_path)
    back = FSLSTM.from_pretrained(tmp_path, backend="reference", dtype=torch.float64)
    assert back.backend == "reference"
    assert back.slow.weight_hh.dtype == torch.float64


class Mine(FSLSTM):
    """A subclass of a user."""


def test_a_subclass_is_its_layer(tmp_path: Path) -> None:
    Mine(3, 4).save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine
    assert type(FSLSTM.from_pretrained(tmp_path)) is FSLSTM


def changed(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is not that of a fastslow layer"),
        ({"format_version": 2}, "upgrade fastslow"),
        ({"layer": "os.system"}, "is damaged: layer must be one of WiredRNN, FSLSTM"),
        ({"arguments": {}}, "has no field"),
        ({"layer": "StackedLSTM"}, "has an unknown field .num_fast."),
    ],
)
def test_configurations_that_are_none(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    FSLSTM(3, 4).save_pretrained(tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        FSLSTM.from_pretrained(tmp_path)


def test_arguments_out_of_bounds(tmp_path: Path) -> None:
    layer = FSLSTM(3, 4)
    layer.save_pretrained(tmp_path)
    changed(tmp_path, arguments={**layer.config_json()["arguments"], "hidden_size": -1})
    with pytest.raises(ModelError, match=r"is damaged: .*greater than zero"):
        FSLSTM.from_pretrained(tmp_path)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    layer = FSLSTM(3, 4)
    layer.save_pretrained(tmp_path)
    changed(tmp_path, arguments={**layer.config_json()["arguments"], "hidden_size": 5})
    with pytest.raises(ModelError, match="does not fit its configuration"):
        FSLSTM.from_pretrained(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    layer = FSLSTM(3, 4)
    layer.save_pretrained(tmp_path)
    with torch.no_grad():
        layer.slow.weight_hh[0, 0] = float("nan")
    layer.save_pretrained(tmp_path / "nan")
    with pytest.raises(ModelError, match="NaN or infinite"):
        FSLSTM.from_pretrained(tmp_path / "nan")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="is damaged"):
        FSLSTM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot read the weights file"):
        FSLSTM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="it is not JSON"):
        FSLSTM.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="there is no folder"):
        FSLSTM.from_pretrained(tmp_path / "none")
    with pytest.raises(StorageError, match="cannot make the folder"):
        layer.save_pretrained(tmp_path / "config.json")
