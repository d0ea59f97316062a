from __future__ import annotations

import math

import numpy as np
import pytest

from fastslow.dynamics.words import position_losses, word_positions


def as_array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"to be", [1, 2, 0, 1, 2]),
        (b" a  bc\n\td", [0, 1, 0, 0, 1, 2, 0, 0, 1]),
        (b"don't-x", [1, 2, 3, 4, 5, 6, 7]),
        (b"\xc3\xa9 \xff", [1, 2, 0, 1]),
    ],
)
def test_positions(text: bytes, expected: list[int]) -> None:
    assert word_positions(as_array(text)).tolist() == expected


def test_losses_by_position() -> None:
    nats = [2.0, 4.0, 1.0, 3.0, 5.0, 7.0]
    found = position_losses(nats, as_array(b"ab cdef"), longest=3)
    #     b is 2nd, the space 0, c 1, d 2, e and f 3 or later
    assert found.symbols.tolist() == [1, 1, 2, 2]
    assert found.nats.tolist() == [4.0, 1.0, 5.0, 12.0]
    np.testing.assert_allclose(found.bpc * math.log(2), [4.0, 1.0, 2.5, 6.0])
    assert math.isnan(position_losses(nats, as_array(b"ab cdef"), longest=9).bpc[8])
    with pytest.raises(ValueError, match="7 bytes have 6 losses; got 5"):
        position_losses(nats[:5], as_array(b"ab cdef"))
