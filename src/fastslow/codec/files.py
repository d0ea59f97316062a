"""Archive files: atomic writes, and no overwriting unless requested."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from fastslow.codec.errors import CodecError
from fastslow.errors import os_reason
from fastslow.storage import is_special, part_of, sync_folder

SUFFIX = ".fsz"


class Exists(CodecError):
    """The output file already exists."""


@contextmanager
def replacing(path: Path, *, force: bool, like: os.stat_result | None = None) -> Iterator[IO[bytes]]:
    """A file that becomes `path` if the block succeeds, and is removed otherwise.

    It is written under a temporary name ending in .part, flushed to the disk and renamed. `like`: the file whose
    owner, permissions and times are copied. A device or pipe is written to and never replaced. Raises Exists unless
    `force`, and CodecError if the system refuses.
    """
    if path.is_dir():
        raise CodecError(f"{path} is a folder: pass a file")
    if is_special(path):
        with _opened(path, os.O_WRONLY, 0, path) as file:
            yield file
        return
    if not force and os.path.lexists(path):
        raise Exists(f"{path} exists and was not overwritten (-f overwrites it)")
    part = part_of(path)
    # Readable by its owner only until it has the source's permissions. EXCL: a link put there is not followed.
    mode = 0o600 if like is not None else 0o666
    try:
        with _opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, path) as file:
            yield file
            _finish(file.fileno(), part, path, like)
        if not force and os.path.lexists(path):
            raise Exists(f"{path} was created in the meantime and was not overwritten (-f overwrites it)")
        try:
            os.replace(part, path)
        except OSError as error:
            raise CodecError(f"cannot write {path}: {os_reason(error)}") from error
        with suppress(OSError):  # the folder may be one that only takes files
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, flags: int, mode: int, final: Path) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), mode)
    except OSError as error:
        raise CodecError(f"cannot write {final}: {os_reason(error)}") from error
    with open(descriptor, "wb", buffering=0) as file:
        yield cast("IO[bytes]", _Writing(file, final))


def _finish(descriptor: int, part: Path, path: Path, like: os.stat_result | None) -> None:
    at = descriptor if {os.chmod, os.utime} <= os.supports_fd else part
    try:
        if like is not None:
            os.chmod(at, _taken_over(descriptor, like))
        os.fsync(descriptor)
        if like is not None:
            os.utime(at, ns=(like.st_atime_ns, like.st_mtime_ns))
    except OSError as error:
        raise CodecError(f"cannot write {path}: {os_reason(error)}") from error


def _taken_over(descriptor: int, like: os.stat_result) -> int:
    """Takes over owner and group, and returns the permissions. If the group is refused, nobody gets rights that he did
    not have."""
    mode = stat.S_IMODE(like.st_mode) & 0o777
    if hasattr(os, "fchown"):
        with suppress(OSError):
            os.fchown(descriptor, like.st_uid, -1)
        try:
            os.fchown(descriptor, -1, like.st_gid)
        except OSError:
            everybody = mode >> 3 & mode & 0o007
            mode = mode & 0o700 | everybody << 3 | everybody
    return mode


class _Writing(io.RawIOBase):
    """A file whose errors name its final path. It has no buffer that would still have to be written after an error."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, data: Any) -> int:
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
