"""Getting a public corpus: from its homes on the web, resumably, or from a copy on the disk; checked, atomic.

A download goes into ``NAME.part`` beside a small ``NAME.part.json`` that remembers which version of which address
it is a part of.  An interrupted one goes on where it stopped, with HTTP ``Range`` and ``If-Range``; when the server
cannot do that, or has another version by now, it starts again.  The files of the corpus are unpacked under temporary
names, compared with their SHA-256, and only then renamed: at any moment a file of the corpus is whole or absent.
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import http.client
import json
import os
import socket
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias

from fastslow.data.corpora import Corpus, CorpusFile, Source, corpus_dir, find_corpus, is_present
from fastslow.errors import ChecksumError, CorpusError, os_reason

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the name of the file, the bytes it has so far, and how many it will have, where that is known."""

_CHUNK = 1 << 18
_USER_AGENT = "fastslow"
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# What the archive readers raise over bad bytes; BadGzipFile is an OSError, but not one of the disk's.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


class _MirrorError(Exception):
    """This address cannot give the file; another one might."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class _CutError(Exception):
    """The connection failed; the same address may answer the next time."""


def fetch(
    corpus: str | Corpus,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    from_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    base_url: str | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    backoff: float = 0.5,
) -> Path:
    """Put a corpus into the data folder and return its folder there; at once when it is there already.

    ``from_file`` takes it from a copy instead of the web: the zip or tar archive, the file itself, or a folder
    that has the files (also deeper in it).  ``base_url`` replaces everything but the last part of the public
    addresses, for a mirror of one's own.  Each address gets ``retries`` further attempts, ``backoff``, twice, four
    times ... as many seconds apart; an attempt that made progress starts the count afresh.  ``timeout`` is in
    seconds without any data.

    Raises :class:`~fastslow.errors.UnknownNameError` for an unknown corpus, and
    :class:`~fastslow.errors.CorpusError` when no address could give it, when what came is not the corpus
    (:class:`~fastslow.errors.ChecksumError`), or when the folder cannot be written.  What has been downloaded
    stays for the next attempt, also after Ctrl-C.
    """
    found = find_corpus(corpus)
    folder = corpus_dir(found, data_dir)
    report = progress or (lambda name, done, total: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder, found.name):
            if _complete(found, folder):
                return folder
            if from_file is not None:
                _from_file(found, Path(from_file), folder)
            else:
                _from_web(found, folder, report, base_url, timeout, retries, backoff)
            return folder
    except OSError as error:
        raise CorpusError(
            f"cannot write {folder}: {os_reason(error)} ({found.name} needs {found.size:,} bytes and its download);"
            " make room there, or choose another folder with the environment variable FASTSLOW_DATA"
        ) from error


def _complete(corpus: Corpus, folder: Path) -> bool:
    """Whether every file is there and right."""
    if not is_present(corpus, folder.parent):
        return False
    paths = [(file.find(folder), file) for file in corpus.files]
    return all(path is not None and _digest(path) == file.sha256 for path, file in paths)


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@contextlib.contextmanager
def _only_one(folder: Path, name: str) -> Iterator[None]:
    """Refuse to fetch one corpus twice at the same time: two writers would spoil each other's parts."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing to lock with
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CorpusError(f"{name} is being fetched into {folder} by another process: wait for it") from error
        yield


# From the web


def _from_web(
    corpus: Corpus,
    folder: Path,
    progress: Progress,
    base_url: str | None,
    timeout: float,
    retries: int,
    backoff: float,
) -> None:
    sources = corpus.sources if base_url is None else _rebased(corpus.sources, base_url)
    failures: list[Exception] = []
    for source in sources:
        try:
            _from_source(corpus, source, folder, progress, timeout, retries, backoff)
            return
        except (_MirrorError, ChecksumError) as error:
            failures.append(error)
    # Offline, every address fails for one reason: say it once.
    grouped: dict[str, list[str]] = {}
    for failure in failures:
        if isinstance(failure, _MirrorError):
            grouped.setdefault(failure.reason, []).append(failure.url)
        else:
            grouped.setdefault(str(failure), [])
    reasons = "; ".join(f"{why}: {', '.join(urls)}" if urls else why for why, urls in grouped.items())
    kind = ChecksumError if all(isinstance(f, ChecksumError) for f in failures) else CorpusError
    raise kind(
        f"cannot fetch {corpus.name}: {reasons}. Try again later (a download goes on where it stopped), or get a copy"
        f" by other means and run `fastslow data fetch {corpus.name} --from FILE`"
    )


def _rebased(sources: tuple[Source, ...], base_url: str) -> tuple[Source, ...]:
    """The sources with another address before the last part of theirs, equal ones once."""
    if urllib.parse.urlsplit(base_url).scheme not in ("http", "https"):
        raise CorpusError(f"a mirror's address begins with http:// or https://; got {base_url!r}")
    base = base_url.rstrip("/")
    moved = (Source(tuple(f"{base}/{_last_part(url)}" for url in source.urls)) for source in sources)
    return tuple(dict.fromkeys(moved))


def _last_part(url: str) -> str:
    return PurePosixPath(urllib.parse.urlsplit(url).path).name


def _from_source(
    corpus: Corpus,
    source: Source,
    folder: Path,
    progress: Progress,
    timeout: float,
    retries: int,
    backoff: float,
) -> None:
    """All files of the corpus from one source, or an error and no file."""
    parts = [folder / f"{_last_part(url)}.part" for url in source.urls]
    for attempt in range(2):
        joined = False
        for url, part in zip(source.urls, parts, strict=True):
            joined |= _download(url, part, progress, timeout, retries, backoff)
        try:
            with _Unpacked(corpus, folder) as unpacked:
                for url, part in zip(source.urls, parts, strict=True):
                    unpacked.add(part, url, _last_part(url))
                unpacked.commit(", ".join(source.urls))
        except ChecksumError:
            for part in parts:
                _forget(part)
            # Pieces of two versions joined by an unlucky resumption are no fault of the server's: once more, whole.
            if joined and attempt == 0:
                continue
            raise
        for part in parts:
            _forget(part)
        return


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _sidecar(part).unlink(missing_ok=True)


def _sidecar(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(url: str, part: Path, progress: Progress, timeout: float, retries: int, backoff: float) -> bool:
    """Bring ``part`` to the full length of what is at ``url``; whether it was put together from several answers.

    Raises ``_MirrorError`` when the address refuses or keeps failing.
    """
    failures = 0
    joined = False
    while True:
        before = _size(part)
        try:
            joined |= before > 0
            if _attempt(url, part, progress, timeout):
                return joined
            reason = "the connection was cut"
        except _CutError as error:
            reason = str(error)
        failures = 0 if _size(part) > before else failures + 1
        if failures > retries:
            raise _MirrorError(url, reason)
        time.sleep(backoff * 2.0 ** max(0, failures - 1))


def _attempt(url: str, part: Path, progress: Progress, timeout: float) -> bool:
    """One request.  True when the part is complete, false when it ended too soon or has to start again."""
    have, validator, expected = _resumable(url, part)
    name = _last_part(url)
    if have and have == expected:
        return True
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    response = _open(urllib.request.Request(url, headers=headers), timeout)
    with response:
        if response.status == 416:  # there is nothing past what is here: the file has become another
            _forget(part)
            return False
        start, total = _extent(response)
        if start != have or (have and expected is not None and total != expected):
            _forget(part)
            have = 0
            if start != 0:
                return False
        _remember(url, part, response, total)
        progress(name, have, total)
        with part.open("ab" if have else "wb") as target:
            while chunk := _read(response):
                target.write(chunk)
                have += len(chunk)
                progress(name, have, total)
    return total is None or have == total


def _open(request: urllib.request.Request, timeout: float) -> Any:
    """The response to a request; 416 is one as well.  Raises ``_CutError`` or ``_MirrorError`` for all else."""
    url = request.full_url
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code in _RETRIED_STATUS:
            raise _CutError(reason) from error
        raise _MirrorError(url, reason) from error
    except http.client.InvalidURL as error:
        raise _MirrorError(url, "not an address") from error
    except (OSError, http.client.HTTPException) as error:
        reason = _network_reason(error, timeout)
        # Without a network no name is found: no use waiting, unless a download was under way.
        if isinstance(getattr(error, "reason", None), socket.gaierror) and not request.has_header("Range"):
            raise _MirrorError(url, reason) from error
        raise _CutError(reason) from error


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(_network_reason(error, None)) from error


def _network_reason(error: Exception, timeout: float | None) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _network_reason(error.reason, timeout)
    if isinstance(error, TimeoutError):
        return "no answer" if timeout is None else f"no answer for {timeout:g} seconds"
    if isinstance(error, ConnectionError | http.client.HTTPException):
        words = os_reason(error) if isinstance(error, OSError) else type(error).__name__
        return f"the connection failed ({words})"
    return f"no connection ({os_reason(error) if isinstance(error, OSError) else error})"


def _extent(response: Any) -> tuple[int, int | None]:
    """Where the body of a response starts in the file, and how long the file is, where the server says so."""
    if response.status == 206:
        unit, _, extent = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = extent.partition("/")
        first = span.partition("-")[0]
        if unit == "bytes" and first.isdecimal():
            return int(first), int(total) if total.isdecimal() else None
        return -1, None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _resumable(url: str, part: Path) -> tuple[int, str, int | None]:
    """How many bytes of ``part`` to keep, the validator that ties them to one version of ``url``, its length."""
    try:
        have = _size(part)
        record = json.loads(_sidecar(part).read_text("utf-8"))
        validator, total = record["validator"], record["total"]
        if record["url"] == url and isinstance(validator, str) and isinstance(total, int | None):
            return have, validator, total
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no part, or one of unknown origin: it starts again
    return 0, "", None


def _remember(url: str, part: Path, response: Any, total: int | None) -> None:
    etag = response.headers.get("ETag", "")
    modified = response.headers.get("Last-Modified", "")
    # A weak ETag does not promise equal bytes; If-Range takes strong ones and dates only (RFC 9110, 13.1.5).
    validator = etag if etag.startswith('"') else modified if email.utils.parsedate(modified) else ""
    record = json.dumps({"url": url, "validator": validator, "total": total}) + "\n"
    sidecar = _sidecar(part)
    # Written before the part has a byte, and not again while it grows: a full disk cannot take it away.
    if not sidecar.exists() or sidecar.read_text("utf-8") != record:
        sidecar.write_text(record, "utf-8")


# From a copy


def _from_file(corpus: Corpus, path: Path, folder: Path) -> None:
    try:
        if path.is_dir():
            found = [inside for f in corpus.files if (inside := _find_inside(path, f)) is not None]
        else:
            path.stat()
            found = [path]
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {os_reason(error)}") from error
    with _Unpacked(corpus, folder) as unpacked:
        for inside in found:
            unpacked.add(inside, str(inside), inside.name)
        unpacked.commit(str(path))


def _find_inside(folder: Path, file: CorpusFile) -> Path | None:
    """The file in a folder: at its top, or where an unpacked archive has it, up to two folders down."""
    found = file.find(folder)
    if found is not None:
        return found
    for pattern in (f"{up}{name}" for name in file.names for up in ("*/", "*/*/")):
        deeper = sorted(p for p in folder.glob(pattern) if p.is_file())
        if deeper:
            return deeper[0]
    return None


# Unpacking and checking


class _Unpacked:
    """The files of a corpus under temporary names; :meth:`commit` gives them their own, all or none."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self._corpus = corpus
        self._folder = folder
        self._ready: dict[str, Path] = {}

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *exception: object) -> None:
        for path in self._ready.values():
            path.unlink(missing_ok=True)

    def add(self, path: Path, origin: str, name: str) -> None:
        """Take what files of the corpus ``path`` has, itself or as an archive.

        ``origin`` is what messages call it, ``name`` what it is called without its ``.part``.
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
        # A copy may go by any name: its size is as good a guess, and the digest decides.
        file = next((f for f in left if name in f.names), None) or next((f for f in left if f.size == size), None)
        if file is None:
            begins = source.read(24).decode("latin-1")
            raise ChecksumError(
                f"{origin} is not {self._corpus.name} nor an archive of it: {size:,} bytes that begin {begins!r}"
            )
        self._take(source, file, origin)

    def _wanted(self, name: str, size: int) -> CorpusFile | None:
        """The file of the corpus that an archive's member is, by its name and size, unless it is here already."""
        base = PurePosixPath(name).name
        left = (f for f in self._corpus.files if f.name not in self._ready)
        return next((f for f in left if base in f.names and size == f.size), None)

    def _take(self, source: IO[bytes], file: CorpusFile, origin: str) -> None:
        temporary = self._folder / f".{file.name}.tmp"
        self._ready[file.name] = temporary
        digest = hashlib.sha256()
        size = 0
        with temporary.open("wb") as target:
            # One byte more than there should be is enough to know; an archive that swells cannot fill the disk.
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
                f"{origin} is damaged or another file: its SHA-256 is {digest.hexdigest()[:16]}... "
                f"instead of {file.sha256[:16]}..."
            )

    def commit(self, origin: str) -> None:
        """Give the files their names.  Raises ``ChecksumError`` when one of them did not turn up in ``origin``."""
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
