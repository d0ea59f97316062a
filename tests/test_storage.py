from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from fastslow.storage import (
    ModelError,
    StorageError,
    TensorSpec,
    read_json,
    read_tensors,
    remove_parts,
    write_atomic,
    write_json,
    write_tensors,
)

TENSORS = {
    "b": torch.tensor([True, False]),
    "u": torch.arange(5, dtype=torch.uint8),
    "i": torch.tensor(2**62),
    "h": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "f": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
    "none": torch.zeros(0, 3),
}
NAMES = {"b": "BOOL", "u": "U8", "i": "I64", "h": "BF16", "f": "F32", "none": "F32"}
SPECS = {name: TensorSpec(tuple(value.shape), (NAMES[name],)) for name, value in TENSORS.items()}


def test_tensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {"note": "naïve\n"})
    tensors, metadata = read_tensors(path, lambda metadata: SPECS, what="the tensors")
    assert metadata["note"] == "naïve\n"
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_memory_is_the_readers_own(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {})
    tensors, _ = read_tensors(path, lambda metadata: SPECS, what="the tensors")
    os.truncate(path, 0)
    assert torch.equal(tensors["f"], TENSORS["f"])


def test_expectations_see_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {"version": "9"})

    def expected(metadata: dict[str, str]) -> dict[str, TensorSpec]:
        raise ModelError(f"version {metadata['version']}")

    with pytest.raises(ModelError, match="version 9"):
        read_tensors(path, expected, what="the tensors")


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({**SPECS, "z": TensorSpec((), ("F32",))}, "lacks 'z'; do this"),
        ({name: spec for name, spec in SPECS.items() if name != "u"}, "has an unknown 'u'; do this"),
        ({**SPECS, "u": TensorSpec((6,), ("U8",))}, r"u must be U8 \(6,\); got U8 \(5,\); do this"),
        ({**SPECS, "u": TensorSpec((5,), ("F32", "F64"))}, r"u must be F32 or F64 \(5,\); got U8 \(5,\)"),
    ],
)
def test_what_was_not_expected(tmp_path: Path, specs: dict[str, TensorSpec], message: str) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {})
    with pytest.raises(ModelError, match=message):
        read_tensors(path, lambda metadata: specs, what="the tensors", remedy="do this")


def test_folders_and_nothing_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="cannot read the tensors"):
            read_tensors(path, lambda metadata: {}, what="the tensors")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fill(file: IO[bytes]) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fill)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.123.part").write_bytes(b"half")
    (tmp_path / "kept.part").write_bytes(b"a user's")
    remove_parts(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.part"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write the note to .*none: no such file or directory"):
        write_json(tmp_path / "none" / "a.json", {}, what="the note")


def test_json_numbers_are_exact(tmp_path: Path) -> None:
    value = {"a": 0.1 + 0.2, "b": 2**62 + 1, "c": [1e-310, None, "é"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", what="the note") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})


def test_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write_json(tmp_path / name, 1)
        assert read_json_value(tmp_path / name) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/file")
    for value in (1, 2):  # the file does not exist, then does
        write_json(link, value)
        assert link.is_symlink()
        assert read_json_value(tmp_path / "folder" / "file") == value


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, [1, 2])
        assert json.loads(os.read(reader, 100)) == [1, 2]
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def read_json_value(path: Path) -> Any:
    return json.loads(path.read_text())
