"""Fuzzing the codec: inputs that must come back, and archives that must be refused.

    python -m tests.codec.fuzz [CASES] [SEED]

Every case ends in the right bytes or in one FastslowError of one line; wrong bytes, another exception, or a case that
takes long is a failure, printed with the seed that repeats it.
"""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache

from fastslow import codec
from fastslow.codec import container
from fastslow.codec.exact.model import ExactModel
from fastslow.errors import FastslowError

from .tiny import ALPHABET, TEXT, random_text, tiny_model

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
    kind = draw.randrange(8)
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
    assert len(archive) <= len(data) + 152 + 48 * blocks + embedded, "larger than its input by more than the framing"
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
        text = random_text(420, len(found))
        if len(found) == 4:
            text = text[:150] + b"a" * 150 + bytes((i * i * 7 + i // 3) % 256 for i in range(150)) + text[:90]
        found.append((text, codec.compress(text, model(kind), **options), kind))
    return found


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def lengthen(draw: random.Random, data: bytearray) -> None:
    data += draw.choice([b"\0", draw.randbytes(draw.randrange(1, 40)), bytes(data)])


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


def pieces(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Header, blocks and trailer of a whole archive."""
    reader = codec.ArchiveReader(io.BytesIO(data))
    at, blocks = reader.blocks_at, []
    while data[at] == container.BLOCK_TAG:
        (stored,) = struct.unpack_from("<I", data, at + 20)
        blocks.append(data[at : at + container.BLOCK_SIZE + stored])
        at += container.BLOCK_SIZE + stored
    return data[: reader.blocks_at], blocks, data[at:]


def move_blocks(draw: random.Random, data: bytearray) -> None:
    head, blocks, tail = pieces(bytes(data))
    other = pieces(draw.choice(originals())[1])[1]
    change = draw.randrange(4)
    if change == 0:
        draw.shuffle(blocks)
    elif change == 1:
        blocks.insert(draw.randrange(len(blocks) + 1), draw.choice(blocks))
    elif change == 2:
        blocks.pop(draw.randrange(len(blocks)))
    else:
        blocks[draw.randrange(len(blocks))] = draw.choice(other)
    data[:] = head + b"".join(blocks) + tail


def hostile(draw: random.Random, data: bytearray) -> None:
    """Fields changed with every checksum made right again: the bounds themselves have to hold."""
    head, blocks, tail = pieces(bytes(data))
    header = bytearray(head)
    (settings,) = struct.unpack_from("<I", header, 60)
    seed_before = struct.unpack_from("<I", header, 72 + settings)[0]
    if draw.random() < 0.5:
        at, kind = draw.choice(
            [
                (8, "<B"),
                (9, "<B"),
                (10, "<B"),
                (11, "<B"),
                (12, "<I"),
                (16, "<H"),
                (18, "<H"),
                (20, "<Q"),
                (64, "<I"),
                (68, "<I"),
            ]
        )
        size = struct.calcsize(kind)
        value = draw.choice([0, 1, 2, 255, 2 ** (8 * size) - 1, draw.randrange(2 ** (8 * size))]) % 2 ** (8 * size)
        struct.pack_into(kind, header, at, value)
    if draw.random() < 0.2:
        text = draw.choice(
            [b"{", b"[]", b'{"weight_bits":99}', b'{"weight_bits":"x"}', b'{"model":7}', b"[" * 5000, b"\xff"]
        )
        model_part = header[76 + settings :]
        struct.pack_into("<I", header, 60, len(text))
        header = header[:72] + text + bytes(4) + model_part
        settings = len(text)
    seed = zlib.crc32(header[: 72 + settings])
    struct.pack_into("<I", header, 72 + settings, seed)
    rebuilt = [bytearray(block) for block in blocks]
    if draw.random() < 0.6:
        block = draw.choice(rebuilt)
        at, kind = draw.choice(
            [(1, "<B"), (2, "<H"), (4, "<B"), (5, "<B"), (8, "<Q"), (16, "<I"), (20, "<I"), (28, "<Q")]
        )
        size = struct.calcsize(kind)
        struct.pack_into(
            kind,
            block,
            at,
            draw.choice([0, 1, 2, 7, 2 ** (8 * size) - 1, draw.randrange(2 ** (8 * size))]) % 2 ** (8 * size),
        )
    if draw.random() < 0.4:
        block = draw.choice(rebuilt)
        if len(block) > container.BLOCK_SIZE:
            block[draw.randrange(container.BLOCK_SIZE, len(block))] ^= 1 << draw.randrange(8)
    for block in rebuilt:
        payload = bytes(block[container.BLOCK_SIZE :])
        struct.pack_into("<I", block, 24, zlib.crc32(payload, seed))
        struct.pack_into("<I", block, 36, zlib.crc32(bytes(block[:36]), seed))
    trailer = bytearray(tail)
    if draw.random() < 0.3:
        at, kind = draw.choice([(1, "<B"), (8, "<Q"), (16, "<Q"), (24, "<Q"), (56, "<I")])
        size = struct.calcsize(kind)
        struct.pack_into(kind, trailer, at, draw.choice([0, 2 ** (8 * size) - 1, draw.randrange(2 ** (8 * size))]))
    struct.pack_into("<I", trailer, len(trailer) - 20, zlib.crc32(bytes(trailer[:-20]), seed))
    assert seed_before is not None
    data[:] = bytes(header) + b"".join(map(bytes, rebuilt)) + bytes(trailer)


def hostile_model(draw: random.Random, data: bytearray) -> None:
    """An embedded model with changes, and the hash of the changed one."""
    import hashlib
    import lzma

    from fastslow.codec import plain

    reader = codec.ArchiveReader(io.BytesIO(bytes(data)))
    if not reader.header.embedded_size:
        flip(draw, data)
        return
    (settings,) = struct.unpack_from("<I", data, 60)
    start = 76 + settings
    serial = bytearray(plain.unpack(bytes(data[start : start + reader.header.embedded_size]), reader.header.model_size))
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
    try:
        packed = plain.pack(bytes(serial))
    except lzma.LZMAError:
        return
    header = bytearray(data[:start])
    header[20:52] = hashlib.sha256(serial).digest()
    struct.pack_into("<II", header, 64, len(serial), len(packed))
    seed = zlib.crc32(header[: 72 + settings])
    struct.pack_into("<I", header, 72 + settings, seed)
    _, blocks, tail = pieces(bytes(data))
    rebuilt = []
    for block in map(bytearray, blocks):
        struct.pack_into("<I", block, 24, zlib.crc32(bytes(block[container.BLOCK_SIZE :]), seed))
        struct.pack_into("<I", block, 36, zlib.crc32(bytes(block[:36]), seed))
        rebuilt.append(bytes(block))
    trailer = bytearray(tail)
    struct.pack_into("<I", trailer, len(trailer) - 20, zlib.crc32(bytes(trailer[:-20]), seed))
    data[:] = bytes(header) + packed + b"".join(rebuilt) + bytes(trailer)


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
