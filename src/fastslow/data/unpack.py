"""Unpack the files of a corpus from an archive, a file or a folder, with verification; either all of them or none.

They are unpacked under temporary names, compared with their SHA-256, and only then renamed: at any moment a file of the
corpus is either complete or absent.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from fastslow.data.corpora import Corpus, CorpusFile
from fastslow.errors import ChecksumError, CorpusError, os_reason

_CHUNK = 1 << 18
# The exceptions of archive readers for damaged data; BadGzipFile is an OSError, but not a disk error.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


class Unpacked:
    """The files of a corpus under temporary names; :meth:`commit` renames all of them, or none."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self._corpus = corpus
        self._folder = folder
        self._ready: dict[str, Path] = {}

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *exception: object) -> None:
        for path in self._ready.values():
            path.unlink(missing_ok=True)

    def add(self, path: Path, origin: str, name: str) -> None:
        """Add the files of the corpus in ``path``, which may be a file itself or an archive.

        ``origin`` is its name in messages, ``name`` its file name without ``.part``.
        """
        try:
            source = path.open("rb")
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {os_reason(error)}") from error
        with source:
            head = source.read(8)
            source.seek(0)
            try:
                if head.startswith(b"PK\x03\x04"):
                    self._add_zip(source, origin)
                elif head.startswith(b"\x1f\x8b") or name.endswith(".tar"):
                    self._add_tar(source, origin)
                else:
                    self._add_plain(source, path, origin, name)
            except _DAMAGED as error:
                raise ChecksumError(f"{origin} is a damaged archive ({error})") from error

    def _add_zip(self, source: IO[bytes], origin: str) -> None:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                file = self._wanted(info.filename, info.file_size)
                if file is None:
                    continue
                if info.flag_bits & 1:
                    raise ChecksumError(f"{origin} is encrypted: unpack it first")
                with archive.open(info) as member:
                    self._take(member, file, f"{file.name} in {origin}")

    def _add_tar(self, source: IO[bytes], origin: str) -> None:
        with tarfile.open(fileobj=source) as archive:
            for info in archive:
                file = self._wanted(info.name, info.size)
                member = archive.extractfile(info) if file is not None and info.isfile() else None
                if file is not None and member is not None:
                    with member:
                        self._take(member, file, f"{file.name} in {origin}")

    def _add_plain(self, source: IO[bytes], path: Path, origin: str, name: str) -> None:
        size = path.stat().st_size
        left = [f for f in self._corpus.files if f.name not in self._ready]
        # A copy may have any name: select by size, then verify the digest.
        file = next((f for f in left if name in f.names), None) or next((f for f in left if f.size == size), None)
        if file is None:
            begins = source.read(24).decode("latin-1")
            raise ChecksumError(
                f"{origin} is not {self._corpus.name} or an archive of it: {size:,} bytes that begin with {begins!r}"
            )
        self._take(source, file, origin)

    def _wanted(self, name: str, size: int) -> CorpusFile | None:
        """The file of the corpus that matches an archive member by name and size, unless it was already added."""
        base = PurePosixPath(name).name
        left = (f for f in self._corpus.files if f.name not in self._ready)
        return next((f for f in left if base in f.names and size == f.size), None)

    def _take(self, source: IO[bytes], file: CorpusFile, origin: str) -> None:
        temporary = self._folder / f".{file.name}.tmp"
        self._ready[file.name] = temporary
        digest = hashlib.sha256()
        size = 0
        with temporary.open("wb") as target:
            # Read at most one byte more than expected, so that a decompression bomb cannot fill the disk.
            while size <= file.size and (chunk := _read_source(source, origin)):
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            target.flush()
            os.fsync(target.fileno())
        if size != file.size:
            length = f"more than {file.size:,}" if size > file.size else f"{size:,}"
            raise ChecksumError(f"{origin} has {length} bytes instead of {file.size:,}")
        if digest.hexdigest() != file.sha256:
            raise ChecksumError(
                f"{origin} is damaged or a different file: its SHA-256 is {digest.hexdigest()[:16]}... "
                f"instead of {file.sha256[:16]}..."
            )

    def commit(self, origin: str) -> None:
        """Rename the files.  Raises ``ChecksumError`` if one of them was not found in ``origin``."""
        missing = [f"{f.name} ({f.size:,} bytes)" for f in self._corpus.files if f.name not in self._ready]
        if missing:
            raise ChecksumError(f"{origin} does not have {', '.join(missing)}")
        for name, temporary in self._ready.items():
            os.replace(temporary, self._folder / name)
        self._ready.clear()


def _read_source(source: IO[bytes], origin: str) -> bytes:
    try:
        return source.read(_CHUNK)
    except _DAMAGED:
        raise
    except OSError as error:
        raise CorpusError(f"cannot read {origin}: {os_reason(error)}") from error
