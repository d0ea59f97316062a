"""Fetching, against a real server on loopback that can be told to misbehave, and from copies on the disk."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastslow.data.corpora import Source, is_present, load_corpus
from fastslow.data.fetch import fetch
from fastslow.errors import ChecksumError, CorpusError, UnknownNameError
from tests.data.samples import SINGLE, SINGLE_CORPUS, TRIPLE, TRIPLE_CORPUS, noise, tarred, zipped

ZIP = zipped({"single": SINGLE})


@dataclass
class Site:
    """What the server has and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    lengths: bool = True
    cut_at: list[int] = field(default_factory=list)  # for each request in turn, bytes after which it hangs up
    status: list[int] = field(default_factory=list)  # for each request in turn, an error instead
    delay: float = 0.0
    url: str = ""
    requests: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.requests.append(self.path)
        if site.delay:
            time.sleep(site.delay)
        if site.status:
            self.send_error(site.status.pop(0))
            return
        body = site.files.get(self.path.rpartition("/")[2])
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        if site.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: site.cut_at.pop(0)] if site.cut_at else body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    site = Site(files={"single.zip": ZIP})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/dc"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def get(site: Site, folder: Path, corpus: Any = SINGLE_CORPUS, **options: Any) -> Path:
    return fetch(corpus, folder, base_url=site.url, **{"backoff": 0.001, "timeout": 5.0, **options})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_a_whole_download(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = get(site, tmp_path, progress=lambda *report: seen.append(report))
    assert folder == tmp_path / "single"
    assert (folder / "single").read_bytes() == SINGLE
    assert names(folder) == ["single"]
    assert {(name, total) for name, _, total in seen} == {("single.zip", len(ZIP))}
    assert 0 < seen[0][1] < len(ZIP)
    assert seen[-1] == ("single.zip", len(ZIP), len(ZIP))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len(load_corpus(SINGLE_CORPUS, data_dir=tmp_path).splits.train) == 900_000


def test_what_is_there_is_not_fetched_again_unless_damaged(site: Site, tmp_path: Path) -> None:
    file = get(site, tmp_path) / "single"
    get(site, tmp_path)
    assert len(site.requests) == 1
    file.write_bytes(SINGLE[:-1] + b"?")
    get(site, tmp_path)
    assert len(site.requests) == 2
    assert file.read_bytes() == SINGLE


def test_three_plain_files(site: Site, tmp_path: Path) -> None:
    site.files = dict(TRIPLE)
    folder = get(site, tmp_path, TRIPLE_CORPUS)
    assert names(folder) == sorted(TRIPLE)
    assert all((folder / name).read_bytes() == data for name, data in TRIPLE.items())


def test_the_next_source_after_one_that_lacks_a_file(site: Site, tmp_path: Path) -> None:
    site.files = {"triple.train.txt": TRIPLE["triple.train.txt"]}
    inside = {f"./examples/data/{name}": data for name, data in TRIPLE.items()}
    site.files["examples.tgz"] = tarred({"./examples/train.txt": b"another text", **inside})
    folder = get(site, tmp_path, TRIPLE_CORPUS)
    assert (folder / "triple.test.txt").read_bytes() == TRIPLE["triple.test.txt"]
    assert is_present(TRIPLE_CORPUS, tmp_path)


def test_an_interrupted_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if done >= 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path, progress=stop)
    assert names(tmp_path / "single") == []
    assert (get(site, tmp_path) / "single").read_bytes() == SINGLE


# Trouble on the way


def test_a_cut_connection_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.cut_at = [100_000, 0, 400_000]
    assert (get(site, tmp_path) / "single").read_bytes() == SINGLE
    assert len(site.requests) == 4


def test_a_server_that_keeps_hanging_up_is_given_up(site: Site, tmp_path: Path) -> None:
    site.cut_at = [1000] + [0] * 50
    with pytest.raises(CorpusError, match="the connection was interrupted"):
        get(site, tmp_path, retries=2)
    assert len(site.requests) == 3
    assert names(tmp_path / "single") == []


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.status = [503, 429, 500]
    assert (get(site, tmp_path) / "single").read_bytes() == SINGLE
    assert len(site.requests) == 4


def test_a_server_that_sends_no_length(site: Site, tmp_path: Path) -> None:
    site.lengths = False
    seen: list[int | None] = []
    assert (get(site, tmp_path, progress=lambda n, d, t: seen.append(t)) / "single").read_bytes() == SINGLE
    assert set(seen) == {None}


def test_a_silent_server_times_out(site: Site, tmp_path: Path) -> None:
    site.delay = 0.4
    with pytest.raises(CorpusError, match=r"no answer for 0\.1 seconds"):
        get(site, tmp_path, timeout=0.1, retries=0)


def test_a_missing_file_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    site.files = {}
    with pytest.raises(CorpusError) as caught:
        get(site, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"cannot fetch single: HTTP 404 Not Found: {site.url}/single.zip. Try again")
    assert "`fastslow data fetch single --from FILE`" in message
    assert "\n" not in message
    assert len(site.requests) == 1


def test_no_server_at_all(site: Site, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot fetch single: the connection failed \(connection refused\)"):
        fetch(SINGLE_CORPUS, tmp_path, base_url="http://127.0.0.1:9", retries=1, backoff=0.0)


def test_no_network_says_so_once_for_all_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no_names(host: str, *args: object, **options: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    with pytest.raises(CorpusError) as caught:
        fetch(SINGLE_CORPUS, tmp_path)
    assert asked == ["first.invalid", "second.invalid"]
    assert str(caught.value).startswith(
        "cannot fetch single: no connection (temporary failure in name resolution): "
        "http://first.invalid/single.zip, http://second.invalid/other/single.zip. Try again later"
    )


def test_a_wrong_file_is_refused_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.files["single.zip"] = zipped({"single": noise(len(SINGLE), seed=3)})
    with pytest.raises(ChecksumError, match=r"SHA-256 is [0-9a-f]{16}\.\.\. instead of"):
        get(site, tmp_path)
    assert names(tmp_path / "single") == []


def test_a_page_instead_of_the_archive_leads_to_the_next_source(site: Site, tmp_path: Path) -> None:
    site.files["page.zip"] = b"<!DOCTYPE html><title>Sorry</title>"
    corpus = replace(SINGLE_CORPUS, sources=(Source(("http://x.invalid/page.zip",)), *SINGLE_CORPUS.sources))
    assert (get(site, tmp_path, corpus) / "single").read_bytes() == SINGLE
    with pytest.raises(ChecksumError, match="35 bytes that begin with '<!DOCTYPE html>"):
        get(site, tmp_path / "again", replace(corpus, sources=corpus.sources[:1]))


@pytest.mark.parametrize(
    ("archive", "complaint"),
    [
        (zipped({"other": SINGLE}), r"does not have single \(1,000,000 bytes\)"),
        (zipped({"single": SINGLE[:-1]}), "does not have single"),
        (ZIP[:-50], "damaged archive"),
        (ZIP[:1000] + b"?" * 50 + ZIP[1050:], "damaged|SHA-256"),
        (tarred({"single": SINGLE})[:5000], "damaged archive"),
        (b"\x1f\x8b" + noise(500, seed=4), "damaged archive"),
    ],
    ids=["other name", "too short", "no directory", "bad data", "cut tar", "no tar"],
)
def test_damaged_archives(site: Site, tmp_path: Path, archive: bytes, complaint: str) -> None:
    site.files["single.zip"] = archive
    with pytest.raises(ChecksumError, match=complaint):
        get(site, tmp_path)
    assert names(tmp_path / "single") == []


def test_a_mirror_must_be_on_the_web(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"must begin with http:// or https://; got 'file:///etc'"):
        fetch(SINGLE_CORPUS, tmp_path, base_url="file:///etc")


def test_an_unknown_corpus(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'enwik8'"):
        fetch("enwiki8", tmp_path)
    assert list(tmp_path.iterdir()) == []


# The disk


class FullDisk:
    """A file that takes nothing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("full", ["single.zip.part", ".single.tmp"], ids=["downloading", "unpacking"])
def test_a_full_disk(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    opened = io.open

    def open_(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(path, mode, *args, **options)
        return FullDisk(file) if "w" in mode and Path(path).name == full else file

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", open_)  # Path.open's
        patched.setattr(builtins, "open", open_)  # pooch's
        with pytest.raises(CorpusError) as caught:
            get(site, tmp_path)
    assert "the disk is full (single needs 1,000,000 bytes" in str(caught.value)
    assert "FASTSLOW_DATA" in str(caught.value)
    assert "single" not in names(tmp_path / "single")
    assert ".single.tmp" not in names(tmp_path / "single")
    assert names(tmp_path / "single") == []
    assert (get(site, tmp_path) / "single").read_bytes() == SINGLE


def test_a_folder_that_is_none(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot write"):
        get(site, tmp_path / "file")


def test_only_one_at_a_time(site: Site, tmp_path: Path) -> None:
    (tmp_path / "single").mkdir()
    with (tmp_path / "single" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CorpusError, match=r"is being fetched into .* by another process"):
            get(site, tmp_path)
    assert site.requests == []


# From a copy


def test_from_a_zip_a_tar_and_the_file_itself(tmp_path: Path) -> None:
    copies = {
        "a.zip": ZIP,
        "b.tgz": tarred({"deep/single": SINGLE}),
        "c.tar": tarred({"single.txt": SINGLE}, "w"),
        "single": SINGLE,
        "any-name": SINGLE,
    }
    for name, data in copies.items():
        (tmp_path / name).write_bytes(data)
        folder = fetch(SINGLE_CORPUS, tmp_path / f"to-{name}", from_file=tmp_path / name)
        assert (folder / "single").read_bytes() == SINGLE
        assert names(folder) == ["single"]


@pytest.mark.parametrize("layout", ["{name}", "{alias}", "simple-examples/data/{name}", "data/{alias}"])
def test_from_a_folder(tmp_path: Path, layout: str) -> None:
    for name, data in TRIPLE.items():
        path = tmp_path / "copy" / layout.format(name=name, alias=name.removeprefix("triple."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder = fetch(TRIPLE_CORPUS, tmp_path / "data", from_file=tmp_path / "copy")
    assert all((folder / name).read_bytes() == data for name, data in TRIPLE.items())
    assert (tmp_path / "copy").exists()


def test_a_copy_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*nowhere: no such file"):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ChecksumError, match="empty does not have single"):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "empty")
    (tmp_path / "part.txt").write_bytes(TRIPLE["triple.valid.txt"])
    with pytest.raises(ChecksumError, match=r"does not have triple.train.txt .*triple.test.txt"):
        fetch(TRIPLE_CORPUS, tmp_path / "d", from_file=tmp_path / "part.txt")
    (tmp_path / "single").write_bytes(SINGLE + b"more")
    with pytest.raises(ChecksumError, match="has more than 1,000,000 bytes"):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "single")
    (tmp_path / "else").write_bytes(b"what?")
    with pytest.raises(ChecksumError, match="is not single or an archive of it: 5 bytes that begin with 'what"):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "else")
    assert names(tmp_path / "d" / "single") == []


def test_an_archive_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(zipped({"single": bytes(50_000_000)}))
    with pytest.raises(ChecksumError, match="does not have single"):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "bomb.zip")
    # An archive that lies about the size of its member.
    lying = zipped({"single": bytes(2_000_000)}).replace(
        (2_000_000).to_bytes(4, "little"), (10**6).to_bytes(4, "little")
    )
    (tmp_path / "lie.zip").write_bytes(lying)
    with pytest.raises(ChecksumError):
        fetch(SINGLE_CORPUS, tmp_path / "d", from_file=tmp_path / "lie.zip")
    assert names(tmp_path / "d" / "single") == []
