#!/usr/bin/env python3
"""Pack a run into a few small files, for machines whose disk is not kept between calls.

    python -m experiments.carried FOLDER RUN      restore a run folder from the files that `experiments/gpu.py` wrote to
                                                  FOLDER

The files are the parts of one archive, carried.0 and so on, and carried.json with their lengths and SHA-256. For an
incomplete run the archive contains its small files, and the following tensors:

    weights, their average, state, random generators    exactly
    Adam's two moments                                  rounded to bfloat16
    the best weights, if they are not the latest        rounded to bfloat16; omitted if they do not fit

The exponent byte of a float takes few values and is compressed. For a complete run the archive contains everything
except the checkpoint, exactly.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

CHECKPOINT, WEIGHTS, RESULT = "checkpoint.safetensors", "model.safetensors", "result.json"
SMALL = ("run.json", "config.json", "metrics.jsonl", RESULT)
TENSORS, MANIFEST, PART = "tensors.safetensors", "carried.json", "carried."
PART_BYTES, MOST_BYTES, MOST_PARTS = 15 << 20, 56 << 20, 5
"""The maximum size of a part and of all parts, and the number of parts; this leaves three more small files."""
ROUNDED = ("exp_avg", "exp_avg_sq", "best")
MODEL, BEST = "model.", "best."


class CarriedError(Exception):
    """The files do not contain a run, or the run does not fit into them."""


@dataclass(frozen=True)
class Packed:
    """The content of the files: the update of the checkpoint, or the last one of a complete run; whether the run is
    complete; the bytes of all parts; whether the best weights were omitted."""

    update: int
    complete: bool
    size: int
    best_left_out: bool


def update_of(run: Path) -> int:
    """The update of the checkpoint in a run folder; -1 without one."""
    try:
        with safe_open(run / CHECKPOINT, "pt") as file:
            return int(json.loads(file.metadata()["fastslow"])["position"]["update"])
    except (OSError, KeyError, TypeError, ValueError):
        return -1


# ---------------------------------------------------------------------------------------------------- tensors


def _stream(name: str) -> str | None:
    """The group of tensors that this one is packed with, with similar exponents; None: packed unchanged."""
    group, _, rest = name.partition(".")
    if group == "adam":
        what = rest.rpartition(".")[2]
        return what if what in ROUNDED else None
    return group if group in ("model", "average", "best") else None


def compact(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The floats as bytes, with compressed exponents, and the JSON plan for `expanded`."""
    streams: dict[str, list[str]] = {}
    made: dict[str, Tensor] = {}
    for name in sorted(tensors):
        stream = _stream(name)
        if stream is None or tensors[name].dtype != torch.float32:
            made[f"other.{name}"] = tensors[name].contiguous()
        else:
            streams.setdefault(stream, []).append(name)
    plan: dict[str, Any] = {}
    for stream, names in streams.items():
        flat = torch.cat([tensors[name].reshape(-1) for name in names])
        values = flat.bfloat16() if stream in ROUNDED else flat
        size = values.element_size()
        raw = values.view(torch.uint8).numpy().reshape(-1, size)
        top = zlib.compress(raw[:, -1].tobytes(), 1)
        made[f"low.{stream}"] = torch.from_numpy(np.ascontiguousarray(raw[:, :-1]))
        made[f"top.{stream}"] = torch.frombuffer(bytearray(top), dtype=torch.uint8)
        plan[stream] = [[name, list(tensors[name].shape)] for name in names]
    return made, json.dumps(plan)


def expanded(made: Mapping[str, Tensor], plan: str) -> dict[str, Tensor]:
    """The inverse of `compact`: all tensors in their own dtypes; some of them are rounded."""
    tensors = {name.removeprefix("other."): value for name, value in made.items() if name.startswith("other.")}
    for stream, entries in json.loads(plan).items():
        low = made[f"low.{stream}"].numpy()
        top = np.frombuffer(zlib.decompress(made[f"top.{stream}"].numpy().tobytes()), dtype=np.uint8)
        raw = np.concatenate([low, top[:, None]], axis=1)
        kind = torch.bfloat16 if stream in ROUNDED else torch.float32
        flat = torch.from_numpy(raw.reshape(-1)).view(kind).float()
        at = 0
        for name, shape in entries:
            count = int(np.prod(shape, dtype=np.int64))
            tensors[name] = flat[at : at + count].reshape(shape).clone()
            at += count
    return tensors


# ---------------------------------------------------------------------------------------------------- packing


def _packed_tensors(run: Path, with_best: bool) -> tuple[bytes, int, bool]:
    """The checkpoint as bytes, its update, and whether best weights that are not the latest are omitted."""
    with safe_open(run / CHECKPOINT, "pt") as file:
        head = file.metadata()["fastslow"]
    tensors = load_file(run / CHECKPOINT)
    position = json.loads(head)["position"]
    metadata = {"fastslow": head}
    apart = position["best_update"] is not None and position["best_update"] != position["update"]
    if apart and with_best and (run / WEIGHTS).is_file():
        with safe_open(run / WEIGHTS, "pt") as file:
            told = file.metadata() or {}
        if told.get("update") == str(position["best_update"]):  # not those of an older one
            tensors |= {BEST + name: value for name, value in load_file(run / WEIGHTS).items()}
            apart = False
    made, metadata["plan"] = compact(tensors)
    return save(made, metadata), position["update"], apart


def _archive(run: Path, with_best: bool) -> tuple[bytes, Packed]:
    complete = (run / RESULT).is_file()
    files = {name: (run / name).read_bytes() for name in SMALL if (run / name).is_file()}
    left_out = False
    if complete:
        files[WEIGHTS] = (run / WEIGHTS).read_bytes()
        update = int(json.loads(files[RESULT])["updates"])
    else:
        files[TENSORS], update, left_out = _packed_tensors(run, with_best)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    data = buffer.getvalue()
    return data, Packed(update, complete, len(data), left_out)


def pack(run: Path, out: Path, *, part: int = PART_BYTES, most: int = MOST_BYTES, parts: int = MOST_PARTS) -> Packed:
    """Replace the files in `out` by those of the current run. CarriedError if they would be too large.

    They are written next to the run and then moved: a killed process leaves the old or the new files, except during the
    move itself, which the checksums detect.
    """
    most = min(most, part * parts)
    data, packed = _archive(run, True)
    if len(data) > most and not packed.complete:
        data, packed = _archive(run, False)
    if len(data) > most:
        raise CarriedError(f"the run {run} takes {len(data) / 2**20:.1f} MiB; the limit is {most / 2**20:.1f} MiB")
    beside = run.parent / f".{run.name}-carried"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    blocks = [data[at : at + part] for at in range(0, len(data), part)]
    manifest = {
        "update": packed.update,
        "complete": packed.complete,
        "parts": [{"bytes": len(block), "sha256": hashlib.sha256(block).hexdigest()} for block in blocks],
    }
    for n, block in enumerate(blocks):
        (beside / f"{PART}{n}").write_bytes(block)
    (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{PART}*"):
        old.unlink()
    for file in sorted(beside.iterdir()):
        shutil.move(file, out / file.name)
    beside.rmdir()
    return packed


def packed_update(folder: Path) -> int:
    """The update of the files in `folder`; -1 without any. CarriedError for incomplete files."""
    return -1 if not (folder / MANIFEST).is_file() else int(_manifest(folder)["update"])


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        whole = int(manifest["update"]) >= -1 and all(part["sha256"] for part in manifest["parts"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CarriedError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if not whole:
        raise CarriedError(f"{folder / MANIFEST} is damaged")
    return manifest


def unpack(folder: Path, run: Path) -> Packed:
    """Restore the run folder `run` from the files in `folder`, replacing its content. CarriedError if damaged."""
    manifest = _manifest(folder)
    blocks = []
    for n, part in enumerate(manifest["parts"]):
        path = folder / f"{PART}{n}"
        block = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(block).hexdigest() != part["sha256"]:
            parts = len(manifest["parts"])
            raise CarriedError(f"{path} is missing or damaged: copy all {parts} parts of one call")
        blocks.append(block)
    data = b"".join(blocks)
    if run.exists():
        shutil.rmtree(run)
    run.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(run, filter="data")
    left_out = False
    if (run / TENSORS).is_file():
        left_out = _expand(run)
    return Packed(int(manifest["update"]), bool(manifest["complete"]), len(data), left_out)


def _expand(run: Path) -> bool:
    """Restore the checkpoint and the best weights from the packed files; returns whether the latter are missing."""
    with safe_open(run / TENSORS, "pt") as file:
        metadata = file.metadata()
    tensors = expanded(load_file(run / TENSORS), metadata["plan"])
    best = {name.removeprefix(BEST): value for name, value in tensors.items() if name.startswith(BEST)}
    rest = {name: value for name, value in tensors.items() if not name.startswith(BEST)}
    position = json.loads(metadata["fastslow"])["position"]
    if best:
        told = {"update": str(position["best_update"]), "rounded_to": "bfloat16"}
        (run / WEIGHTS).write_bytes(save(best, told))
    (run / CHECKPOINT).write_bytes(save(rest, {"fastslow": metadata["fastslow"]}))
    (run / TENSORS).unlink()
    return not best and position["best_update"] not in (None, position["update"])


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python experiments/carried.py FOLDER RUN", file=sys.stderr)
        return 2
    try:
        packed = unpack(*map(Path, arguments))
    except CarriedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[1]}: update {packed.update:,}, {'complete' if packed.complete else 'can be resumed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
