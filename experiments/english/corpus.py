"""The training, validation and test texts of the English model."""

from __future__ import annotations

import csv
import lzma
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastslow.data.augment import CHANGES, augmented_pieces
from fastslow.errors import FastslowError
from fastslow.lm import files
from fastslow.storage import read_json, write_atomic

BETWEEN = b"\n\n\n"
"""The separator between two documents."""


class EnglishError(FastslowError):
    """An input of a command is missing."""


def part(data: Path | None, name: str, out: Path) -> Path:
    """The file of the part "train" or "valid" of the books; a compressed one is unpacked in `out`."""
    if data is None:
        raise EnglishError("pass the folder of the books with --data: it must contain train.txt.xz and valid.txt.xz")
    plain, packed, target = data / f"{name}.txt", data / f"{name}.txt.xz", out / "corpus" / f"{name}.txt"
    if plain.is_file():
        return plain
    if not packed.is_file():
        raise EnglishError(f"{data} contains neither {plain.name} nor {packed.name}")
    if not target.is_file():
        files.make_folder(target.parent)
        with lzma.open(packed) as source:
            write_atomic(target, lambda file: shutil.copyfileobj(source, file))
    return target


def training_text(data: Path | None, kinds: Path | None, augment: int | None, out: Path) -> Path:
    """The training text: the books, or the corpus from `experiments.kinds`, optionally augmented.

    augment: a seed; some of the text is then rewritten with CRLF, in capitals and so on: see `data.augment`.
    """
    source = part(data, "train", out) if kinds is None else kinds / "train.txt"
    if not source.is_file():
        raise EnglishError(f"{kinds} has no train.txt: make it with `python -m experiments.kinds`")
    if augment is None:
        return source
    target = out / "corpus" / f"train-augmented-{augment}.txt"
    if not target.is_file():
        text = source.read_bytes()
        changed, counts = augmented_pieces(text, augment)
        files.make_folder(target.parent)
        write_atomic(target, lambda file: _put(file, changed))
        shares = ", ".join(f"{name} {100 * counts[name] / len(text):.1f}%" for name in CHANGES)
        print(f"{target}: {len(changed):,} bytes of {len(text):,}; changed: {shares}", flush=True)
    return target


def _put(file: Any, data: bytes) -> None:
    file.write(data)


def books(data: Path | None) -> list[dict[str, str]]:
    """The rows of books.tsv."""
    path = None if data is None else data / "books.tsv"
    if path is None or not path.is_file():
        raise EnglishError("the card lists the books: pass the folder that contains books.tsv with --data")
    with open(path, encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for name in ("gutenberg_id", "title", "author", "split"):
        if not listed or listed[0].get(name) is None:
            raise EnglishError(f"{path} has no column {name}")
    return listed


def sources(kinds: Path | None) -> list[dict[str, Any]]:
    """The sources of the other kinds of text, as `experiments.kinds` stored them; empty if there are only books."""
    if kinds is None:
        return []
    found: list[dict[str, Any]] = read_json(kinds / "sources.json", what="the sources")["sources"]
    return found


def validation_kinds(kinds: Path) -> Iterator[tuple[str, bytes]]:
    """The validation text of each other kind: its documents, concatenated."""
    text = (kinds / "valid.txt").read_bytes()
    with open(kinds / "documents.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["part"] == "valid"]
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    at = 0
    for row in rows:
        end = at + int(row["bytes"])
        found[row["kind"]].append(text[at:end])
        at = end + len(BETWEEN)
    for kind, documents in found.items():
        yield kind, BETWEEN.join(documents)
