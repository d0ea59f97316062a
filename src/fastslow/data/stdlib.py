"""The text of the demo: the source of the Python standard library of the running interpreter.

Every machine with Python has this text: there is no download and no licence question, and the bytes are the same for
everyone with the same version of Python.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from pathlib import Path

from fastslow.data.text import Splits, Text, split_fractions
from fastslow.errors import DataError, os_reason

DEFAULT_CAP = 4_700_000

# Generated when Python is built or installed, so different between machines with the same version.
_LOCAL = ("_sysconfigdata", "sitecustomize", "usercustomize")


def stdlib_files(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The single-file modules of the standard library, sorted by name: ``abc.py``, ``aifc.py``, ...

    About 4.7 MB: packages, including tests, tables and site-packages, are excluded, and so are files that depend on the
    machine, and links, which could point anywhere.  ``root`` is the running interpreter's library by default.
    """
    top = Path(sysconfig.get_path("stdlib") if root is None else root)
    found = [p for p in top.glob("*.py") if not p.name.startswith((*_LOCAL, "."))]
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=lambda p: p.name)


def stdlib_text(cap: int = DEFAULT_CAP, root: str | os.PathLike[str] | None = None) -> Text:
    """The first ``cap`` bytes of the standard library's modules (:func:`stdlib_files`), concatenated.

    The bytes are the same for the same version of Python.  Raises :class:`~fastslow.errors.DataError`, with what to do,
    if this Python has no library source, and ``ValueError`` if ``cap`` is not positive.
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
            " pass a text file, `fastslow train FILE`"
        )
    return Text.of(bytes(joined[:cap]), f"standard library of Python {platform.python_version()}")


def stdlib_splits(cap: int = DEFAULT_CAP, root: str | os.PathLike[str] | None = None) -> Splits:
    """:func:`stdlib_text` split in order: 90% for training, 5% for validation, and the last 5% for testing."""
    return split_fractions(stdlib_text(cap, root), 0.9, 0.05, 0.05)
