"""The range coder: golden bytes, round trips, carries, and damage that is noticed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.codec import rangecoder
from fastslow.codec.errors import FormatError
from fastslow.codec.rangecoder import BitDecoder, BitEncoder, RangeDecoder

Bits = list[tuple[int, int]]
PROBABILITIES = st.one_of(st.sampled_from([1, 2, 32768, 65534, 65535]), st.integers(1, 65535))
BITS = st.lists(st.tuples(st.integers(0, 1), PROBABILITIES), max_size=200)


def coded(bits: Bits) -> bytes:
    coder = BitEncoder()
    for bit, p in bits:
        coder.encode(bit, p)
    return coder.finish()


def decoded(data: bytes, bits: Bits) -> Bits:
    decoder, found = BitDecoder(data), []
    for _, p in bits:
        found.append((decoder.decode(p), p))
        decoder.check()
    decoder.finish()
    return found


@given(BITS)
def test_round_trip(bits: Bits) -> None:
    assert decoded(coded(bits), bits) == bits


@given(BITS)
def test_length_is_that_of_the_information(bits: Bits) -> None:
    information = sum(math.log2(65536 / (p if bit else 65536 - p)) for bit, p in bits)
    assert len(coded(bits)) <= information / 8 + 1 + 1e-6 * len(bits)


def test_golden_bytes() -> None:
    draw = random.Random(5)
    bits = [(draw.randrange(2), draw.randrange(1, 65536)) for _ in range(60)]
    assert coded([]) == b""
    assert coded(bits) == bytes.fromhex("914221962e34f0b8c2c1a5")
    assert coded([(byte >> i & 1, 32768) for byte in b"golden" for i in range(8)]) == bytes.fromhex("1909c9d95989")


def test_a_carry_runs_through_the_bytes_already_written(monkeypatch: pytest.MonkeyPatch) -> None:
    carries: list[int] = []
    carry = rangecoder._carry

    def counted(out: bytearray) -> None:
        carries.append(len(out) - len(out.rstrip(b"\xff")))
        carry(out)

    monkeypatch.setattr(rangecoder, "_carry", counted)
    for seed in range(300):
        draw = random.Random(seed)
        # Near the top, so that bytes of 0xff are written, then wide steps that may push low over.
        bits = [(0, 65535)] * draw.randrange(1, 6)
        bits += [(1, draw.randrange(1, 9)) for _ in range(3)]
        bits += [(0, 32768)] * draw.randrange(60)
        assert decoded(coded(bits), bits) == bits
    assert len(carries) > 20
    assert max(carries) > 0


@given(BITS.filter(lambda bits: len(bits) > 4), st.data())
def test_cut_or_continued_bytes_are_refused_or_are_some_bits(bits: Bits, data: st.DataObject) -> None:
    whole = coded(bits)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    for damaged in (cut, whole + bytes(9), whole + b"\xff" * 9):
        try:
            found = decoded(damaged, bits)
        except FormatError:
            continue
        # The archive's checksums tell them apart.
        assert len(found) == len(bits)


def test_symbols_of_version_1_outside_every_interval_are_damage() -> None:
    with pytest.raises(FormatError, match="outside all intervals"):
        RangeDecoder(b"\xff" * 16).target()
    with pytest.raises(FormatError, match="are truncated"):
        RangeDecoder(b"").take(0, 1)
    with pytest.raises(FormatError, match="further coded bytes after"):
        RangeDecoder(bytes(40)).finish()
