"""The range coder: golden bytes, round trips, carries, and damage that is noticed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.codec import rangecoder
from fastslow.codec.errors import FormatError
from fastslow.codec.rangecoder import TOTAL, RangeDecoder, RangeEncoder

Intervals = list[tuple[int, int]]


@st.composite
def intervals(draw: st.DrawFn) -> Intervals:
    """Runs of intervals, extreme ones included: frequency 1, nearly all, at the front and at the very end."""
    width = st.one_of(st.integers(1, 4), st.integers(TOTAL - 4, TOTAL), st.integers(1, TOTAL))
    result = []
    for frequency in draw(st.lists(width, max_size=60)):
        last = TOTAL - frequency
        result.append((draw(st.one_of(st.just(0), st.just(last), st.integers(0, last))), frequency))
    return result


def coded(symbols: Intervals) -> bytes:
    coder = RangeEncoder()
    coder.encode(symbols)
    return coder.finish()


def decoded(data: bytes, symbols: Intervals) -> Intervals:
    """What the decoder finds, each symbol's interval being known to it by its target alone."""
    decoder, found = RangeDecoder(data), []
    for start, frequency in symbols:
        target = decoder.target()
        found.append((start, frequency) if start <= target < start + frequency else (target, 0))
        decoder.take(start, frequency)
    decoder.finish()
    return found


@given(intervals())
def test_round_trip(symbols: Intervals) -> None:
    assert decoded(coded(symbols), symbols) == symbols


@given(intervals())
def test_length_is_that_of_the_information(symbols: Intervals) -> None:
    bits = sum(math.log2(TOTAL / frequency) for _, frequency in symbols)
    assert len(coded(symbols)) <= bits / 8 + 1 + 1e-6 * len(symbols)


def test_golden_bytes() -> None:
    draw = random.Random(5)
    symbols = []
    for _ in range(40):
        frequency = draw.randrange(1, TOTAL)
        symbols.append((draw.randrange(TOTAL - frequency + 1), frequency))
    assert coded([]) == b""
    assert coded(symbols) == bytes.fromhex("6fab547600c75a")
    assert coded([(TOTAL - 1, 1)] * 3) == bytes.fromhex("fffffffffeffffffff01")
    assert coded([(byte << 16, 1 << 16) for byte in b"golden"]) == b"golde\x07"


def test_a_carry_runs_through_the_bytes_already_written(monkeypatch: pytest.MonkeyPatch) -> None:
    carries: list[int] = []
    carry = rangecoder._carry

    def counted(out: bytearray) -> None:
        carries.append(len(out) - len(out.rstrip(b"\xff")))
        carry(out)

    monkeypatch.setattr(rangecoder, "_carry", counted)
    for seed in range(400):
        draw = random.Random(seed)
        # Near the top, so that bytes of 0xff are written, then wide steps that may push low over.
        symbols = [(TOTAL - 3, 3)] * draw.randrange(1, 6)
        symbols += [(draw.randrange(TOTAL - 9), 9) for _ in range(3)]
        symbols += [(TOTAL // 2, TOTAL // 2)] * draw.randrange(60)
        assert decoded(coded(symbols), symbols) == symbols
    assert len(carries) > 20
    assert max(carries) > 0


@given(intervals().filter(lambda symbols: len(symbols) > 4), st.data())
def test_cut_or_continued_bytes_are_noticed_or_harmless(symbols: Intervals, data: st.DataObject) -> None:
    whole = coded(symbols)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    for damaged in (cut, whole + bytes(9), whole + b"\xff" * 9):
        try:
            found = decoded(damaged, symbols)
        except FormatError:
            continue
        # A cut may leave the number inside the last interval; anything added is noticed.
        assert damaged == cut
        assert len(found) == len(symbols)


def test_a_number_outside_every_interval_is_damage() -> None:
    with pytest.raises(FormatError, match="outside every interval"):
        RangeDecoder(b"\xff" * 16).target()
    with pytest.raises(FormatError, match="end too early"):
        RangeDecoder(b"").take(0, 1)
    decoder = RangeDecoder(bytes(40))
    with pytest.raises(FormatError, match="go on after"):
        decoder.finish()
