"""Changes of JSON: of records and of lines of metrics."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from tests.stress.fuzz.files import Folder

RAW = "\ue000raw:"
"""A string with this prefix is inserted into the text unchanged."""


def dump(value: Any) -> bytes:
    """JSON with the raw parts inserted; surrogates unchanged."""
    parts = json.dumps(value).split(f'"{json.dumps(RAW)[1:-1]}')
    text = parts[0]
    for part in parts[1:]:
        raw, rest = part.split('"', 1)
        text += base64.b64decode(raw).decode() + rest
    return text.encode("utf-8", "surrogatepass")


def raw(text: str) -> str:
    return RAW + base64.b64encode(text.encode()).decode()


def hostile_value(draw: random.Random, old: Any) -> Any:
    """A replacement for `old`, of the same type or another."""
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
        elif how == 4 and isinstance(container, dict):  # duplicate key
            container[key] = raw(f"1,{json.dumps(key)}:{json.dumps(container[key])}") if key in container else 1
        elif how == 5 and isinstance(value, dict) and "format_version" in value:
            value["format_version"] = draw.choice([2, 99, 0, -1, 1.0, True, "1", None, 10**40, raw("1e400")])
        else:
            container[key] = hostile_value(draw, container[key])
    return value


def json_text(draw: random.Random, value: Any) -> bytes:
    """The object as text, sometimes in invalid JSON."""
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
    """A network on which run.json and config.json agree, but not the tensors."""
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
