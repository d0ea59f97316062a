"""Changes that do not depend on the format."""

from __future__ import annotations

import random


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 8, 64])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_early(draw: random.Random, data: bytearray) -> None:
    """Flip a bit near the beginning, where headers are."""
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
    """Exchange two parts of equal length."""
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
