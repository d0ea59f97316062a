"""An archive as a seekable file that decompresses only the blocks that are read."""

from __future__ import annotations

import builtins
import io
import os
from bisect import bisect_right
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any

from fastslow.codec.errors import CodecError, FormatError
from fastslow.codec.models import ModelLike
from fastslow.codec.reader import ArchiveReader, Entry
from fastslow.errors import os_reason

if TYPE_CHECKING:
    import torch


class ArchiveFile(io.RawIOBase):
    """The text of an archive as a seekable raw stream; `open` wraps it in a buffer.

    The heads of all blocks are read at the start. One block is in memory at a time.
    """

    def __init__(self, source: IO[bytes], model: ModelLike | None, options: dict[str, Any]) -> None:
        self._source = source
        self._reader = ArchiveReader(source, model, **options)
        self._entries: list[Entry] = list(self._reader.entries())
        self._starts = list(accumulate((entry.plain for entry in self._entries), initial=0))
        self._at = 0
        self._number, self._block = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}.get(whence)
        if base is None:
            raise ValueError(f"whence must be 0, 1 or 2; got {whence}")
        if base + offset < 0:
            raise ValueError(f"a position cannot be negative; got {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._check_open()
        if self._at >= self._starts[-1] or not len(buffer):
            return 0
        number = bisect_right(self._starts, self._at) - 1
        self._load(number)
        offset = self._at - self._starts[number]
        piece = self._block[offset : offset + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        entry, self._number = self._entries[number], -1  # until it is decoded
        self._source.seek(entry.position)
        payload = self._source.read(entry.stored)
        if len(payload) < entry.stored:
            raise FormatError(f"block {entry.number}: the archive is truncated")
        self._block = self._reader.decode(entry, payload)
        self._number = number

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def open(
    path: str | os.PathLike[str], model: ModelLike | None = None, *, device: torch.device | str | None = None
) -> io.BufferedReader:
    """The archive at `path` as a readable, seekable binary file: `for line in open("log.fsz", "runs/log")`.

    Each block is verified when it is read; only `decompress` verifies the SHA-256 of the whole text. Raises
    FastslowError if the file cannot be read or is not an archive, and while reading, as `decompress`.
    """
    try:
        source = builtins.open(path, "rb")  # noqa: SIM115 - the stream that is returned closes it
    except OSError as error:
        raise CodecError(f"cannot read {os.fspath(path)}: {os_reason(error)}") from error
    try:
        return io.BufferedReader(ArchiveFile(source, model, {"device": device}))
    except BaseException:
        source.close()
        raise
