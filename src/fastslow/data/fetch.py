"""Fetch a public corpus from the web or from a local copy, with verification.

A download is written to ``NAME.part``, from which the files of the corpus are unpacked and verified (:mod:`~.unpack`),
and which is removed afterwards. An interrupted download is restarted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from fastslow.data.corpora import Corpus, CorpusFile, Source, corpus_dir, find_corpus, is_present
from fastslow.data.unpack import Unpacked
from fastslow.errors import ChecksumError, CorpusError, os_reason

if TYPE_CHECKING:
    from requests import RequestException, Response

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the name of the file, the bytes received so far, and the total if known."""

_CHUNK = 1 << 18
# Request the archive without compression, so that progress counts its bytes.
_HEADERS = {"User-Agent": "fastslow", "Accept-Encoding": "identity"}
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _MirrorError(Exception):
    """The download from this address failed; another one may succeed."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


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
    """Fetch a corpus into the data folder and return its folder; does nothing if it is already there.

    ``from_file`` takes it from a local copy instead of the web: the zip or tar archive, the file itself, or a folder
    that contains the files (also in subfolders).  ``base_url`` replaces everything but the last part of the public
    addresses, for use with a mirror.  If the server is busy or the connection fails, an address gets ``retries``
    further attempts, after ``backoff``, 2 ``backoff``, 4 ``backoff`` ... seconds.  ``timeout`` is the number of seconds
    without any data.

    Raises :class:`~fastslow.errors.UnknownNameError` for an unknown corpus, and
    :class:`~fastslow.errors.CorpusError` if no address provides it, if the data is not the corpus
    (:class:`~fastslow.errors.ChecksumError`), or if the folder is not writable.
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
            f"cannot write {folder}: {os_reason(error)} ({found.name} needs {found.size:,} bytes plus its download);"
            " free some space, or choose another folder with the environment variable FASTSLOW_DATA"
        ) from error


def _complete(corpus: Corpus, folder: Path) -> bool:
    """Whether every file exists and has the right contents."""
    if not is_present(corpus, folder.parent):
        return False
    paths = [(file.find(folder), file) for file in corpus.files]
    return all(path is not None and _digest(path) == file.sha256 for path, file in paths)


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@contextlib.contextmanager
def _only_one(folder: Path, name: str) -> Iterator[None]:
    """Lock the folder, so that only one process fetches a corpus at a time."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no file locks
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
    # Without network, all addresses fail for the same reason, which is reported once.
    grouped: dict[str, list[str]] = {}
    for failure in failures:
        if isinstance(failure, _MirrorError):
            grouped.setdefault(failure.reason, []).append(failure.url)
        else:
            grouped.setdefault(str(failure), [])
    reasons = "; ".join(f"{why}: {', '.join(urls)}" if urls else why for why, urls in grouped.items())
    kind = ChecksumError if all(isinstance(f, ChecksumError) for f in failures) else CorpusError
    raise kind(
        f"cannot fetch {corpus.name}: {reasons}. Try again later, or obtain a copy"
        f" and run `fastslow data fetch {corpus.name} --from FILE`"
    )


def _rebased(sources: tuple[Source, ...], base_url: str) -> tuple[Source, ...]:
    """The sources with everything before the last part of their addresses replaced, without duplicates."""
    if urllib.parse.urlsplit(base_url).scheme not in ("http", "https"):
        raise CorpusError(f"the address of a mirror must begin with http:// or https://; got {base_url!r}")
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
    """Fetch all files of the corpus from one source; after an error there is no file."""
    parts = [folder / f"{_last_part(url)}.part" for url in source.urls]
    try:
        for url, part in zip(source.urls, parts, strict=True):
            _download(url, part, progress, timeout, retries, backoff)
        with Unpacked(corpus, folder) as unpacked:
            for url, part in zip(source.urls, parts, strict=True):
                unpacked.add(part, url, _last_part(url))
            unpacked.commit(", ".join(source.urls))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _download(url: str, part: Path, progress: Progress, timeout: float, retries: int, backoff: float) -> None:
    """Download ``url`` to ``part``.  Raises ``_MirrorError`` if the address refuses or keeps failing."""
    import pooch
    from requests import RequestException

    for attempt in range(retries + 1):
        with contextlib.ExitStack() as responses:

            def close(response: Response, *args: object, **options: object) -> None:
                responses.callback(response.close)  # pooch does not do this

            bar = _Bar(_last_part(url), progress)
            options = {"headers": _HEADERS, "timeout": timeout, "hooks": {"response": close}}
            try:
                pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, **options)(url, str(part), None)
                return
            except RequestException as error:  # must come before OSError, which is a base class
                reason, passing = _failure(error, timeout)
                if not passing or attempt == retries:
                    raise _MirrorError(url, reason) from error
        time.sleep(backoff * 2.0**attempt)


class _Bar:
    """A progress bar for pooch, which sets ``total``, or 0 if the server does not send it."""

    def __init__(self, name: str, report: Progress) -> None:
        self._name, self._report = name, report
        self._done = self.total = 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, including the last.
        self._done = min(self._done + count, self.total) if self.total else self._done + count
        self._report(self._name, self._done, self.total or None)

    def reset(self) -> None:
        if self.total:
            self._done = 0

    def close(self) -> None:
        pass


def _failure(error: RequestException, timeout: float) -> tuple[str, bool]:
    """The reason why a download failed, and whether a retry may help."""
    from requests import ConnectionError, HTTPError, Timeout
    from requests.exceptions import ChunkedEncodingError
    from urllib3.exceptions import ReadTimeoutError

    if isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
        return f"HTTP {status} {error.response.reason}", status in _RETRIED_STATUS
    chain = list(_chain(error))
    if isinstance(error, Timeout) or any(isinstance(cause, ReadTimeoutError) for cause in chain):
        return f"no answer for {timeout:g} seconds", True
    first = next((cause for cause in reversed(chain) if isinstance(cause, OSError) and cause.errno is not None), None)
    if isinstance(first, socket.gaierror):  # no network: do not retry
        return f"no connection ({os_reason(first)})", False
    if isinstance(error, ChunkedEncodingError):
        return "the connection was interrupted", True
    if isinstance(error, ConnectionError):
        return f"the connection failed ({type(error).__name__ if first is None else os_reason(first)})", True
    return f"not a readable address ({error})", False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


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
    with Unpacked(corpus, folder) as unpacked:
        for inside in found:
            unpacked.add(inside, str(inside), inside.name)
        unpacked.commit(str(path))


def _find_inside(folder: Path, file: CorpusFile) -> Path | None:
    """The file in a folder or in its subfolders, up to two levels down."""
    found = file.find(folder)
    if found is not None:
        return found
    for pattern in (f"{up}{name}" for name in file.names for up in ("*/", "*/*/")):
        deeper = sorted(p for p in folder.glob(pattern) if p.is_file())
        if deeper:
            return deeper[0]
    return None
