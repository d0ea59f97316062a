"""Errors that a user can cause: one line each, with what was given, what was expected and what to do.

The command line prints ``fastslow: error: <message>`` for a :class:`FastslowError` and exits with status 2;
anything else is a bug and shows its traceback.  The layer itself raises PyTorch's types of
error (``ValueError``, ``RuntimeError``, ``TypeError``), as ``nn.LSTM`` does.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class FastslowError(Exception):
    """Base class of errors that a user can cause.  The message is one line; line breaks become spaces."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class UsageError(FastslowError):
    """Invalid command-line arguments."""


class UnknownNameError(FastslowError):
    """A name (preset, corpus, protocol) that does not exist."""


class DataError(FastslowError):
    """A text that cannot be read, is too short, or cannot be split as requested."""


class AlphabetError(DataError):
    """A symbol outside the alphabet, or a stored alphabet that is not valid."""


class CorpusError(DataError):
    """A public corpus that is missing, damaged or cannot be fetched."""


class ChecksumError(CorpusError):
    """A file whose size or SHA-256 is not that of the corpus it claims to be."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The names in ``known`` that ``name`` was most likely meant to be, best first; often none."""
    folded = {k.casefold(): k for k in known}
    wanted = name.casefold()
    found = difflib.get_close_matches(wanted, folded, n=limit, cutoff=0.55)
    # A partial name is as common as a typing error: "ptb" for "ptb-fs-lstm-2".
    if len(wanted) >= 2:
        found += [k for k in folded if k not in found and (k.startswith(wanted) or wanted in k)]
    return [folded[k] for k in found[:limit]]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a ``kind`` (such as ``"preset"``) called ``name`` that does not exist, with the nearest names.

    >>> str(unknown_name("corpus", "pbt", ["ptb", "text8"]))
    "unknown corpus 'pbt': did you mean 'ptb'? Known: ptb, text8"
    """
    names = list(known)
    close = nearest(name, names)
    guess = f" did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    listing = f"Known: {', '.join(names)}" if names else "None exist"
    return UnknownNameError(f"unknown {kind} {name!r}:{guess} {listing}")


def os_reason(error: OSError) -> str:
    """The reason of a system error as text: ``"no such file or directory"``, ``"the disk is full"``."""
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno == errno.EDQUOT:
        return "the disk quota is exceeded"
    if error.errno is not None:
        reason = error.strerror or os.strerror(error.errno)
    else:
        reason = str(error) or type(error).__name__
    return reason[:1].lower() + reason[1:]
