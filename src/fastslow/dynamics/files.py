"""Whole files of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from fastslow.lm.store import write_atomic


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path`, so that it is either what it was before or complete. Raises StorageError."""

    def fill(file: IO[bytes]) -> None:
        file.write(data)

    write_atomic(path, fill)
