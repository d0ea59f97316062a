"""Reading and writing the whole of what was asked for, where a file object may do only a part of it.

A pipe returns what has arrived. An unbuffered file on a full disk writes the bytes that still fit, and says how many.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO

from fastslow.codec.errors import CodecError

_PIECE = 1 << 20
_WOULD_BLOCK = "is in non-blocking mode: pass a file that waits"


def read_up_to(source: IO[bytes], size: int) -> bytes:
    """`size` bytes, or as many as there are before the end. Raises CodecError for a source that does not wait."""
    parts, left = [], size
    while left:
        piece = source.read(min(left, _PIECE))
        if piece is None:  # not the end: nothing has arrived yet
            raise CodecError(f"the source {_WOULD_BLOCK}")
        if not piece:
            break
        parts.append(piece)
        left -= len(piece)
    return b"".join(parts)


def write_all(target: IO[bytes], data: bytes) -> None:
    """Write all of `data`. Raises OSError if the system refuses, CodecError for a target that does not wait."""
    write: Callable[[bytes | memoryview], int | None] = target.write
    rest: bytes | memoryview = data
    while len(rest):
        count = write(rest)
        if count is None and isinstance(target, io.RawIOBase):
            raise CodecError(f"the target {_WOULD_BLOCK}")
        if count is None or count >= len(rest):  # None: an object of the caller's that does not count
            return
        rest = memoryview(rest)[count:]
