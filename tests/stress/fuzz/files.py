"""The files of a run: their names, the layout of tensors, and checks."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

JSON_FILES = ("config.json", "run.json", "result.json")
TENSOR_FILES = ("model.safetensors", "checkpoint.safetensors")
METRICS = "metrics.jsonl"
FILES = (*JSON_FILES, *TENSOR_FILES, METRICS)
Folder = dict[str, bytes | None]
"""The content of each file; None for one that is a folder."""


class Failure(Exception):
    """A check has failed."""


def read_safetensors(data: bytes | None) -> dict[str, bytes]:
    """The bytes of every tensor, read without a library."""
    header, body = split_safetensors(data or b"")
    return {
        name: body[slice(*told["data_offsets"])] + str((told["dtype"], told["shape"])).encode()
        for name, told in header.items()
        if name != "__metadata__"
    }


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_safetensors(header: bytes, body: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + body


def signed(header: dict[str, Any], body: bytes) -> None:
    """Update the checksums, as far as the header is still valid."""
    from fastslow import storage

    try:
        names = sorted(
            (name for name in header if name != "__metadata__"),
            key=lambda name: (-_ITEM[header[name]["dtype"]], name),
        )
        digest = hashlib.sha256()
        for name in names:
            digest.update(body[slice(*header[name]["data_offsets"])])
        metadata = header["__metadata__"]
        metadata[storage.CHECKSUM] = digest.hexdigest()
        shapes = {name: (header[name]["dtype"], tuple(header[name]["shape"])) for name in names}
        metadata[storage.HEADER_CHECKSUM] = storage.header_checksum(metadata, shapes)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return


_ITEM = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Failure(message)


def one_line(error: Exception) -> None:
    text = str(error)
    require(
        len(text.splitlines()) == 1 and len(text) < 2000, f"not one line of less than 2,000 letters: {text[:3000]!r}"
    )


def write_files(folder: Path, files: Folder) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
