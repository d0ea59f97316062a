#!/usr/bin/env python3
"""Fuzzing a run's files: every mutation must open correctly, or be refused in one line.

    python tests/stress/fuzz.py                             10,000 cases of seed 0
    python tests/stress/fuzz.py --cases 500 --seed 7 --workers 2
    python tests/stress/fuzz.py --seed 7 --replay 123       one case again: what was changed, and how each opening ended

Small runs are made first: an FS-LSTM that is complete, a stack with averaged weights that was stopped, a sequence
without norms. A case takes the files of one, changes one of them or two, and opens the result as the programs do:

    model      CharLM.from_pretrained, then the score of a short text
    resume     `fastslow train --resume`, up to where it would train; and the checkpoint's tensors
    evaluate   `fastslow evaluate RUN`: the record, the text, the model, the score of the test part
    info       `fastslow info RUN` in words and in JSON
    records    the metrics, and the record that goes into a table of results

Changes are blind (bits flipped, pieces cut, repeated, inserted, exchanged; files emptied, missing, exchanged), or know
the format: values of other types and sizes, NaN, names given twice, unknown fields, newer versions, deep nesting,
another alphabet, tensors declared huge, moved, retyped; most of the latter with all checksums made right again, as a
stranger would.

Each opening ends in a value that is consistent (shapes, finite numbers, and after a blind change of a file with
checksums the very numbers that were stored) or in a FastslowError of one line. It fails by any other exception; by
taking longer than LIMIT_SECONDS, which ends the process with its stack printed; or by memory: the peak of the process's
resident memory during a case (VmHWM of /proc/self/status, set back before each) may be at most twice that of opening
undamaged runs, and at most GROWTH_BYTES above where the case began.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import faulthandler
import hashlib
import io
import json
import math
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 30.0
"""Of one case: a hundred times what one takes on a busy core."""
GROWTH_BYTES = 64 << 20
"""Of memory above where a case began. A JSON file of the largest size read takes about half of it."""
PART = 50
"""Cases after which a process tells what came of them."""
TELL_SECONDS = 60.0
ADDRESS_SPACE = 6 << 30
"""More than this above what a process has at the start is not given to it: an allocation without a check fails."""

WHOLE_COMMANDS = 20
"""Each so many cases `evaluate` and `info` go through the parser of arguments too, which takes longer than they do."""

JSON_FILES = ("config.json", "run.json", "result.json")
TENSOR_FILES = ("model.safetensors", "checkpoint.safetensors")
METRICS = "metrics.jsonl"
FILES = (*JSON_FILES, *TENSOR_FILES, METRICS)

TIMES = ("seconds", "characters_per_second", "elapsed")

Folder = dict[str, bytes | None]
"""The content of each file; None for one that is a folder."""


class Failure(Exception):
    """What must not happen did."""


# ---------------------------------------------------------------------- the runs that are damaged


@dataclass(frozen=True)
class Original:
    """A run as it was made: its files, and the numbers in them."""

    name: str
    files: Folder
    tensors: dict[str, dict[str, bytes]]


def make_originals(folder: Path) -> list[Original]:
    """Train the small runs in `folder`."""
    from dataclasses import replace

    from fastslow.lm import ModelOptions
    from fastslow.training import DataSource, TrainConfig, train
    from fastslow.training.events import Event, Saved

    text = folder / "text.txt"
    text.write_bytes(b"".join(b"%d times %d is %d\n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(60)))
    model = ModelOptions(embedding_size=4, hidden_size=6, slow_size=5, dropout=0.1, zoneout_c=0.2)
    recipe = TrainConfig(
        batch=3,
        window=8,
        epochs=2,
        max_updates=6,
        rate=1e-2,
        schedule="plateau",
        validate_every=3,
        valid_streams=4,
        test_streams=4,
        log_every=2,
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    source = DataSource(texts=(str(text),), alphabet="text")

    class Stopped(BaseException):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Saved) and event.update == 3:
            raise Stopped

    made = []
    for name, options, changes, alphabet, progress in (
        ("complete", model, {}, "text", None),
        ("stopped", replace(model, architecture="stacked", slow_size=None), {"average": 0.9}, "bytes", stop),
        ("no-norms", replace(model, architecture="sequential", slow_size=None, layer_norm=False), {}, "text", None),
    ):
        out = folder / name
        with contextlib.suppress(Stopped):
            train(
                options,
                replace(recipe, **changes),
                replace(source, alphabet=alphabet),
                out,
                device="cpu",
                backend="reference",
                progress=progress,
            )
        if not (out / "model.safetensors").is_file():  # stopped between the checkpoint and the best weights
            from fastslow.training import resume

            def stop_after(event: Event) -> None:
                if type(event).__name__ == "Started":
                    raise Stopped

            with contextlib.suppress(Stopped):
                resume(out, progress=stop_after)
        files: Folder = {file: (out / file).read_bytes() for file in FILES if (out / file).is_file()}
        without_times(files)
        made.append(Original(name, files, {file: read_safetensors(files[file]) for file in TENSOR_FILES}))
    return made


def without_times(files: Folder) -> None:
    """Take out what differs when the same run is made again, so that a case can be."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: 1.5 if k in TIMES else "2026" if k == "started" else timeless(v) for k, v in value.items()}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    for name in JSON_FILES:
        if name in files:
            files[name] = json.dumps(timeless(json.loads(files[name] or b"")), indent=2).encode() + b"\n"
    lines = (files[METRICS] or b"").splitlines()
    files[METRICS] = b"".join(json.dumps(timeless(json.loads(line))).encode() + b"\n" for line in lines)
    header, body = split_safetensors(files["checkpoint.safetensors"] or b"")
    record = timeless(json.loads(header["__metadata__"]["fastslow"]))
    record["position"]["metrics_bytes"] = len(files[METRICS] or b"")
    header["__metadata__"]["fastslow"] = json.dumps(record)
    signed(header, body)
    text = json.dumps(header).encode()
    files["checkpoint.safetensors"] = join_safetensors(text + b" " * (-len(text) % 8), body)


def read_safetensors(data: bytes | None) -> dict[str, bytes]:
    """The bytes of every tensor, read by nobody's library."""
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


# ---------------------------------------------------------------------- blind changes


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 8, 64])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_early(draw: random.Random, data: bytearray) -> None:
    """Where headers are."""
    data[draw.randrange(min(len(data), 1500))] ^= 1 << draw.randrange(8)


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.choice([0, 1, 7, 8, 9, draw.randrange(len(data)), len(data) - 1]) :]


def drop(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randrange(1, 60)]


def insert(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    some = [draw.randbytes(draw.randrange(1, 60)), b"\0" * 8, b"\xff" * 8, b"\n", b'"', b"[" * 3000, b"{", b"}", b"\\"]
    data[at:at] = draw.choice(some)


def exchange(draw: random.Random, data: bytearray) -> None:
    """Two pieces of one length in each other's place."""
    size = draw.randrange(1, max(2, min(80, len(data) // 3)))
    a, b = draw.randrange(len(data) - size), draw.randrange(len(data) - size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def overwrite(draw: random.Random, data: bytearray) -> None:
    at, size = draw.randrange(len(data)), draw.choice([1, 4, 8, 100])
    data[at : at + size] = draw.choice([b"\0", b"\xff", b"\x7f", b"9", b"-"]) * size
    del data[max(at + size, len(data)) :]


def lengthen(draw: random.Random, data: bytearray) -> None:
    data += draw.choice([b"\0", b"\n", b"{}", draw.randbytes(40), bytes(data), b" " * (1 << 20)])


BLIND = (flip, flip, flip_early, cut, drop, insert, exchange, overwrite, lengthen)


# ---------------------------------------------------------------------- JSON

RAW = "\ue000raw:"
"""What follows in a string stands in the text as it is."""


def dump(value: Any) -> bytes:
    """JSON with the raw pieces in their places; surrogates as they are written."""
    parts = json.dumps(value).split(f'"{json.dumps(RAW)[1:-1]}')
    text = parts[0]
    for part in parts[1:]:
        raw, rest = part.split('"', 1)
        text += base64.b64decode(raw).decode() + rest
    return text.encode("utf-8", "surrogatepass")


def raw(text: str) -> str:
    return RAW + base64.b64encode(text.encode()).decode()


def hostile_value(draw: random.Random, old: Any) -> Any:
    """A value in the place of `old`, of its type or of another."""
    kind = draw.randrange(10)
    if kind < 3:
        near: list[Any] = [None, True, False, 0, 1, -1, "", "x", [], {}, 0.5, -0.5, [old], {"x": old}, str(old)]
        if isinstance(old, int | float) and not isinstance(old, bool):
            near += [old + 1, old - 1, -old, old * 2, float(old), old * 1000, old / 3]
        if isinstance(old, str):
            near += [old.upper(), old + "x", old[:-1], old[1:], old * 300, old + "\0", old + "\n", old.encode().hex()]
        if isinstance(old, list):
            near += [old[:-1], old * 2, old[::-1], dict(enumerate(old))]
        return draw.choice(near)
    if kind < 6:
        return draw.choice(
            [
                2**31,
                2**32,
                2**53 + 1,
                2**63 - 1,
                2**63,
                2**64,
                -(2**63),
                10**18,
                10**30,
                -(10**30),
                65536,
                65535,
                256,
                raw("1" + "0" * 400),
                raw("-1" + "0" * 400),
                raw("9" * 5000),
                raw("1e308"),
                raw("1e309"),
                raw("-1e309"),
                raw("5e-324"),
                raw("-0.0"),
                raw("1e-9999999"),
                raw("NaN"),
                raw("Infinity"),
                raw("-Infinity"),
                1000000000000000.0,
                1e300,
            ]
        )
    if kind < 8:
        return draw.choice(
            [
                "\ud800",
                "\0",
                "a\nb",
                "\x1b[31mred\x1b[0m",
                "\u202e",
                "²",
                "١٢",
                "../../etc/passwd",
                "/dev/zero",
                "/dev/stdin",
                "/proc/self/mem",
                "-",
                "nan",
                "1e5",
                "cuda:0",
                "cuda:999999999999999999999",
                "meta",
                "mps",
                "x" * 100_000,
                "{}",
                "%s%n{0}",
            ]
        )
    return draw.choice(
        [
            raw("[" * 200 + "]" * 200),
            raw("[" * 100_000 + "]" * 100_000),
            raw('{"a":' * 20_000 + "1" + "}" * 20_000),
            raw("[" + "{}," * 100_000 + "{}]"),
            raw("[" + "0," * 200_000 + "0]"),
            list(range(300)),
            {str(i): i for i in range(300)},
            [None],
            [[[]]],
            {"": None},
        ]
    )


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside `value`."""
    found = [] if found is None else found
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found.append((value, key))
        places(inner, found)
    return found


def change_json(draw: random.Random, value: Any) -> Any:
    """The object with one to three changes."""
    for _ in range(draw.choice([1, 1, 1, 1, 2, 3])):
        found = places(value)
        if not found:
            return hostile_value(draw, value)
        container, key = draw.choice(found)
        how = draw.randrange(12)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container, dict):
            container[draw.choice(["x", "", "__proto__", "Format", "a" * 5000, "\ud800", "a\nb"])] = 1
        elif how == 2 and isinstance(container, dict):
            container[draw.choice([key + "x", key.upper(), key[:-1]])] = container.pop(key)
        elif how == 3 and isinstance(container, dict):
            other = draw.choice(list(container))
            container[key], container[other] = container[other], container[key]
        elif how == 4 and isinstance(container, dict):  # given twice
            container[key] = raw(f"1,{json.dumps(key)}:{json.dumps(container[key])}") if key in container else 1
        elif how == 5 and isinstance(value, dict) and "format_version" in value:
            value["format_version"] = draw.choice([2, 99, 0, -1, 1.0, True, "1", None, 10**40, raw("1e400")])
        else:
            container[key] = hostile_value(draw, container[key])
    return value


def json_text(draw: random.Random, value: Any) -> bytes:
    """The object as text, now and then in a way that JSON is not written."""
    data = dump(value)
    how = draw.randrange(30)
    if how == 0:
        return b"\xef\xbb\xbf" + data
    if how == 1:
        return data.decode("utf-8", "replace").encode("utf-16")
    if how == 2:
        return data + draw.choice([b"x", data, b"\0", b","])
    if how == 3:
        return draw.choice([b"[" + data + b"]", b"null", b"3", b'"x"', b"[" * 900_000, b"9" * 900_000, b"", b" " * 100])
    if how == 4:
        return data.replace(b",", b",,", 1)
    if how == 5:
        return data + b" " * (1 << 20)
    return data


def structured_json(draw: random.Random, files: Folder, name: str) -> str:
    value = json.loads(files[name] or b"{}")
    files[name] = json_text(draw, change_json(draw, value))
    return f"JSON of {name}"


def same_in_both(draw: random.Random, files: Folder, name: str) -> str:
    """A network that run.json and config.json agree on, and the tensors do not."""
    config, run = json.loads(files["config.json"] or b""), json.loads(files["run.json"] or b"")
    key = draw.choice(sorted(run["model"]))
    value = hostile_value(draw, run["model"][key])
    if key.endswith("_size") or key == "depth":
        value = draw.choice([value, 1, 2, 7, 256, 65536, 4096])
    if draw.random() < 0.3:
        value, key = draw.choice([65536, 2**31]), "hidden_size"
        config["depth"] = run["model"]["depth"] = 256
    config[key] = run["model"][key] = value
    files["config.json"], files["run.json"] = dump(config), dump(run)
    return "the network, in both records"


def other_alphabet(draw: random.Random, files: Folder, name: str) -> str:
    config = json.loads(files["config.json"] or b"")
    symbols = bytes.fromhex(config["alphabet"].get("hex", bytes(range(256)).hex()))
    changed = draw.choice(
        [
            symbols[:-1],
            symbols[1:],
            symbols[::-1],
            symbols + b"~",
            symbols + symbols,
            b"",
            bytes(range(256)),
            bytes(range(len(symbols))),
            bytes(range(100, 100 + len(symbols) % 150)),
        ]
    )
    config["alphabet"] = draw.choice(
        [
            {"kind": "symbols", "hex": changed.hex()},
            {"kind": "symbols", "hex": changed.hex().upper()},
            {"kind": "bytes"},
        ]
    )
    files["config.json"] = dump(config)
    return "another alphabet"


# ---------------------------------------------------------------------- safetensors


def signed(header: dict[str, Any], body: bytes) -> None:
    """Make the checksums right, as far as the header still means something."""
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


def change_numbers(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """Other numbers in a tensor: NaN, infinities, huge ones, zeros, or any bytes at all."""
    name = draw.choice([name for name in header if name != "__metadata__"])
    start, stop = header[name]["data_offsets"]
    size = _ITEM[header[name]["dtype"]]
    count = draw.choice([1, 1, (stop - start) // size])
    number = draw.choice(
        [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f", b"\0" * 4]
    )
    number = draw.choice([number, b"\x00\x00\x80\xbf", draw.randbytes(4)])
    for _ in range(count):
        at = start + size * draw.randrange(max(1, (stop - start) // size))
        body[at : at + 4] = number


def change_header(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """Other names, types, shapes or places of tensors."""
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    told = header[name]
    how = draw.randrange(12)
    if how == 0:
        told["dtype"] = draw.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "I64", "X", "", None, 4])
    elif how == 1:
        told["shape"] = draw.choice(
            [
                [],
                [0],
                [1],
                told["shape"][::-1],
                told["shape"] + [1],
                [2**40],
                [2**32, 2**32],
                [-1],
                [2**63],
                [1.5],
                None,
                [1] * 64,
                [1] * 10000,
                "x",
                [str(n) for n in told["shape"]],
                [[n] for n in told["shape"]],
                [2**64],
            ]
        )
    elif how == 2:
        start, stop = told["data_offsets"]
        told["data_offsets"] = draw.choice(
            [
                [start, stop + 4],
                [start - 4, stop],
                [stop, start],
                [0, 0],
                [start, 2**40],
                [2**63, 2**63 + 4],
                [0],
                [],
                [start, stop, stop],
                [-4, stop],
                [2**64, 2**64 + 4],
                None,
                "x",
                [str(start), stop],
                [start + 1, stop + 1],
            ]
        )
    elif how == 3:  # huge, and so declared throughout
        told["shape"] = [2 ** draw.randrange(20, 45), 4]
        told["data_offsets"] = [told["data_offsets"][0], told["data_offsets"][0] + told["shape"][0] * 16]
    elif how == 4:
        header[draw.choice([name + "x", "x", "", "__metadata__x", "a" * 100_000, "\ud800", "a\nb"])] = header.pop(name)
    elif how == 5:
        del header[name]
        if draw.random() < 0.5:  # the bytes go too
            rest = {n: header[n] for n in names if n != name}
            start, stop = told["data_offsets"]
            del body[start:stop]
            for other in rest.values():
                if other["data_offsets"][0] >= stop:
                    other["data_offsets"] = [at - (stop - start) for at in other["data_offsets"]]
    elif how == 6:
        other = draw.choice(names)
        header[name], header[other] = header[other], header[name]
    elif how == 7:
        header["more"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
        body += bytes(8)
    elif how == 8:
        header[name] = draw.choice([None, [], 3, "x", {}, {**told, "extra": 1}, {"dtype": told["dtype"]}])
    elif how == 9:  # given twice
        header[name] = raw(f"{json.dumps(told)},{json.dumps(name)}:{json.dumps(told)}")
    elif how == 10:
        one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header.update({f"t{i}": one for i in range(draw.choice([1, 5000]))})
    else:
        value = change_json(draw, told)
        header[name] = value


def change_type(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """All tensors in another type, as other programs write them; the numbers are what they were."""
    import numpy as np

    kind, code = draw.choice([("F64", np.float64), ("F16", np.float16)])
    out, at = bytearray(), 0
    for name in [name for name in header if name != "__metadata__"]:
        told = header[name]
        start, stop = told["data_offsets"]
        data = bytes(body[start:stop])
        if told["dtype"] == "F32":
            with np.errstate(over="ignore", invalid="ignore"):
                data = np.frombuffer(data, np.float32).astype(code).tobytes()
            told["dtype"] = kind
        told["data_offsets"] = [at, at + len(data)]
        out += data
        at += len(data)
    body[:] = out


def change_metadata(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """The record in a checkpoint, or the metadata itself."""
    metadata = header["__metadata__"]
    if "fastslow" in metadata and draw.random() < 0.85:
        record = json.loads(metadata["fastslow"])
        if draw.random() < 0.6:
            record["position"] = change_json(draw, record["position"])
        else:
            record = change_json(draw, record)
        metadata["fastslow"] = json_text(draw, record).decode("utf-8", "replace")
        return
    if "update" in metadata and draw.random() < 0.5:
        metadata["update"] = draw.choice(["", "-1", "²", "1e3", "9" * 6000, "x", "99", "3.0", " 3", "٣", "\ud800"])
        return
    header["__metadata__"] = draw.choice(
        [
            None,
            [],
            {},
            3,
            {"sha256": 3},
            {"fastslow": "{}"},
            {"fastslow": "["},
            {"x": "y" * 100000},
            {"a": {"b": "c"}},
            {**metadata, "sha256": "0" * 64},
            {**metadata, "sha256": ""},
            {**metadata, "x": "y"},
            {**metadata, "x": None},
        ]
    )


def change_length(draw: random.Random, data: bytes) -> bytes:
    """The header's length, where the file does not have it."""
    size = int.from_bytes(data[:8], "little")
    other = draw.choice([0, 1, size - 1, size + 1, size + 8, len(data), len(data) - 8, 2**31, 10**8, 2**63, 2**64 - 1])
    return other.to_bytes(8, "little") + data[8:]


def structured_tensors(draw: random.Random, files: Folder, name: str) -> str:
    data = files[name] or b""
    how = draw.randrange(20)
    if how == 0:
        files[name] = change_length(draw, data)
        return f"header length of {name}"
    header, rest = split_safetensors(data)
    body = bytearray(rest)
    change = draw.choice([change_numbers, change_numbers, change_header, change_header, change_type, change_metadata])
    if name == "checkpoint.safetensors" and draw.random() < 0.3:
        change = change_metadata
    change(draw, header, body)
    sign = draw.random()
    if sign < 0.7:
        signed(header, bytes(body))
    elif sign < 0.85 and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"].pop("sha256", None)
    text = dump(header)
    text += b" " * (-len(text) % 8)
    files[name] = join_safetensors(text, bytes(body))
    return f"{change.__name__} of {name}"


# ---------------------------------------------------------------------- metrics


def structured_metrics(draw: random.Random, files: Folder, name: str) -> str:
    lines = (files[name] or b"").split(b"\n")
    at = draw.randrange(len(lines) - 1)
    how = draw.randrange(6)
    if how == 0:
        lines[at] = draw.choice([b"", b"null", b"[]", b"3", b"{", b"[" * 100_000, b"\xff\xfe", b"9" * 100_000, b"NaN"])
    elif how == 1:
        del lines[at]
    elif how == 2:
        lines.insert(at, draw.choice(lines))
    elif how == 3:
        lines = lines * 200
    else:
        lines[at] = json_text(draw, change_json(draw, json.loads(lines[at])))
    files[name] = b"\n".join(lines)
    return "a line of metrics"


# ---------------------------------------------------------------------- cases


@dataclass
class Case:
    """A damaged run. blind: the changes know nothing of the format."""

    original: Original
    files: Folder
    number: int = 0
    changes: list[str] = field(default_factory=list)
    blind: bool = True


def make_case(originals: list[Original], seed: int, number: int) -> Case:
    """Case `number` of a seed: always the same."""
    draw = random.Random(f"{seed}-{number}")
    original = draw.choice(originals)
    case = Case(original, copy.copy(original.files), number)
    for _ in range(draw.choice([1, 1, 1, 1, 2])):
        name = draw.choice([*(name for name in FILES if case.files.get(name)), *TENSOR_FILES])
        if not case.files.get(name):
            continue
        if draw.random() < 0.45:
            case.changes.append(_blindly(draw, case, name, originals))
        else:
            case.blind = False
            # A file damaged twice may have no structure left.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError):
                case.changes.append(_knowingly(draw, case, name))
    return case


def _knowingly(draw: random.Random, case: Case, name: str) -> str:
    if name in TENSOR_FILES:
        return structured_tensors(draw, case.files, name)
    if name == METRICS:
        return structured_metrics(draw, case.files, name)
    if name == "config.json" and draw.random() < 0.25:
        return other_alphabet(draw, case.files, name)
    if name in ("config.json", "run.json") and draw.random() < 0.25:
        return same_in_both(draw, case.files, name)
    return structured_json(draw, case.files, name)


def _blindly(draw: random.Random, case: Case, name: str, originals: list[Original]) -> str:
    how = draw.randrange(40)
    if how == 0:
        del case.files[name]
        return f"no {name}"
    if how == 1:
        case.files[name] = None
        return f"{name} is a folder"
    if how == 2:
        case.files[name] = b""
        return f"{name} is empty"
    if how == 3:
        other = draw.choice([*case.original.files])
        case.files[name] = case.original.files[other]
        case.blind = False
        return f"{name} is {other}"
    if how == 4:
        other_run = draw.choice(originals)
        case.files[name] = other_run.files.get(name, b"")
        case.blind = False
        return f"{name} of {other_run.name}"
    data = bytearray(case.files[name] or b"")
    change = draw.choice(BLIND)
    change(draw, data)
    case.files[name] = bytes(data)
    return f"{change.__name__} of {name}"


# ---------------------------------------------------------------------- opening


class Opened(BaseException):
    """Raised to end a resumed run where it would train."""


SCORED = b"3 times 4 is 12\n5 times"


def open_model(folder: Path, case: Case) -> None:
    import torch

    from fastslow.errors import AlphabetError, FastslowError
    from fastslow.evaluation import evaluate
    from fastslow.lm import CharLM

    lm = CharLM.from_pretrained(folder)
    for name, value in lm.state_dict().items():
        require(bool(torch.isfinite(value).all()), f"{name} of the model is not finite")
    if case.blind and (folder / "config.json").read_bytes() == case.original.files["config.json"]:
        check_same("model.safetensors", "", lm.state_dict(), case)
    try:
        found = evaluate(lm, SCORED)
        require(math.isfinite(found.bpc), "the score is not finite")
    except AlphabetError:
        pass
    except FastslowError as error:
        one_line(error)


def open_checkpoint(folder: Path, case: Case) -> None:
    import torch

    from fastslow.lm import CharLM
    from fastslow.lm.files import read_config
    from fastslow.state import state_tensors
    from fastslow.training import read_record, resume
    from fastslow.training.checkpoint import read_checkpoint
    from fastslow.training.events import Event

    def stop(event: Event) -> None:
        if type(event).__name__ == "Started":
            raise Opened

    with contextlib.suppress(Opened):
        resume(folder, progress=stop)
        raise Failure("the run did not start")
    lm = CharLM(read_config(folder), backend="reference")
    batch = read_record(folder).train.batch
    stored = read_checkpoint(folder, lm, batch)
    if stored is None:
        require("checkpoint.safetensors" not in case.files, "the checkpoint was not seen")
        return
    groups = {"model": stored.model, "adam": stored.adam, "average": stored.average}
    for group, tensors in groups.items():
        for name, value in tensors.items():
            require(bool(torch.isfinite(value).all()), f"{group}.{name} is not finite")
    if stored.state is not None:
        for one, like in zip(state_tensors(stored.state), state_tensors(lm.initial_state(batch)), strict=True):
            require(one.shape == like.shape and one.dtype == like.dtype, "the carried state has another shape")
    position = stored.position
    require(position.update >= 0 and position.elapsed >= 0, f"the position is {position}")
    if case.blind:
        for group, tensors in {**groups, "rng": stored.rng}.items():
            check_same("checkpoint.safetensors", f"{group}.", tensors, case)


def open_evaluation(folder: Path, case: Case) -> None:
    from fastslow.cli.evaluate import evaluate

    if case.number % WHOLE_COMMANDS == 0:
        command(["evaluate", str(folder), "--json", "--int8"])
    else:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evaluate((str(folder),))


def open_info(folder: Path, case: Case) -> None:
    from fastslow.cli.info import info

    out = io.StringIO()
    if case.number % WHOLE_COMMANDS == 0:
        command(["info", str(folder)])
        out.write(command(["info", str(folder), "--json"]))
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            info(str(folder))
        with contextlib.redirect_stdout(out):
            info(str(folder), json=True)
    json.loads(out.getvalue(), parse_constant=refuse)


def open_records(folder: Path, case: Case) -> None:
    from experiments.report.records import Record, record_of_runs

    from fastslow.errors import FastslowError
    from fastslow.training import read_metrics

    try:
        for line in read_metrics(folder):
            json.dumps(line, allow_nan=False)
    except FastslowError as error:
        one_line(error)
    record = record_of_runs("fuzz", [folder], table="ptb", model="small", command="none")
    Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)), "the record")


OPENINGS: dict[str, Callable[[Path, Case], None]] = {
    "model": open_model,
    "evaluate": open_evaluation,
    "info": open_info,
    "records": open_records,
    "resume": open_checkpoint,  # last: it writes
}


def command(arguments: list[str]) -> str:
    """What a command prints, its arguments parsed as the terminal's; FastslowError if it refuses, with status 2."""
    from fastslow.cli.app import main
    from fastslow.errors import FastslowError

    out, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
        status = main(arguments)
    if status == 0:
        return out.getvalue()
    told = complaint.getvalue()
    require(
        status == 2 and told.startswith("fastslow: error: ") and told.count("\n") == 1, f"status {status}: {told!r}"
    )
    raise FastslowError(told.removeprefix("fastslow: error: ").strip())


def refuse(constant: str) -> None:
    raise Failure(f"{constant} is no JSON")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Failure(message)


def one_line(error: Exception) -> None:
    text = str(error)
    require(
        len(text.splitlines()) == 1 and len(text) < 2000, f"not one line of less than 2,000 letters: {text[:3000]!r}"
    )


def check_same(file: str, prefix: str, tensors: dict[str, Any], case: Case) -> None:
    """A file that has its checksums has the numbers that were stored, in type and shape too."""
    stored = case.original.tensors[file]
    for name, value in tensors.items():
        bits = value.detach().contiguous().reshape(-1).numpy().tobytes()
        require(stored[prefix + name].startswith(bits), f"{prefix}{name} is not what was stored in {file}")


def write_files(folder: Path, files: Folder) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)


def open_case(case: Case, folder: Path) -> Iterator[tuple[str, str, BaseException | None]]:
    """(opening, how it ended, the exception) of each: loaded, refused, or failed."""
    from fastslow.errors import FastslowError

    write_files(folder, case.files)
    for name, opening in OPENINGS.items():
        try:
            opening(folder, case)
            yield name, "loaded", None
        except FastslowError as error:
            try:
                one_line(error)
                yield name, "refused", error
            except Failure as failure:
                yield name, "failed", failure
        except Exception as error:
            yield name, "failed", error


# ---------------------------------------------------------------------- memory


def memory(what: str) -> int:
    """VmRSS, VmHWM or VmSize of this process, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def limit_address_space() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE,) * 2)


# ---------------------------------------------------------------------- running


@dataclass
class Report:
    """What came of the cases. ends: (opening, end) -> how often. kinds: kind of change -> its cases."""

    cases: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    undamaged_peak: int = 0
    peak: int = 0
    growth: int = 0
    slowest: float = 0.0

    def add(self, other: Report) -> None:
        self.cases += other.cases
        self.ends += other.ends
        self.kinds += other.kinds
        self.failures += other.failures
        self.undamaged_peak = max(self.undamaged_peak, other.undamaged_peak)
        self.peak, self.growth = max(self.peak, other.peak), max(self.growth, other.growth)
        self.slowest = max(self.slowest, other.slowest)


class Fuzzer:
    """Cases run one after the other in this process."""

    def __init__(self, originals: list[Original], seed: int, folder: Path) -> None:
        self.originals, self.seed, self.folder = originals, seed, folder
        self.report = Report()
        reset_peak()
        for _ in range(2):
            for original in originals:
                case = Case(original, original.files)
                for opening, end, error in open_case(case, folder / "run"):
                    allowed = opening == "records" and original.name == "stopped"  # which has no result yet
                    if end == "failed" or (end == "refused" and not allowed):
                        raise Failure(f"the undamaged run {original.name}: {opening} {end}: {error!r}") from error
        self.report.undamaged_peak = memory("VmHWM")

    def run(self, number: int) -> list[str]:
        """Run one case; what failed, in words. The report counts it."""
        case = make_case(self.originals, self.seed, number)
        reset_peak()
        before, started = memory("VmRSS"), time.perf_counter()
        failures = []
        for opening, end, error in open_case(case, self.folder / "run"):
            self.report.ends[opening, end] += 1
            if end == "failed":
                told = "".join(traceback.format_exception(error)[-4:]).strip() if error else ""
                failures.append(f"case {number}: {', '.join(case.changes)}: {opening}\n{told}")
        seconds, peak = time.perf_counter() - started, memory("VmHWM")
        if peak > 2 * self.report.undamaged_peak or peak - before > GROWTH_BYTES:
            failures.append(f"case {number}: {', '.join(case.changes)}: {(peak - before) >> 20} MiB more memory")
        if seconds > LIMIT_SECONDS:
            failures.append(f"case {number}: {', '.join(case.changes)}: took {seconds:.0f} s")
        report = self.report
        report.cases += 1
        report.kinds.update(change.split(" of ")[0] for change in case.changes)
        report.failures += failures
        report.peak, report.growth = max(report.peak, peak), max(report.growth, peak - before)
        report.slowest = max(report.slowest, seconds)
        return failures


def work(folder: Path, seed: int, numbers: list[int], current: Any, reports: Any, index: int) -> None:
    """A process's part of the cases. `current` always holds the one in hand; what came of them is told in parts."""
    import warnings

    warnings.simplefilter("error")
    import torch

    torch.set_num_threads(1)
    originals = load_originals(folder)
    own = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
    fuzzer = Fuzzer(originals, seed, own)
    limit_address_space()
    for number in numbers:
        current.value = number
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        fuzzer.run(number)
        faulthandler.cancel_dump_traceback_later()
        if fuzzer.report.cases == PART or number == numbers[-1]:
            reports.put((index, fuzzer.report))
            fuzzer.report = Report(undamaged_peak=fuzzer.report.undamaged_peak)


def save_originals(folder: Path, originals: list[Original]) -> None:
    for original in originals:
        write_files(folder / f"original-{original.name}", original.files)


def load_originals(folder: Path) -> list[Original]:
    made = []
    for path in sorted(folder.glob("original-*")):
        files: Folder = {file: (path / file).read_bytes() for file in FILES if (path / file).is_file()}
        tensors = {file: read_safetensors(files[file]) for file in TENSOR_FILES}
        made.append(Original(path.name.removeprefix("original-"), files, tensors))
    return made


def fuzz(cases: int, seed: int, workers: int, folder: Path) -> Report:
    """Run all cases in worker processes; a case that kills or hangs its process is a failure, and the rest goes on."""
    save_originals(folder, make_originals(folder))
    context = multiprocessing.get_context("spawn")
    total = Report()
    reports = context.Queue()
    left = [list(range(first, cases, workers)) for first in range(min(workers, cases))]
    running: dict[int, tuple[Any, Any]] = {}

    def start(index: int) -> None:
        current = context.Value("q", -1)
        process = context.Process(target=work, args=(folder, seed, left[index], current, reports, index))
        process.start()
        running[index] = process, current

    def take_reports() -> None:
        while not reports.empty():
            index, report = reports.get()
            total.add(report)
            del left[index][: report.cases]

    for index in range(len(left)):
        start(index)
    told = time.monotonic()
    while running:
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            reached = ", ".join(str(current.value) for _, current in running.values())
            print(f"at case {reached} of {cases:,}", file=sys.stderr, flush=True)
        for index, (process, current) in list(running.items()):
            take_reports()
            process.join(0.2)
            if process.is_alive():
                continue
            del running[index]
            if process.exitcode == 0:
                continue
            if current.value < 0:
                raise Failure(f"a worker did not start: status {process.exitcode}")
            take_reports()
            total.failures.append(f"case {current.value}: ended its process with status {process.exitcode}")
            left[index].remove(current.value)
            if left[index]:
                start(index)
    take_reports()
    return total


def replay(seed: int, number: int, folder: Path) -> int:
    """Run one case again and print all of it."""
    originals = make_originals(folder)
    save_originals(folder, originals)
    originals = load_originals(folder)
    case = make_case(originals, seed, number)
    print(f"case {number} of seed {seed}: the run {case.original.name!r}; {', '.join(case.changes)}")
    failed = 0
    for opening, end, error in open_case(case, folder / "run"):
        print(f"  {opening}: {end}{'' if error is None or end == 'failed' else f': {error}'}")
        if end == "failed" and error is not None:
            failed += 1
            traceback.print_exception(error)
    return 1 if failed else 0


def print_report(report: Report, seconds: float) -> None:
    print(f"\n{report.cases:,} cases in {seconds:.0f} s; slowest {report.slowest:.2f} s")
    print("opening      loaded  refused  failed")
    for opening in OPENINGS:
        loaded, refused, failed = (report.ends[opening, end] for end in ("loaded", "refused", "failed"))
        print(f"{opening:<10} {loaded:8,} {refused:8,} {failed:7,}")
    print(
        f"memory: {report.undamaged_peak >> 20} MiB at most with undamaged runs, {report.peak >> 20} MiB with damaged "
        f"ones; at most {report.growth / 2**20:.1f} MiB more during a case"
    )
    print("changes: " + ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.most_common()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--replay", type=int, metavar="N", help="run case N of the seed again, and print all of it")
    options = parser.parse_args(arguments)
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory_disk if memory_disk.is_dir() else None) as name:
        folder = Path(name)
        if options.replay is not None:
            return replay(options.seed, options.replay, folder)
        started = time.perf_counter()
        report = fuzz(options.cases, options.seed, options.workers, folder)
        print_report(report, time.perf_counter() - started)
    for failure in report.failures[:20]:
        print(f"\n{failure}")
    if report.failures:
        print(f"\n{len(report.failures)} failures; `--seed {options.seed} --replay N` runs case N again")
        return 1
    print("no failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
