#!/usr/bin/env python3
"""The training text of the English models: books, and smaller amounts of other kinds of documents.

    python -m experiments.kinds --data DIR --out DIR       --data: train.txt, valid.txt (or .xz), books.tsv

The other kinds come from packages that are installed on a Debian machine or can be added (`apt-get install
python3.11-doc manpages manpages-dev`), all under free licences. Each source has a limit; its documents are selected by
a hash of their bytes until the limit is reached, one in twenty for validation. Books and documents are then shuffled as
a whole, so that every training stream contains all kinds. Files in OUT:

    train.txt, valid.txt    valid.txt contains only the other kinds: books have a separate validation text
    sources.json            each source with its licence, and the number of its documents and bytes
    documents.tsv           each document: kind, source, path inside the source, bytes, SHA-256, part
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import lzma
import random
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastslow.data.stdlib import stdlib_files, stdlib_splits
from fastslow.errors import FastslowError
from fastslow.lm.files import make_folder
from fastslow.storage import write_bytes, write_json

SEED = 20_261_126
BETWEEN = b"\n\n\n"
"""The separator between two documents, as between two books."""
LEAST, MOST = 400, 120_000
"""The size of a document in bytes: shorter ones are skipped, longer ones are cut at a line end."""
VALID_OF = 20


class KindsError(FastslowError):
    """A corpus or a source is missing."""


@dataclass(frozen=True)
class Source:
    """A source of documents of one kind.

    kind: as in the model card. name: description. licence: an SPDX expression. root: the folder. patterns: its files.
    limit: maximum number of bytes. needs: the package that provides the folder.
    """

    kind: str
    name: str
    licence: str
    root: Path
    patterns: tuple[str, ...]
    limit: int
    needs: str


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def sources() -> tuple[Source, ...]:
    man, perl, packages = Path("/usr/share/man"), Path("/usr/share/perl"), Path(sysconfig.get_path("purelib"))
    linux = "GPL-2.0-or-later AND BSD-2-Clause AND MIT AND Linux-man-pages-copyleft"
    return (
        Source(
            "documentation", "the Python documentation, reStructuredText", "PSF-2.0",
            Path("/usr/share/doc/python3.11/html/_sources"), ("**/*.rst.txt",), 3_500_000, "python3.11-doc",
        ),
        Source(
            "manual pages", "the Linux man-pages project, as a terminal shows them", linux,
            man, ("man2/*.2.gz", "man7/*.7.gz", "man5/*.5.gz"), 2_000_000, "manpages, manpages-dev",
        ),
        Source(
            "code", "Python: packages of the standard library", "PSF-2.0",
            _stdlib(), ("asyncio/*.py", "email/**/*.py", "json/*.py", "logging/*.py", "unittest/*.py", "xml/**/*.py",
                        "concurrent/**/*.py", "importlib/**/*.py", "multiprocessing/*.py", "http/*.py", "urllib/*.py",
                        "distutils/**/*.py", "tkinter/*.py", "wsgiref/*.py", "sqlite3/*.py", "test/test_[a-m]*.py"),
            2_000_000, "Python",
        ),
        Source("code", "C: headers of Python and of the GNU C library", "PSF-2.0 AND LGPL-2.1-or-later",
               Path("/usr/include"), ("*.h", "bits/*.h", "sys/*.h", "x86_64-linux-gnu/*/*.h"), 700_000, "libc6-dev"),
        Source("code", "JavaScript: npm and its dependencies", "Artistic-2.0 AND MIT AND ISC",
               Path("/usr/lib/node_modules/npm"), ("**/*.js",), 700_000, "npm"),
        Source("code", "Perl: the modules of the interpreter", "Artistic-1.0-Perl OR GPL-1.0-or-later",
               perl, ("*/**/*.pm",), 500_000, "perl-modules"),
        Source("code", "C and C++: headers of NumPy", "BSD-3-Clause",
               packages, ("numpy/**/*.h", "numpy/**/*.hpp"), 300_000, "numpy"),
        Source("code", "shell completions", "GPL-2.0-or-later",
               Path("/usr/share/bash-completion/completions"), ("*",), 200_000, "bash-completion"),
        Source("documentation", "Markdown: npm and its dependencies", "Artistic-2.0 AND MIT AND ISC",
               Path("/usr/lib/node_modules/npm"), ("**/*.md",), 700_000, "npm"),
        Source("JSON", "package descriptions of npm and its dependencies", "Artistic-2.0 AND MIT AND ISC",
               Path("/usr/lib/node_modules/npm"), ("**/package.json",), 300_000, "npm"),
        Source("CSV", "data sets of statsmodels, public domain by their notes", "BSD-3-Clause",
               packages, ("statsmodels/datasets/**/*.csv",), 300_000, "statsmodels"),
        Source("mail", "messages of the Python email package's tests", "PSF-2.0",
               _stdlib(), ("test/test_email/data/*.txt",), 100_000, "Python with its tests"),
        Source("logs", "what Debian's package manager wrote on the machine", "no copyright: facts in fixed phrases",
               Path("/var/log"), ("dpkg.log", "apt/history.log", "alternatives.log"), 300_000, "a Debian machine"),
    )  # fmt: skip


@dataclass(frozen=True)
class Document:
    kind: str
    source: str
    path: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def valid(self) -> bool:
        return int(self.sha256[:8], 16) % VALID_OF == 0


def documents(source: Source) -> list[Document]:
    """Documents of a source up to its limit, chosen by the hash of their bytes; the demo's test text is excluded."""
    if not source.root.is_dir():
        raise KindsError(f"{source.root} does not exist: install {source.needs}")
    paths = sorted({path for pattern in source.patterns for path in source.root.glob(pattern) if path.is_file()})
    kept_aside = _kept_aside()
    found: dict[str, Document] = {}
    for path in paths:
        if path.is_symlink() or path in kept_aside:
            continue
        data = _text(path)
        if data is not None:
            one = Document(source.kind, source.name, str(path.relative_to(source.root)), data)
            found.setdefault(one.sha256, one)
    if not found:
        raise KindsError(f"no text for {source.name} in {source.root}: install {source.needs}")
    taken, size = [], 0
    for _, one in sorted(found.items()):
        if size + len(one.data) <= source.limit:
            taken.append(one)
            size += len(one.data)
    return taken


def _kept_aside() -> set[Path]:
    """The modules that make up the demo's validation and test text."""
    splits = stdlib_splits()
    assert splits.train is not None
    seen, aside = 0, set()
    for path in stdlib_files():
        seen += path.stat().st_size
        if seen > len(splits.train):
            aside.add(path)
    return aside


def _text(path: Path) -> bytes | None:
    """A document's UTF-8 with LF line ends, without trailing blanks; None if it is too short or not text."""
    if path.suffix == ".gz":
        raw = _manual_page(path)
    else:
        raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    data = re.sub(r"[ \t]+\n", "\n", text.replace("\r\n", "\n")).strip("\n").encode()
    if len(data) > MOST:
        data = data[: data.rindex(b"\n", 0, MOST)] if b"\n" in data[:MOST] else b""
    return data if len(data) >= LEAST else None


def _manual_page(path: Path) -> bytes:
    """The page as shown by a terminal of 78 columns, without overstrikes; empty for a link to another page."""
    roff = gzip.decompress(path.read_bytes())
    if roff.lstrip().startswith(b".so "):
        return b""
    command = ["groff", "-mandoc", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rLL=78n"]
    return subprocess.run(command, input=roff, capture_output=True, check=True).stdout


# ---------------------------------------------------------------------- books


def packed(data: Path, part: str) -> bytes:
    """A part of the books, from the plain file or its .xz."""
    plain, xz = data / f"{part}.txt", data / f"{part}.txt.xz"
    if plain.is_file():
        return plain.read_bytes()
    if xz.is_file():
        return lzma.decompress(xz.read_bytes())
    raise KindsError(f"{data} contains neither {plain.name} nor {xz.name}")


def books(data: Path) -> Iterator[Document]:
    """The training books one by one, found in the joined text by the sizes and hashes of books.tsv."""
    joined = memoryview(packed(data, "train"))
    with open(data / "books.tsv", encoding="utf-8", newline="") as file:
        listed = {row["gutenberg_id"]: row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "train"}
    at = 0
    while listed:
        number = next((number for number, row in listed.items() if _is_at(joined, at, row)), None)
        if number is None:
            raise KindsError(f"the text at byte {at:,} of train.txt is not a book of books.tsv")
        row = listed.pop(number)
        end = at + int(row["bytes"])
        yield Document("books", f"{row['title']}, {row['author']} ({number})", number, bytes(joined[at:end]))
        at = end + len(BETWEEN)


def _is_at(joined: memoryview, at: int, row: dict[str, str]) -> bool:
    """Whether the book of `row` begins at byte `at`; most are excluded by the bytes after their end."""
    end = at + int(row["bytes"])
    if joined[end : end + len(BETWEEN)] not in (BETWEEN, b""):
        return False
    return hashlib.sha256(joined[at:end]).hexdigest() == row["sha256"]


# ---------------------------------------------------------------------- the corpus


def build(data: Path, out: Path) -> None:
    told, every = [], list(books(data))
    for source in sources():
        found = documents(source)
        every += found
        told.append({
            "kind": source.kind, "source": source.name, "licence": source.licence, "from": source.needs,
            "documents": len(found), "bytes": sum(len(one.data) for one in found),
        })  # fmt: skip
    random.Random(SEED).shuffle(every)
    train = [one for one in every if one.kind == "books" or not one.valid]
    valid = [one for one in every if one.kind != "books" and one.valid]
    make_folder(out)
    for name, part in (("train", train), ("valid", valid)):
        write_bytes(out / f"{name}.txt", BETWEEN.join(one.data for one in part))
    write_json(out / "sources.json", {"sources": told})
    table = io.StringIO()
    rows = csv.writer(table, delimiter="\t", lineterminator="\n")
    rows.writerow(["kind", "source", "path", "bytes", "sha256", "part"])
    for name, part in (("train", train), ("valid", valid)):
        rows.writerows([one.kind, one.source, one.path, len(one.data), one.sha256, name] for one in part)
    write_bytes(out / "documents.tsv", table.getvalue().encode())
    for row in told:
        print(f"{row['kind']:<14} {row['bytes']:>10,} bytes {row['documents']:>5} documents  {row['source']}")
    sizes = [sum(len(one.data) for one in part) for part in (train, valid)]
    print(f"train {sizes[0]:,} bytes in {len(train):,} documents, valid {sizes[1]:,} in {len(valid):,}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt, valid.txt (or .xz), books.tsv")
    parser.add_argument("--out", type=Path, default=Path("runs/english/corpus"), help="output folder")
    options = parser.parse_args(arguments)
    try:
        build(options.data, options.out)
    except FastslowError as error:
        print(f"kinds: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
