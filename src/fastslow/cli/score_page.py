"""`fastslow score --html`: write the page to a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fastslow.cli.common import OptionError
from fastslow.storage import is_special, write_atomic

if TYPE_CHECKING:
    from fastslow.data.text import Text
    from fastslow.scoring.mixed import Chosen


def check_target(path: Path, force: bool) -> None:
    """Raises OptionError if the page cannot be written, before anything is scored."""
    if path.is_dir():
        raise OptionError(f"cannot write the page to {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"cannot write the page to {path}: there is no folder {path.parent}")
    if path.exists() and not is_special(path) and not force:
        raise OptionError(f"{path} exists: name another file, or overwrite it with --force")


def write_page_file(chosen: Chosen, source: Text, path: Path, model: str) -> None:
    """Write the page of the text that was scored, and print its size and totals."""
    from fastslow.scoring.page import write_page
    from fastslow.scoring.terminal import summary_text

    name = "standard input" if source.name == "-" else os.path.basename(source.name)
    remark = f"Predicted by {chosen}."
    if not source.form.is_plain:
        remark += f" The file has {source.form}; it was read as UTF-8 with LF line ends."

    totals = None

    def fill(file: IO[bytes]) -> None:
        nonlocal totals
        out = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True)
        totals = write_page(out, chosen.blocks, name=name, model=model, remark=remark)
        out.detach()

    write_atomic(path, fill, what="the page")
    assert totals is not None
    size = f"{path.stat().st_size:,} bytes; " if path.is_file() else ""
    print(f"{path}: {size}{summary_text(totals)}")
