"""Fuzzing the codec: inputs that must come back, and archives that must be refused.

    python -m tests.codec.fuzz [CASES] [SEED]

Every case ends in the right bytes or in one FastslowError of one line; wrong bytes, another exception, or a case that
takes long is a failure, printed with the seed that repeats it.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from fastslow import codec
from fastslow.codec import container, plain
from fastslow.codec.container import Kind
from fastslow.codec.exact.model import ExactModel
from fastslow.errors import FastslowError

from .tiny import ALPHABET, TEXT, predicted_text, random_text, tiny_model

SLOW_SECONDS = 20.0


@cache
def model(kind: int) -> ExactModel:
    if kind == 0:
        return tiny_model(hidden=4, slow=3)
    if kind == 1:
        return tiny_model(hidden=3, slow=4, norm=False, width=1, seed=5)
    return tiny_model(symbols=bytes(range(256)), hidden=3, slow=3, seed=9)


# ---------------------------------------------------------------------- round trips


def some_text(draw: random.Random) -> bytes:
    length = draw.choice([0, 1, 2, 7, 8, 9, draw.randrange(60), draw.randrange(900)])
    kind = draw.randrange(10)
    if kind == 0:
        return draw.randbytes(length)
    if kind == 1:
        return bytes([draw.randrange(256)]) * length
    if kind == 2:
        return (TEXT * 9)[:length]
    if kind == 3:
        return random_text(length, draw.randrange(1000))
    if kind == 4:  # text with bytes outside the alphabet here and there
        data = bytearray(random_text(length, draw.randrange(1000)))
        for _ in range(draw.randrange(1 + length // 8)):
            data[draw.randrange(length)] = draw.randrange(256)
        return bytes(data)
    if kind == 5:
        return bytes(draw.choices([0, 0, 0, 0, 255, 128, ALPHABET[0]], k=length))
    if kind == 6:
        return (bytes(range(256)) * 4)[:length]
    if kind == 7:  # line ends of every sort
        ends = draw.choices(
            [b"\r\n", b"\n", b"\r", b"\r\r\n"], [60, draw.choice([0, 1]), draw.choice([0, 1]), 1], k=length // 5
        )
        return b"".join(TEXT[at : at + 3] + end for at, end in enumerate(ends))
    if kind == 8:
        return predicted_text(model(0), length // 3, draw.randrange(1000))
    return "".join(chr(draw.choice([65, 233, 8364, 128512])) for _ in range(length // 3)).encode()


def some_options(draw: random.Random) -> dict[str, object]:
    options: dict[str, object] = {"lanes": draw.choice([1, 2, 5, 16, 64, 300, None])}
    if draw.random() < 0.5:
        options["block_size"] = draw.choice([1, 8, 13, 64, 200, 500])
    if draw.random() < 0.1:
        options["embed_model"] = True
    return options


def round_trip(draw: random.Random) -> str:
    which, data, options = model(draw.randrange(3)), some_text(draw), some_options(draw)
    if len(data) > 100 and options.get("block_size", 500) in (1, 8, 13):
        data = data[:100]
    if options["lanes"] == 1:
        data = data[:200]
    archive = codec.compress(data, which, **options)
    blocks = -(-len(data) // int(options.get("block_size", 1 << 22)))  # type: ignore[call-overload]
    embedded = len(which.to_bytes()) + 200 if options.get("embed_model") else 0
    assert len(archive) <= len(data) + 19 + 24 * blocks + embedded, "larger than its input by more than the framing"
    assert codec.decompress(archive, None if options.get("embed_model") else which) == data, "other bytes came back"
    return "round trip"


# ---------------------------------------------------------------------- damage


@cache
def originals() -> list[tuple[bytes, bytes, int]]:
    """(text, archive, model) to damage: of every kind of block, with and without the model inside."""
    found = []
    for kind, options in (
        (0, {"lanes": 32}),
        (0, {"lanes": 20, "block_size": 100}),
        (1, {"lanes": 40, "block_size": 200}),
        (0, {"lanes": 16, "embed_model": True}),
        (0, {"lanes": 8, "block_size": 150}),
    ):
        text = predicted_text(model(kind), 420, len(found))
        if len(found) == 4:
            text = text[:150] + b"a" * 150 + bytes((i * i * 7 + i // 3) % 256 for i in range(150)) + TEXT[:150]
        if len(found) == 1:
            text = text.replace(b" ", b" \r\n")
        found.append((text, codec.compress(text, model(kind), **options), kind))
    return found


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def lengthen(draw: random.Random, data: bytearray) -> None:
    data += draw.choice([b"\0", draw.randbytes(draw.randrange(1, 40)), bytes(data)[: draw.randrange(1, len(data))]])


def drop_some(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randrange(1, 60)]


def insert_some(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.randrange(1, 60))


def copy_within(draw: random.Random, data: bytearray) -> None:
    size = draw.randrange(1, min(120, len(data)))
    source, target = draw.randrange(len(data) - size), draw.randrange(len(data) - size)
    data[target : target + size] = data[source : source + size]


def write_field(draw: random.Random, data: bytearray) -> None:
    kind = draw.choice(["<I", "<H", "<Q", "<B"])
    size = struct.calcsize(kind)
    value = draw.choice([0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), draw.randrange(2 ** (8 * size))])
    struct.pack_into(kind, data, draw.randrange(len(data) - size), value)


class Pieces:
    """A whole archive of version 2, taken apart: heads as dataclasses, so that they can be changed and sealed anew."""

    def __init__(self, data: bytes) -> None:
        at, seed, self.parts = len(container.FRONT), zlib.crc32(container.FRONT), []
        while True:
            tag, source = data[at], io.BytesIO(data[at + 1 :])
            head: container.Block | container.Model
            if tag == container.END_TAG:
                self.end = container.read_end(source.read)
                return
            if tag == container.MODEL_TAG:
                head, seed = container.read_model(source.read, seed)
            else:
                head, seed = container.read_block(tag, source.read, seed, "block")
            start = at + 1 + source.tell()
            self.parts.append((head, data[start : start + head.stored], data[at:start]))
            at = start + head.stored

    def raw(self) -> tuple[bytes, list[bytes], bytes]:
        """Front (with the model), blocks and end, as they were."""
        front, blocks = container.FRONT, []
        for head, payload, written in self.parts:
            if isinstance(head, container.Model):
                front += written + payload
            else:
                blocks.append(written + payload)
        return front, blocks, self.end.to_bytes()

    def sealed(self) -> bytes:
        """The parts as they are now, every checksum of a head made right."""
        out, seed = container.FRONT, zlib.crc32(container.FRONT)
        for head, payload, _ in self.parts:
            written = head.to_bytes(seed)
            seed = container.crc_of(written)
            out += written + payload
        return out + self.end.to_bytes()


def move_blocks(draw: random.Random, data: bytearray) -> None:
    """Blocks in another order, missing, twice, or from another archive; with the old checksums or with new ones."""
    apart = Pieces(bytes(data))
    other = Pieces(draw.choice(originals())[1]).parts
    change, parts = draw.randrange(4), apart.parts
    if change == 0:
        draw.shuffle(parts)
    elif change == 1:
        parts.insert(draw.randrange(len(parts) + 1), draw.choice(parts))
    elif change == 2:
        parts.pop(draw.randrange(len(parts)))
    else:
        parts[draw.randrange(len(parts))] = draw.choice(other)
    if draw.random() < 0.5:
        data[:] = apart.sealed()
    else:
        data[:] = container.FRONT + b"".join(written + payload for _, payload, written in parts) + apart.end.to_bytes()


def hostile(draw: random.Random, data: bytearray) -> None:
    """Fields changed with every checksum made right again: the bounds themselves have to hold."""
    apart = Pieces(bytes(data))
    values = [0, 1, 2, 7, 64, 255, 300, 4096, 1 << 26, (1 << 26) + 1, 1 << 40, draw.randrange(1 << 32)]
    at = draw.randrange(len(apart.parts))
    head, payload, written = apart.parts[at]
    change = draw.randrange(4)
    if change == 0 and isinstance(head, container.Block):
        name = draw.choice(["plain", "stored", "lanes", "transforms", "text", "note", "weight_bits", "kind"])
        value: object = draw.choice(values)
        if name in ("transforms", "weight_bits"):
            value = draw.randrange(256) if draw.random() < 0.5 else draw.randrange(8)
        if name == "kind":
            value = draw.choice(list(Kind))
        head = replace(head, **{name: value})
        if head.kind == Kind.NEURAL and not head.model_id:
            head = replace(head, model_id=bytes(8), weight_bits=16)
    elif change == 1 and payload:
        changed = bytearray(payload)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        payload = bytes(changed)
    elif change == 2:
        payload = payload[: draw.randrange(len(payload) + 1)]
        head = replace(head, stored=len(payload))
    else:
        apart.end = replace(apart.end, total=draw.choice(values))
    apart.parts[at] = (head, payload, written)
    data[:] = apart.sealed()


def hostile_model(draw: random.Random, data: bytearray) -> None:
    """An embedded model with changes, and the hash of the changed one."""
    apart = Pieces(bytes(data))
    model_part, packed, written = apart.parts[0]
    if not isinstance(model_part, container.Model):
        flip(draw, data)
        return
    serial = bytearray(plain.unpack(packed, model_part.plain))
    length = int.from_bytes(serial[4:8], "little")
    if draw.random() < 0.5:
        fields = json.loads(serial[8 : 8 + length])
        where = draw.choice([fields, draw.choice(fields["cells"])])
        key = draw.choice(sorted(where))
        where[key] = draw.choice([0, -1, 2**31, 2**70, "x", None, [], [1, 2, 3], {}, True, 1.5])
        text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        serial[4 : 8 + length] = len(text).to_bytes(4, "little") + text
    else:
        for _ in range(draw.choice([1, 3, 50])):
            serial[draw.randrange(len(serial))] ^= 1 << draw.randrange(8)
    packed, identity = plain.pack(bytes(serial)), hashlib.sha256(serial).digest()[:8]
    apart.parts[0] = (container.Model(len(serial), len(packed), identity), packed, written)
    apart.parts[1:] = [(replace(head, model_id=identity), payload, old) for head, payload, old in apart.parts[1:]]
    data[:] = apart.sealed()


DAMAGE: list[Callable[[random.Random, bytearray], None]] = [
    flip,
    flip,
    cut,
    lengthen,
    drop_some,
    insert_some,
    copy_within,
    write_field,
    move_blocks,
    hostile,
    hostile,
    hostile_model,
]


def damaged(draw: random.Random) -> str:
    text, archive, kind = draw.choice(originals())
    data, how = bytearray(archive), draw.choice(DAMAGE)
    how(draw, data)
    given = draw.choice([model(kind), model(kind), model(kind), None, model((kind + 1) % 3)])
    try:
        result = codec.decompress(bytes(data), given)
    except FastslowError as error:
        if "\n" in str(error) or len(str(error)) > 500:
            raise AssertionError(f"not one line: {error!r}") from error
        return f"{how.__name__}: refused"
    assert result == text, f"{how.__name__}: wrong bytes"
    return f"{how.__name__}: right bytes"


def run(cases: int, seed: int = 0) -> Counter[str]:
    """Run `cases` cases; how each ended. Raises AssertionError with the seed of the first that failed."""
    ends: Counter[str] = Counter()
    for case in range(cases):
        draw = random.Random(f"{seed}-{case}")
        start = time.process_time()
        try:
            ends[round_trip(draw) if draw.random() < 0.35 else damaged(draw)] += 1
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed}: {type(error).__name__}: {error}") from error
        seconds = time.process_time() - start
        assert seconds < SLOW_SECONDS, f"case {case} of seed {seed} took {seconds:.0f} s of the processor"
    return ends


if __name__ == "__main__":
    arguments = [int(value) for value in sys.argv[1:]]
    for end, count in sorted(run(*(arguments or [20_000])).items()):
        print(f"{count:7,}  {end}")
