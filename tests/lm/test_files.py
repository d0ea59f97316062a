from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastslow.errors import FastslowError
from fastslow.lm import CharLM, ModelError, StorageError

from .models import small_lm


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_lm().save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def message(folder: Path) -> str:
    with pytest.raises(FastslowError) as caught:
        CharLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_keeps_weights_type_and_configuration(tmp_path: Path, dtype: torch.dtype) -> None:
    lm = small_lm(dtype=dtype, dropout=0.25)
    lm.save_pretrained(tmp_path / "a" / "b")
    other = CharLM.from_pretrained(tmp_path / "a" / "b")
    assert other.config == lm.config
    assert not other.training
    for (name, mine), (_, theirs) in zip(lm.named_parameters(), other.named_parameters(), strict=True):
        assert theirs.dtype == dtype, name
        assert torch.equal(mine, theirs), name
        assert theirs.requires_grad
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_type_and_engine_can_be_chosen(saved: Path) -> None:
    lm = CharLM.from_pretrained(str(saved), backend="reference", dtype=torch.float64)
    assert lm.layer.backend == "reference"
    assert {p.dtype for p in lm.parameters()} == {torch.float64}


def test_saving_again_replaces(saved: Path) -> None:
    small_lm(9).save_pretrained(saved)
    assert torch.equal(CharLM.from_pretrained(saved).head.weight, small_lm(9).head.weight)


def test_the_file_is_the_librarys_format(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    assert weights.keys() == small_lm().state_dict().keys()
    assert all(torch.equal(value, small_lm().state_dict()[name]) for name, value in weights.items())


def test_a_file_of_the_library_can_be_read(saved: Path) -> None:
    save_file(small_lm(4).state_dict(), saved / "model.safetensors")
    assert torch.equal(CharLM.from_pretrained(saved).head.weight, small_lm(4).head.weight)


def test_the_same_weights_make_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    small_lm().save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_missing(saved: Path, tmp_path: Path) -> None:
    assert "there is no model" in message(tmp_path / "none")
    assert "it has no config.json" in message(tmp_path)
    assert "is not a folder" in message(saved / "config.json")
    (saved / "model.safetensors").unlink()
    assert "it has no model.safetensors; if it is a run" in message(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b" " * (2 << 20),
        b"9" * 5000,
    ],
)
def test_configurations_that_are_no_json_object(saved: Path, text: bytes) -> None:
    (saved / "config.json").write_bytes(text)
    assert "config.json" in message(saved)


def test_newer_configuration(saved: Path) -> None:
    value = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**value, "format_version": 7}))
    assert "written by a newer fastslow" in message(saved)


def test_weights_of_another_model(saved: Path) -> None:
    small_lm(hidden_size=8).save_pretrained(saved.parent / "other")
    (saved / "model.safetensors").write_bytes((saved.parent / "other" / "model.safetensors").read_bytes())
    assert "does not fit its configuration: " in message(saved)
    small_lm(depth=3).save_pretrained(saved.parent / "deeper")
    (saved / "model.safetensors").write_bytes((saved.parent / "deeper" / "model.safetensors").read_bytes())
    assert "it has an unknown 'layer.fast.2.bias' and 5 more" in message(saved)


def test_weights_that_lack_one(saved: Path) -> None:
    weights = small_lm().state_dict()
    del weights["head.bias"]
    save_file(weights, saved / "model.safetensors")
    assert "it lacks 'head.bias'" in message(saved)


def test_weights_of_two_types(saved: Path) -> None:
    weights = small_lm().state_dict()
    weights["head.bias"] = weights["head.bias"].double()
    save_file(weights, saved / "model.safetensors")
    assert "mixes the types float32, float64" in message(saved)


def damages() -> dict[str, Any]:
    return {
        "empty": lambda data: b"",
        "cut in the header": lambda data: data[:40],
        "cut in the weights": lambda data: data[:-3],
        "longer": lambda data: data + b"xyz",
        "header longer than the file": lambda data: struct.pack("<Q", 1 << 60) + data[8:],
        "header of zeros": lambda data: data[:8] + bytes(len(data) - 8),
        "a weight changed": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_weights(saved: Path, damage: str) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(damages()[damage](file.read_bytes()))
    assert "is damaged: " in message(saved)


def test_sizes_are_checked_before_memory_is_taken(saved: Path) -> None:
    # A configuration that claims 65536 x 65536 weights, with a file that claims as many: 16 GiB.
    value = json.loads((saved / "config.json").read_text())
    value["hidden_size"] = 65536
    (saved / "config.json").write_text(json.dumps(value))
    assert "does not fit its configuration" in message(saved)
    header = json.dumps({"head.weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}})
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert "is damaged" in message(saved)


def test_a_full_disk_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write the model's configuration to .*: the disk is full"):
        small_lm(9).save_pretrained(saved)
    monkeypatch.undo()
    assert torch.equal(CharLM.from_pretrained(saved).head.weight, small_lm().head.weight)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        small_lm().save_pretrained(tmp_path / "file" / "lm")


def test_the_hub(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[str] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(name)
        assert allow_patterns == ["config.json", "model.safetensors"]
        if name == "someone/nothing":
            raise OSError("404 not found\nfor url")
        return str(saved)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert torch.equal(CharLM.from_pretrained("someone/model").head.weight, small_lm().head.weight)
    with pytest.raises(ModelError, match=r"the Hugging Face Hub has no model with this name: 404 not found$"):
        CharLM.from_pretrained("someone/nothing")
    assert asked == ["someone/model", "someone/nothing"]
