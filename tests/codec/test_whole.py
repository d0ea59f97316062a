"""File objects that do less than they are asked for."""

from __future__ import annotations

import io

import pytest

from fastslow import codec
from fastslow.codec.whole import read_up_to, write_all


class Pieces(io.RawIOBase):
    """A target that takes at most 3 bytes at a time, as an unbuffered file may."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += bytes(data[:3])
        return min(3, len(data))


class Uncounted:
    """A target that does not say how much it took: all."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class Impatient(io.RawIOBase):
    """A file in non-blocking mode."""

    def read(self, size: int = -1) -> None:  # type: ignore[override]
        return None

    def write(self, data: bytes) -> None:  # type: ignore[override]
        return None


def test_all_is_written() -> None:
    for target in (Pieces(), Uncounted()):
        write_all(target, b"one two three")  # type: ignore[arg-type]
        assert target.data == b"one two three"


def test_an_archive_is_written_and_read_in_pieces() -> None:
    archive, back = Pieces(), Pieces()
    codec.compress_stream(io.BytesIO(b"some text"), archive, None)  # type: ignore[arg-type]
    assert archive.data == codec.compress(b"some text")
    codec.decompress_stream(io.BytesIO(archive.data), back)  # type: ignore[arg-type]
    assert back.data == b"some text"


def test_nothing_yet_is_not_the_end() -> None:
    with pytest.raises(codec.CodecError, match="the source is in non-blocking mode"):
        read_up_to(Impatient(), 5)  # type: ignore[arg-type]
    with pytest.raises(codec.CodecError, match="the target is in non-blocking mode"):
        write_all(Impatient(), b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [5, "text", [1, 2]])
def test_only_bytes_are_compressed(data: object) -> None:
    with pytest.raises(TypeError):
        codec.compress(data)  # type: ignore[arg-type]
