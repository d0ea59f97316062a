"""Archives as files: nothing is overwritten unasked, and a file appears under its name only when it is whole."""

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
    """The file to be written is there already."""


@contextmanager
def replacing(path: Path, *, force: bool, like: os.stat_result | None = None) -> Iterator[IO[bytes]]:
    """A file to write that becomes `path` when the block ends well, and vanishes when it does not.

    It is written beside its place under another name ending in .part, flushed to the disk and renamed. `like`: its
    permissions and times are taken over. Raises Exists unless `force`, and CodecError where the system refuses.
    """
    if not force and os.path.lexists(path):
        raise Exists(f"{path} exists: it was not overwritten (-f overwrites)")
    if path.is_dir():
        raise CodecError(f"{path} is a folder: name a file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # For its owner alone until it has the source's permissions.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if like is not None else 0o666)
    except OSError as error:
        raise CodecError(f"cannot write {path}: {os_reason(error)}") from error
    try:
        with open(descriptor, "wb") as file:
            yield _Writing(file, path)  # type: ignore[misc]
            _finish(file, part, path, like)
        if not force and os.path.lexists(path):
            raise Exists(f"{path} has appeared meanwhile: it was not overwritten (-f overwrites)")
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
    """A file whose complaints name the place it will have."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            raise CodecError(f"cannot write {self._path}: {os_reason(error)}") from error


def open_source(path: Path) -> tuple[IO[bytes], os.stat_result]:
    """A file to read, and what the system says of it. CodecError where it refuses."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        return file, os.fstat(file.fileno())
    except OSError as error:
        raise CodecError(f"cannot read {path}: {os_reason(error)}") from error


def remove(path: Path) -> None:
    """Delete a source that is safely stored elsewhere by now."""
    try:
        path.unlink()
    except OSError as error:
        raise CodecError(f"cannot remove {path}: {os_reason(error)}") from error
