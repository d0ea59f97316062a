"""The compiled coders write the bytes of the Python ones and read them back, and refuse what those refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.codec.blocks import decode_block, encode_block
from fastslow.codec.errors import FormatError
from fastslow.codec.exact.predictor import ExactPredictor
from fastslow.codec.exact.tables import Ints, standard_tables
from fastslow.codec.frequencies import MAX_LOGIT, FrequencyModel
from fastslow.codec.steps import Compiled, Decoder, Encoder, Layout
from fastslow.compiling.build import BuildError, compiler

from ..tiny import ALPHABET, random_text, tiny_model

try:
    compiler()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


class Fixed:
    """Predicts logits drawn from one seed, however far apart: every shape of frequencies there is."""

    learns = False

    def __init__(self, size: int, seed: int, spread: float) -> None:
        self.symbols = bytes(range(256 - size, 256))
        self.start = seed % size
        self.frequencies = FrequencyModel(standard_tables())
        self._seed, self._spread = seed, spread

    def begin(self, lanes: int) -> None:
        self._draw = np.random.default_rng(self._seed)

    def step(self, symbols: Ints) -> Ints:
        values = self._draw.normal(size=(len(symbols), len(self.symbols))) * self._spread
        values.reshape(-1)[::5] = self._spread  # ties, for the likeliest too
        values += symbols[:, None]  # a wrong symbol shows
        return np.clip(values, -MAX_LOGIT, MAX_LOGIT).astype(np.int64)

    def settle(self, used: bool) -> None:
        pass


def both(data: bytes, predictor: Any, lanes: int, escape: int) -> tuple[bytes, bytes]:
    layout, text = Layout(len(data), lanes), np.frombuffer(data, np.uint8)
    payloads = []
    for kind in (Encoder, lambda *given: Compiled(*given, None)):
        coder = kind(text, layout, predictor, escape)
        sizes = []
        for first, last in layout.pieces(max(1, coder.at_once), 5):
            for t in range(first, last):
                coder.run(t, t + 1)
                sizes.append(len(coder))
        payloads.append((coder.finish(), sizes))
    assert payloads[0] == payloads[1]
    for reader in (Decoder, Compiled):
        back = np.zeros(len(data), np.uint8)
        decoder = reader(back, layout, predictor, escape, payloads[0][0])
        decoder.run(0, layout.steps)
        decoder.finish()
        assert back.tobytes() == data
    return payloads[0][0], payloads[1][0]


@given(
    st.binary(min_size=1, max_size=120),
    st.integers(1, 40),
    st.integers(1, 256),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 3e4, 1e6, 1e13]),
)
@settings(max_examples=80, deadline=None)
def test_logits_from_elsewhere(data: bytes, lanes: int, size: int, seed: int, spread: float) -> None:
    predictor = Fixed(size, seed, spread)
    unknown = any(byte not in predictor.symbols for byte in data)
    both(data, predictor, lanes, 1 << seed % 23 if unknown or seed % 2 else 0)


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 10**6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_compiled_model(length: int, lanes: int, seed: int, escapes: bool) -> None:
    data = random_text(length, seed) + (b"\x00\xff" if escapes else b"")
    both(data, ExactPredictor(tiny_model(hidden=6, slow=5)), lanes, 1 << 15 if escapes else 0)


def test_carries_run_through() -> None:
    """A likely symbol at the top of every interval, again and again: carries into bytes of 255."""
    predictor = Fixed(2, 1, 0.0)
    predictor.step = lambda symbols: np.tile([0, 60_000], (len(symbols), 1))  # type: ignore[method-assign]
    both(bytes([255]) * 3000 + bytes([254]) * 5 + bytes([255]) * 3000, predictor, 3, 0)


def outcome(payload: bytes, length: int, lanes: int) -> str:
    try:
        return decode_block(payload, length, ExactPredictor(tiny_model(hidden=6, slow=5)), lanes, 10).hex()
    except FormatError as error:
        return str(error)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_payloads_end_alike(data: st.DataObject) -> None:
    text = random_text(200) + b"\xee"
    payload = bytearray(encode_block(text, ExactPredictor(tiny_model(hidden=6, slow=5)), 7, 10, 1 << 20) or b"")
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    with pytest.MonkeyPatch.context() as patch:
        compiled = outcome(cut, len(text), 7)
        patch.setenv("FASTSLOW_NATIVE", "0")
        assert outcome(cut, len(text), 7) == compiled


def test_bytes_of_255_and_no_bytes_at_all() -> None:
    for payload in (b"", b"\xff" * 40, bytes(4000)):
        with pytest.raises(FormatError):
            decode_block(payload, 3000, ExactPredictor(tiny_model(symbols=ALPHABET)), 3, 0)
