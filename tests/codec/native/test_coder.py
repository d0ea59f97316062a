"""The compiled coder writes the bytes of the Python one and reads them back, and refuses what that refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.codec.errors import FormatError
from fastslow.codec.exact.tables import Ints, standard_tables
from fastslow.codec.frequencies import MAX_LOGIT, FrequencyModel
from fastslow.codec.mixed import Compiled, Reference, decode_block, encode_block
from fastslow.codec.native.library import library
from fastslow.codec.predictor import ExactPredictor
from fastslow.compiling.build import BuildError, compiler

from ..tiny import TEXT, tiny_model

try:
    compiler()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def test_there_is_a_library() -> None:
    """A compiler that cannot make it is a fault, not a reason to test nothing."""
    assert not isinstance(library(), str), library()


class Fixed:
    """Predicts logits drawn from one seed, however far apart: every shape of frequencies there is."""

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


def both(data: bytes, network: Any, lanes: int) -> bytes:
    payloads = []
    for kind in (Reference, Compiled):
        coder, sizes = kind(data, len(data), lanes, network, decodes=False), []
        for t in range(-(-len(data) // lanes)):
            coder.run(t, t + 1)
            sizes.append(len(coder))
        payloads.append((coder.finish(), sizes))
    assert payloads[0] == payloads[1]
    payload = payloads[0][0]
    for kind in (Reference, Compiled):
        decoder = kind(payload, len(data), lanes, network, decodes=True)
        decoder.run(0, -(-len(data) // lanes))
        assert decoder.finish() == data
    return payload


@given(
    st.binary(min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 256),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 3e4, 1e6, 1e13]),
)
@settings(max_examples=12, deadline=None)
def test_logits_from_elsewhere(data: bytes, lanes: int, size: int, seed: int, spread: float) -> None:
    both(data, Fixed(size, seed, spread), min(lanes, len(data)))


@given(st.integers(1, 60), st.integers(1, 9), st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_compiled_model(length: int, lanes: int, unknown: bool) -> None:
    data = TEXT[:length] + (b"\x00\xff" if unknown else b"")
    both(data, ExactPredictor(tiny_model(hidden=6, slow=5)), min(lanes, len(data)))


@given(st.lists(st.sampled_from([TEXT[:20], b"\r\n", b"\n1,2\n1,3\n", bytes(5), b"\xc3\xa9"]), min_size=1, max_size=6))
@settings(max_examples=8, deadline=None)
def test_without_a_network(parts: list[bytes]) -> None:
    both(b"".join(parts), None, 1)


def outcome(payload: bytes, length: int, lanes: int) -> str:
    try:
        return decode_block(payload, length, ExactPredictor(tiny_model(hidden=6, slow=5)), lanes).hex()
    except FormatError as error:
        return str(error)


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_damaged_payloads_end_alike(data: st.DataObject) -> None:
    text = TEXT[:60] + b"\xee"
    payload = bytearray(encode_block(text, ExactPredictor(tiny_model(hidden=6, slow=5)), 7, 1 << 20) or b"")
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    with pytest.MonkeyPatch.context() as patch:
        compiled = outcome(cut, len(text), 7)
        patch.setenv("FASTSLOW_NATIVE", "0")
        assert outcome(cut, len(text), 7) == compiled


def test_a_payload_that_goes_on_is_refused() -> None:
    for payload in (bytes(4000), b"\xff" * 4000):
        with pytest.raises(FormatError):
            decode_block(payload, 300, None, 3)


def test_the_number_of_threads_changes_nothing() -> None:
    import torch

    model, before = tiny_model(hidden=40, slow=30), torch.get_num_threads()
    found = set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.add(encode_block(TEXT * 2, ExactPredictor(model), 48, 1 << 20))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
