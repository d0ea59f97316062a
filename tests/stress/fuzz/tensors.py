"""Changes of safetensors."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.stress.fuzz.files import _ITEM, Folder, join_safetensors, signed, split_safetensors
from tests.stress.fuzz.records import change_json, dump, json_text, raw


def change_numbers(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """Other values in a tensor: NaN, infinities, huge values, zeros, or random bytes."""
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
    """Other names, dtypes, shapes or offsets of tensors."""
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
    elif how == 3:  # huge, consistently declared
        told["shape"] = [2 ** draw.randrange(20, 45), 4]
        told["data_offsets"] = [told["data_offsets"][0], told["data_offsets"][0] + told["shape"][0] * 16]
    elif how == 4:
        header[draw.choice([name + "x", "x", "", "__metadata__x", "a" * 100_000, "\ud800", "a\nb"])] = header.pop(name)
    elif how == 5:
        del header[name]
        if draw.random() < 0.5:  # the data is removed too
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
    elif how == 9:  # duplicate name
        header[name] = raw(f"{json.dumps(told)},{json.dumps(name)}:{json.dumps(told)}")
    elif how == 10:
        one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header.update({f"t{i}": one for i in range(draw.choice([1, 5000]))})
    else:
        value = change_json(draw, told)
        header[name] = value


def change_type(draw: random.Random, header: dict[str, Any], body: bytearray) -> None:
    """All tensors in another dtype, as written by other programs, with the same values."""
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
    """A header length that does not match the file."""
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
