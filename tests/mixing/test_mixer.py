"""The mixer: compiled code against the reference, bit for bit; what its probabilities add up to; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.mixing import Mixer
from fastslow.mixing.mixer import TOTAL, bits_of
from fastslow.mixing.native import library
from fastslow.mixing.reference import Coded

TEXT = b"the quick brown fox jumps over the lazy dog and the quick cat\nsat on the mat; 12,34\n12,35\n"
NATIVE = pytest.mark.skipif(isinstance(library(), str), reason="there is no compiled mixer")


def frequencies(count: int, size: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    weights = np.random.default_rng(seed).random((count, size)) ** 8
    rows = (weights / weights.sum(axis=1, keepdims=True) * (TOTAL - size)).astype(np.int64) + 1
    rows[:, 0] += TOTAL - rows.sum(axis=1)
    return rows


def both(data: bytes, lanes: int, size: int, likeliest: int = 0) -> Coded:
    symbols = bytes(range(97, 97 + size))
    rows = frequencies(len(data), size, len(data)) if size else None
    arguments = (data, rows, symbols) if size else (data,)
    compiled = Mixer(len(data), lanes, network=size > 0).code(*arguments, likeliest=likeliest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSLOW_NATIVE", "0")
        reference = Mixer(len(data), lanes, network=size > 0).code(*arguments, likeliest=likeliest)
    for made, wanted in zip(compiled, reference, strict=True):
        assert made.shape == wanted.shape
        assert (made == wanted).all()
    return compiled


@NATIVE
@pytest.mark.parametrize(("lanes", "size"), [(1, 0), (5, 26), (2, 1)])
def test_twin(lanes: int, size: int) -> None:
    both(TEXT + TEXT[:60] + b"\r\n\x00\xff" + TEXT[:40], lanes, size)


@NATIVE
@given(st.binary(min_size=1, max_size=40), st.integers(1, 8), st.sampled_from([0, 3]))
@settings(max_examples=10, deadline=None)
def test_twin_of_any_bytes(data: bytes, lanes: int, size: int) -> None:
    both(data, min(lanes, len(data)), size)


@NATIVE
@pytest.mark.parametrize(("lanes", "size", "likeliest"), [(1, 0, 5), (3, 26, 2), (1, 2, 256)])
def test_the_likeliest_bytes_are_those_of_the_reference(lanes: int, size: int, likeliest: int) -> None:
    text = TEXT[:48] if likeliest < 256 else TEXT[:6]
    found = both(text, lanes, size, likeliest)
    assert (found.probabilities == both(text, lanes, size).probabilities).all(), "looking has changed what follows"


@NATIVE
def test_all_bytes_have_about_the_probabilities_they_are_coded_with() -> None:
    """Not exactly: a bit is coded after the bits before it in its byte were learned from."""
    data = TEXT * 3
    found = Mixer(len(data)).code(data, likeliest=256)
    assert (np.sort(found.likeliest, axis=1) == np.arange(256)).all()
    chances = found.chances.astype(np.float64) / 2**32
    assert np.abs(chances.sum(axis=1) - 1).max() < 1e-6
    assert (np.diff(chances, axis=1) <= 0).all()
    own = np.take_along_axis(chances, (found.likeliest == np.frombuffer(data, np.uint8)[:, None]).argmax(1)[:, None], 1)
    apart = np.abs(-np.log2(own[:, 0]) - bits_of(found))
    assert apart.max() < 1
    assert apart.mean() < 0.1
    assert chr(found.likeliest[-2, 0]) == "5"
    assert (Mixer(len(data)).code(data, likeliest=3).likeliest == found.likeliest[:, :3]).all()


@NATIVE
def test_it_learns() -> None:
    bits = Mixer(50 * len(TEXT)).bits(TEXT * 50)
    assert bits[: len(TEXT)].mean() > 4
    assert bits[-len(TEXT) :].mean() < 0.02
    assert Mixer(1 << 16).bits(bytes(1 << 16)).sum() < 8 * 60


@NATIVE
def test_noise_costs_little_more_than_itself() -> None:
    data = np.random.default_rng(0).bytes(30_000)
    assert Mixer(len(data)).bits(data).mean() < 8.2


@NATIVE
def test_a_network_that_knows_is_believed() -> None:
    data = np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8)
    rows = np.ones((len(data), 256), dtype=np.int64)
    rows[np.arange(len(data)), data] = TOTAL - 255
    assert Mixer(len(data), network=True).bits(data, rows)[5000:].mean() < 0.05
    assert Mixer(len(data), network=True).bits(data, frequencies(len(data), 256, 1))[5000:].mean() < 8.5


@NATIVE
def test_pieces_are_the_whole() -> None:
    whole = Mixer(len(TEXT), 3).bits(TEXT)
    mixer = Mixer(len(TEXT), 3)
    assert (
        np.concatenate([mixer.bits(TEXT[:1]), mixer.bits(TEXT[1:50]), mixer.bits(TEXT[50:])]).tolist() == whole.tolist()
    )


def test_senseless_arguments() -> None:
    for length, lanes in ((0, 1), (5, 6), (5, 0), (1 << 31, 1)):
        with pytest.raises(ValueError, match="must be"):
            Mixer(length, lanes)
    mixer = Mixer(5)
    with pytest.raises(ValueError, match="left of length"):
        mixer.bits(b"too long")
    with pytest.raises(ValueError, match="network=True"):
        mixer.bits(b"a", frequencies(1, 256, 0))
    with pytest.raises(ValueError, match="likeliest must be from 0 to 256; got 257"):
        mixer.code(b"a", likeliest=257)
    mixer = Mixer(5, network=True)
    with pytest.raises(ValueError, match="network=True"):
        mixer.bits(b"a")
    with pytest.raises(ValueError, match="one column per symbol"):
        mixer.bits(b"a", frequencies(2, 256, 0))
    with pytest.raises(ValueError, match="sum to"):
        mixer.bits(b"a", frequencies(1, 256, 0) + 1)
