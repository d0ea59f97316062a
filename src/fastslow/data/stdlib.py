"""The demo's text: the source of the Python standard library of the running interpreter.

Real text that is on every machine with Python: no download, no licence question, and the same bytes for everyone
with the same version of Python.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from pathlib import Path

from fastslow.data.text import Splits, Text, split_fractions
from fastslow.errors import DataError, os_reason

DEFAULT_CAP = 4_700_000

# Written by whoever built or installed this Python, so not the same on two machines with the same version.
_LOCAL = ("_sysconfigdata", "sitecustomize", "usercustomize")


def stdlib_files(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The modules of the standard library that are one file, sorted by name: ``abc.py``, ``aifc.py``, ...

    That is about 4.7 MB: packages, with their tests, tables and installed neighbours, are left out, and so are
    files that depend on the machine and links, which could lead anywhere.  ``root`` is the running interpreter's
    library by default.
    """
    top = Path(sysconfig.get_path("stdlib") if root is None else root)
    found = [p for p in top.glob("*.py") if not p.name.startswith((*_LOCAL, "."))]
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=lambda p: p.name)


def stdlib_text(cap: int = DEFAULT_CAP, root: str | os.PathLike[str] | None = None) -> Text:
    """The first ``cap`` bytes of the standard library's modules (:func:`stdlib_files`), one after the other.

    The same bytes for the same version of Python.  Raises :class:`~fastslow.errors.DataError` when this Python
    came without its source, with what to do, and ``ValueError`` when ``cap`` is not positive.
    """
    if cap < 1:
        raise ValueError(f"cap must be at least 1 byte; got {cap}")
    joined = bytearray()
    for path in stdlib_files(root):
        try:
            joined += path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {os_reason(error)}") from error
        if len(joined) >= cap:
            break
    if not joined:
        where = sysconfig.get_path("stdlib") if root is None else os.fspath(root)
        raise DataError(
            f"this Python has no source of its standard library in {where} (some builds ship only compiled files):"
            " give a text of your own, `fastslow train FILE`"
        )
    return Text.of(bytes(joined[:cap]), f"standard library of Python {platform.python_version()}")


def stdlib_splits(cap: int = DEFAULT_CAP, root: str | os.PathLike[str] | None = None) -> Splits:
    """:func:`stdlib_text` cut in order: 90% to train on, 5% to validate on, and the last 5% kept unseen."""
    return split_fractions(stdlib_text(cap, root), 0.9, 0.05, 0.05)
