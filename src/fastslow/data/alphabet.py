"""The alphabet: which byte values are symbols, and which index each of them has in a model.

A text is bytes.  :meth:`Alphabet.bytes` has all 256 values, so that every file can be encoded; :meth:`Alphabet.of` has
the distinct values of a training text in ascending order, as in the paper.  Symbols are indices 0..V-1, stored as
``uint8``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastslow.errors import AlphabetError, DataError

UInt8Array: TypeAlias = NDArray[np.uint8]
Buffer: TypeAlias = bytes | bytearray | memoryview | UInt8Array

_Bytes: TypeAlias = bytes  # the builtin type; the class below has a method of this name
_CHUNK = 1 << 20  # bytes per chunk, which keeps temporaries small


def describe_byte(value: int) -> str:
    """A byte in an error message: ``0x41 'A'``, ``0x0a '\\n'``, ``0xe9`` (not ASCII, so not a character by itself)."""
    return f"0x{value:02x} {chr(value)!r}" if value < 0x80 else f"0x{value:02x}"


def as_bytes_array(data: Buffer) -> UInt8Array:
    """``data`` as a ``uint8`` array (N,), without a copy; a ``np.memmap`` remains one.

    Raises ``TypeError`` for anything that is not bytes.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 1:
            raise TypeError(f"a text must be bytes or a uint8 array (N,); got {data.dtype} {data.shape}")
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return np.frombuffer(data, dtype=np.uint8)
    raise TypeError(f"a text must be bytes or a uint8 array (N,); got {type(data).__name__}")


class Alphabet:
    """An ordered set of byte values; symbol ``i`` is the ``i``-th of them.

    ``Alphabet(symbols)`` takes at least one byte value, in ascending order, without repetitions.  Immutable and
    hashable; alphabets with the same symbols are equal.  Raises :class:`~fastslow.errors.AlphabetError` for anything
    else.
    """

    __slots__ = ("_known", "_symbols", "_table", "_values")

    def __init__(self, symbols: _Bytes) -> None:
        if not isinstance(symbols, bytes):
            raise TypeError(f"symbols must be bytes; got {type(symbols).__name__}")
        if not symbols:
            raise AlphabetError("an alphabet needs at least one symbol; got none")
        for before, after in itertools.pairwise(symbols):
            if after == before or symbols.count(after) > 1:
                raise AlphabetError(f"the symbols of an alphabet must be distinct; {describe_byte(after)} occurs twice")
            if after < before:
                raise AlphabetError(
                    "the symbols of an alphabet must be in ascending order; "
                    f"{describe_byte(after)} comes after {describe_byte(before)}"
                )
        self._symbols = symbols
        self._values = np.frombuffer(symbols, dtype=np.uint8)  # (V,) index -> byte
        self._table = np.zeros(256, dtype=np.uint8)  # byte -> index
        self._table[self._values] = np.arange(len(symbols), dtype=np.uint8)
        self._known = np.zeros(256, dtype=np.bool_)
        self._known[self._values] = True

    @classmethod
    def bytes(cls) -> Alphabet:
        """All 256 byte values: every file can be encoded, and a symbol's index is its byte."""
        return cls(bytes(range(256)))

    @classmethod
    def of(cls, data: Buffer) -> Alphabet:
        """The distinct byte values of ``data``, in ascending order, as in the paper.

        Raises :class:`~fastslow.errors.DataError` for an empty text.
        """
        text = as_bytes_array(data)
        if len(text) == 0:
            raise DataError("the training text is empty: an alphabet needs at least one symbol")
        seen = np.zeros(256, dtype=np.bool_)
        for start in range(0, len(text), _CHUNK):
            seen[text[start : start + _CHUNK]] = True
        return cls(np.flatnonzero(seen).astype(np.uint8).tobytes())

    # Properties

    @property
    def symbols(self) -> _Bytes:
        """The byte values, ascending; ``symbols[i]`` is the byte of symbol ``i``."""
        return self._symbols

    @property
    def size(self) -> int:
        """V, the number of symbols."""
        return len(self._symbols)

    @property
    def is_bytes(self) -> bool:
        """Whether this is the alphabet of all 256 bytes."""
        return len(self._symbols) == 256

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the alphabet (the beginning of the SHA-256 of the symbols)."""
        return hashlib.sha256(self._symbols).hexdigest()[:16]

    def index(self, byte: int) -> int:
        """The symbol of a byte value.  Raises :class:`~fastslow.errors.AlphabetError` if it has none."""
        if byte not in self:
            named = describe_byte(byte) if 0 <= byte < 256 else str(byte)
            raise AlphabetError(f"byte {named} is not one of the {self.size} symbols of this alphabet")
        return int(self._table[byte])

    def __len__(self) -> int:
        return len(self._symbols)

    def __contains__(self, byte: object) -> bool:
        return isinstance(byte, int | np.integer) and 0 <= int(byte) < 256 and bool(self._known[int(byte)])

    def __eq__(self, other: object) -> bool:
        return self._symbols == other._symbols if isinstance(other, Alphabet) else NotImplemented

    def __hash__(self) -> int:
        return hash((Alphabet, self._symbols))

    def __repr__(self) -> str:
        return "Alphabet.bytes()" if self.is_bytes else f"Alphabet({self._symbols!r})"

    def __reduce__(self) -> tuple[type[Alphabet], tuple[_Bytes]]:
        return (Alphabet, (self._symbols,))

    # Text to symbols and back

    def check(self, data: Buffer, *, name: str = "the text") -> None:
        """Raise :class:`~fastslow.errors.AlphabetError` if ``data`` contains a byte outside the alphabet.

        The message gives the first such byte and its offset, the number of such bytes, and what to do.
        """
        text = as_bytes_array(data)
        if self.is_bytes:
            return
        for start in range(0, len(text), _CHUNK):
            known = self._known[text[start : start + _CHUNK]]
            if not known.all():
                raise self._unknown(text, start + int(np.argmin(known)), name)

    def encode(self, data: Buffer, *, name: str = "the text") -> UInt8Array:
        """The symbols of ``data``: indices 0..V-1, ``uint8`` (N,).

        With the byte alphabet this is ``data`` itself, not a copy, so a memory-mapped text stays on disk.  Otherwise
        the result takes one byte per symbol.  ``name`` is the name of the text in errors.  Raises
        :class:`~fastslow.errors.AlphabetError` as :meth:`check` does.
        """
        text = as_bytes_array(data)
        if self.is_bytes:
            return text
        result = np.empty(len(text), dtype=np.uint8)
        for start in range(0, len(text), _CHUNK):
            chunk = text[start : start + _CHUNK]
            known = self._known[chunk]
            if not known.all():
                raise self._unknown(text, start + int(np.argmin(known)), name)
            result[start : start + _CHUNK] = self._table[chunk]
        return result

    def decode(self, symbols: Sequence[int] | NDArray[Any] | Any) -> _Bytes:
        """The bytes of ``symbols``: integers 0..V-1 in a sequence, an array or a CPU tensor, shape (N,).

        Raises :class:`~fastslow.errors.AlphabetError` for an integer outside that range, ``TypeError`` for
        anything that is not a 1-D array of integers.
        """
        indices = np.asarray(symbols)
        if indices.size == 0:
            return b""
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise TypeError(f"symbols must be integers (N,); got {indices.dtype} {indices.shape}")
        wrong = (indices < 0) | (indices >= self.size)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise AlphabetError(
                f"symbol {int(indices[at])} at position {at} is outside this alphabet: 0 to {self.size - 1}"
            )
        decoded: UInt8Array = self._values[indices]
        return decoded.tobytes()

    def _unknown(self, text: UInt8Array, first: int, name: str) -> AlphabetError:
        counts = np.zeros(256, dtype=np.int64)
        for start in range(first - first % _CHUNK, len(text), _CHUNK):
            counts += np.bincount(text[start : start + _CHUNK], minlength=256)
        counts[self._known] = 0
        total, kinds = int(counts.sum()), int(np.count_nonzero(counts))
        extent = "1 such byte" if total == 1 else f"{total:,} such bytes of {kinds} kind{'s' * (kinds > 1)}"
        return AlphabetError(
            f"{name} has byte {describe_byte(int(text[first]))} at offset {first:,}, which is not one of the "
            f"{self.size} symbols of the model's alphabet ({extent} in all): remove those bytes from the text, "
            "or use a model trained with the byte alphabet"
        )

    # As part of a model's configuration

    def to_json(self) -> dict[str, str]:
        """The JSON object for :meth:`from_json`: ``{"kind": "bytes"}``, or ``"symbols"`` with hexadecimal digits."""
        if self.is_bytes:
            return {"kind": "bytes"}
        return {"kind": "symbols", "hex": self._symbols.hex()}

    @classmethod
    def from_json(cls, value: object) -> Alphabet:
        """The inverse of :meth:`to_json`.

        Raises :class:`~fastslow.errors.AlphabetError` for anything that :meth:`to_json` does not produce.
        """
        if not isinstance(value, Mapping):
            raise AlphabetError(f"a stored alphabet must be an object with a kind; got {type(value).__name__}")
        kind = value.get("kind")
        expected = {"bytes": {"kind"}, "symbols": {"kind", "hex"}}
        if not isinstance(kind, str) or kind not in expected:
            raise AlphabetError(f"the kind of a stored alphabet must be 'bytes' or 'symbols'; got {str(kind)[:40]!r}")
        if set(value) != expected[kind]:
            fields = ", ".join(sorted(str(k)[:40] for k in value)[:8])
            raise AlphabetError(
                f"the fields of a stored alphabet of kind {kind!r} must be {', '.join(sorted(expected[kind]))}; "
                f"got {fields}"
            )
        if kind == "bytes":
            return cls.bytes()
        digits = value["hex"]
        # bytes.fromhex also accepts blanks and capitals; only the canonical form is valid.
        if not isinstance(digits, str) or len(digits) % 2 or not set(digits) <= set("0123456789abcdef"):
            raise AlphabetError("the symbols of a stored alphabet must be pairs of the digits 0-9 and a-f")
        if len(digits) > 512:
            raise AlphabetError(f"a stored alphabet can have at most 256 symbols; got {len(digits) // 2:,}")
        alphabet = cls(bytes.fromhex(digits))
        if alphabet.is_bytes:
            raise AlphabetError("a stored alphabet of all 256 bytes must have kind 'bytes', not 'symbols'")
        return alphabet
