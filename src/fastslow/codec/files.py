"""Archive files: atomic writes, and no overwriting unless requested."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fastslow.codec.errors import CodecError
from fastslow.errors import os_reason

SUFFIX = ".fsz"


class Exists(CodecError):
    """The output file already exists."""


@contextmanager
def replacing(path: Path, *, force: bool, like: os.stat_result | None = None) -> Iterator[IO[bytes]]:
    """A file that becomes `path` if the block succeeds, and is removed otherwise.

    It is written under a temporary name ending in .part, flushed to the disk and renamed. `like`: the file whose
    permissions and times are copied. Raises Exists unless `force`, and CodecError if the system refuses.
    """
    if not force and os.path.lexists(path):
        raise Exists(f"{path} exists and was not overwritten (-f overwrites it)")
    if path.is_dir():
        raise CodecError(f"{path} is a folder: pass a file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Readable by its owner only until it has the source's permissions.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if like is not None else 0o666)
    except OSError as error:
        raise CodecError(f"cannot write {path}: {os_reason(error)}") from error
    try:
        with open(descriptor, "wb") as file:
            yield _Writing(file, path)  # type: ignore[misc]
            _finish(file, part, path, like)
        if not force and os.path.lexists(path):
            raise Exists(f"{path} was created in the meantime and was not overwritten (-f overwrites it)")
        try:
            os.replace(part, path)
        except OSError as error:
            raise CodecError(f"cannot write {path}: {os_reason(error)}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _finish(file: IO[bytes], part: Path, path: Path, like: os.stat_result | None) -> None:
    try:
        file.flush()
        if like is not None:
            os.chmod(part, stat.S_IMODE(like.st_mode) & 0o777)
        os.fsync(file.fileno())
        if like is not None:
            os.utime(part, ns=(like.st_atime_ns, like.st_mtime_ns))
    except OSError as error:
        raise CodecError(f"cannot write {path}: {os_reason(error)}") from error


class _Writing:
    """A file whose errors name its final path."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            raise CodecError(f"cannot write {self._path}: {os_reason(error)}") from error


def open_source(path: Path) -> tuple[IO[bytes], os.stat_result]:
    """Open a file for reading; the file and its status. Raises CodecError if the system refuses."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        return file, os.fstat(file.fileno())
    except OSError as error:
        raise CodecError(f"cannot read {path}: {os_reason(error)}") from error


def remove(path: Path) -> None:
    """Delete a source after its result was written."""
    try:
        path.unlink()
    except OSError as error:
        raise CodecError(f"cannot remove {path}: {os_reason(error)}") from error
