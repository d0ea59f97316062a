"""Code lengths of a text by context mixing, with or without a network's predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastslow.mixing.native import NativeMixer, library
from fastslow.mixing.reference import Coded, Masses, ReferenceMixer, masses_of
from fastslow.mixing.tables import Ints

TOTAL = 1 << 24
_COST = -np.log2(np.arange(1, 65536) / 65536)


class Mixer:
    """Predicts each byte of a text of at most `length` bytes, then learns from it.

        mixer = Mixer(len(text))
        bits = mixer.bits(text)                                     # (n,): the code length of each byte

        mixer = Mixer(len(text), network=True)
        bits = mixer.bits(text, frequencies, symbols)               # frequencies (n, V) of the bytes `symbols`

    A text may be passed in pieces. The probabilities are the integers used in the archives of `fastslow.codec`, the
    same on every machine. Compiled code processes a few hundred kilobytes per second, the Python reference about one.

    length: total bytes of text, at least 1. lanes: streams in parallel, as in `ReferenceMixer`; bytes are then passed
    in order of steps, then of lanes. network: whether every byte comes with a network's frequencies.
    """

    def __init__(self, length: int, lanes: int = 1, *, network: bool = False) -> None:
        if not 1 <= length < 1 << 31:
            raise ValueError(f"length must be from 1 to {(1 << 31) - 1:,} bytes; got {length:,}")
        if not 1 <= lanes <= length:
            raise ValueError(f"lanes must be from 1 to length; got {lanes} lanes for {length:,} bytes")
        self.length, self.lanes, self.network = length, lanes, network
        self._given = 0
        self._native: NativeMixer | None = None
        self._reference: _Reference | None = None
        if isinstance(library(), str):
            self._reference = _Reference(length, lanes, network)
        else:
            self._native = NativeMixer(length, lanes, network)

    def code(
        self,
        data: bytes | NDArray[np.uint8],
        frequencies: Ints | None = None,
        symbols: bytes = bytes(range(256)),
        *,
        likeliest: int = 0,
    ) -> Coded:
        """The probabilities of the next n bytes, and the `likeliest` likeliest bytes (0 to 256) at each place.

        frequencies: (n, V) positive integers, each row summing to 2^24; symbols: the V bytes that the columns stand
        for, in any order. Any other byte gets a probability of 2^-18.
        """
        text = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data, np.uint8)
        if text.ndim != 1 or self._given + len(text) > self.length:
            raise ValueError(
                f"text must be (n,), n <= {self.length - self._given:,} (left of length); got {text.shape}"
            )
        if not 0 <= likeliest <= 256:
            raise ValueError(f"likeliest must be from 0 to 256; got {likeliest}")
        if (frequencies is not None) != self.network:
            raise ValueError("frequencies must be given if and only if the mixer has network=True")
        if frequencies is not None:
            if frequencies.shape != (len(text), len(symbols)) or len(set(symbols)) != len(symbols):
                raise ValueError(
                    f"frequencies must be ({len(text)}, {len(symbols)}), one column per symbol; got {frequencies.shape}"
                )
            if frequencies.size and (frequencies.min() < 1 or (frequencies.sum(axis=1) != TOTAL).any()):
                raise ValueError(f"frequencies must be at least 1, and each row must sum to {TOTAL:,}")
        self._given += len(text)
        return (self._native or self._reference).code(text, frequencies, symbols, likeliest)  # type: ignore[union-attr]

    def bits(
        self, data: bytes | NDArray[np.uint8], frequencies: Ints | None = None, symbols: bytes = bytes(range(256))
    ) -> NDArray[np.float64]:
        """The next n bytes -> (n,): the code length of each in bits. Arguments as for `code`."""
        return bits_of(self.code(data, frequencies, symbols))


def bits_of(coded: Coded) -> NDArray[np.float64]:
    """The code length of each byte in bits, (n,)."""
    costs: NDArray[np.float64] = _COST[coded.probabilities.astype(np.int64) - 1].sum(axis=1)
    return costs


class _Reference:
    """The Python counterpart of `NativeMixer`."""

    def __init__(self, length: int, lanes: int, network: bool) -> None:
        self._mixer = ReferenceMixer(length, lanes, network)
        self._lane = self._step = 0

    def code(self, data: NDArray[np.uint8], frequencies: Ints | None, symbols: bytes, likeliest: int) -> Coded:
        out = np.empty((len(data), 8), dtype=np.uint16)
        found: list[list[tuple[int, int]]] = []
        mixer = self._mixer
        for i, byte in enumerate(data.tolist()):
            masses: Masses | None = None if frequencies is None else masses_of(frequencies[i], symbols)
            mixer.begin(self._lane, self._step, masses)
            found.append(mixer.likeliest(likeliest))
            for bit in range(8):
                y, p = byte >> (7 - bit) & 1, mixer.predict()
                out[i, bit] = p if y else 65536 - p
                mixer.update(y)
            mixer.end()
            self._lane += 1
            if self._lane == mixer.active(self._step):
                self._lane, self._step = 0, self._step + 1
        pairs = np.array(found, dtype=np.int64).reshape(len(data), likeliest, 2)
        return Coded(out, pairs[:, :, 0].astype(np.uint8), pairs[:, :, 1].astype(np.uint32))
