"""Small texts for the scripts, in the form of Penn Treebank."""

from __future__ import annotations

from pathlib import Path

LINES = b"".join(b" the %d times %d is %d \n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(200))


def write_texts(folder: Path) -> Path:
    """Write train.txt, valid.txt and test.txt to the existing folder; returns it."""
    for part, text in (("train", LINES), ("valid", LINES[:512]), ("test", LINES[:288])):
        (folder / f"{part}.txt").write_bytes(text[: text.rindex(b"\n") + 1])
    return folder
