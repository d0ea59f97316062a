"""The training text of the English models: books found again, documents chosen, nothing of what is tested."""

from __future__ import annotations

import csv
import gzip
import hashlib
import lzma
import shutil
from pathlib import Path

import pytest

from experiments import kinds
from fastslow.data.stdlib import stdlib_files, stdlib_splits

BOOKS = {str(n): f"Book {n}.\n\n\nIt has {n} parts.\n".encode() * (n + 1) for n in range(5)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    order = ["3", "0", "4", "1", "2"]  # not the list's
    (tmp_path / "train.txt.xz").write_bytes(lzma.compress(kinds.BETWEEN.join(BOOKS[n] for n in order)))
    with open(tmp_path / "books.tsv", "w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["gutenberg_id", "title", "author", "bytes", "sha256", "split"])
        rows.writerows([n, f"T{n}", "A", len(d), hashlib.sha256(d).hexdigest(), "train"] for n, d in BOOKS.items())
        rows.writerow(["9", "Kept", "B", 5, "00", "test"])
    return tmp_path


def make(root: Path, count: int = 100) -> kinds.Source:
    for n in range(count):
        (root / "docs" / str(n % 3)).mkdir(parents=True, exist_ok=True)
        (root / "docs" / str(n % 3) / f"{n}.txt").write_bytes(f"Document {n}.\r\n".encode() * 40 + b"  \r\n\r\n")
    return kinds.Source("notes", "made here", "CC0-1.0", root / "docs", ("**/*.txt", "**/*.gz"), 20_000, "this test")


def test_books_are_found_in_any_order(data: Path) -> None:
    assert {one.path: one.data for one in kinds.books(data)} == BOOKS
    text = lzma.decompress((data / "train.txt.xz").read_bytes())
    (data / "train.txt").write_bytes(text.replace(b"Book 1", b"Look 1"))
    with pytest.raises(kinds.KindsError, match=r"the text at byte [\d,]+ of train.txt is not a book"):
        list(kinds.books(data))


def test_documents_are_chosen_by_their_bytes_up_to_the_limit(tmp_path: Path) -> None:
    source = make(tmp_path)
    found = kinds.documents(source)
    assert 19_000 < sum(len(one.data) for one in found) <= 20_000
    assert all(one.data.endswith(b".") and b"\r" not in one.data for one in found)
    (tmp_path / "docs" / "0" / "copy.txt").write_bytes((tmp_path / "docs" / "0" / "0.txt").read_bytes())
    (tmp_path / "docs" / "0" / "binary.txt").write_bytes(bytes(1000))
    (tmp_path / "docs" / "0" / "short.txt").write_bytes(b"short")
    assert kinds.documents(source) == found
    with pytest.raises(kinds.KindsError, match="install this test"):
        kinds.documents(kinds.Source("k", "n", "l", tmp_path / "nowhere", ("*",), 1, "this test"))


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_manual_pages_are_as_a_terminal_shows_them(tmp_path: Path) -> None:
    page = ".TH T 7\n.SH NAME\nt \\- a \\fBbold\\fP word\n.SH TEXT\n" + "Many words stand here. " * 40
    (tmp_path / "t.7.gz").write_bytes(gzip.compress(page.encode()))
    (tmp_path / "link.7.gz").write_bytes(gzip.compress(b".so man7/t.7\n"))
    (one,) = kinds.documents(kinds.Source("man", "m", "l", tmp_path, ("*.gz",), 10_000, "groff"))
    assert b"a bold word" in one.data
    assert b"\x1b" not in one.data
    assert b"\x08" not in one.data


def test_what_the_demo_is_tested_on_is_left_out() -> None:
    aside, seen = kinds._kept_aside(), b"".join(path.read_bytes() for path in stdlib_files())
    test = stdlib_splits().test
    assert test is not None
    tested = test.data.tobytes()
    assert tested in seen
    assert any(path.read_bytes() in tested for path in aside)
    left = b"".join(path.read_bytes() for path in stdlib_files() if path not in aside)
    assert tested[:2000] not in left
    assert tested[-2000:] not in left


@pytest.fixture
def built(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = make(data)
    monkeypatch.setattr(kinds, "sources", lambda: (source,))
    assert kinds.main(["--data", str(data), "--out", str(data / "out")]) == 0
    return data / "out"


def test_the_corpus_and_what_is_told_of_it(built: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(built / "documents.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["path"] for row in rows if row["kind"] == "books"} == set(BOOKS)
    assert all(row["part"] == "train" for row in rows if row["kind"] == "books")
    assert {row["part"] for row in rows if row["kind"] == "notes"} == {"train", "valid"}
    for part in ("train", "valid"):
        wanted = [row for row in rows if row["part"] == part]
        size = sum(int(row["bytes"]) for row in wanted) + len(kinds.BETWEEN) * (len(wanted) - 1)
        assert (built / f"{part}.txt").stat().st_size == size
    before = (built / "train.txt").read_bytes()
    assert kinds.main(["--data", str(data), "--out", str(data / "out")]) == 0
    assert (built / "train.txt").read_bytes() == before
    assert kinds.main(["--data", str(data / "nowhere")]) == 2
    assert "kinds: error: " in capsys.readouterr().err
