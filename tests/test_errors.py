"""One-line errors, nearest names, and reasons in words."""

from __future__ import annotations

import errno

import pytest

from fastslow import errors
from fastslow.errors import FastslowError, nearest, os_reason, unknown_name

PRESETS = ["demo", "ptb-fs-lstm-2", "ptb-fs-lstm-4", "enwik8-fs-lstm-2", "enwik8-fs-lstm-4-large"]


def test_a_message_is_one_line() -> None:
    assert str(FastslowError("first\nsecond\r\nthird")) == "first second third"


@pytest.mark.parametrize(
    "kind", [errors.DataError, errors.AlphabetError, errors.CorpusError, errors.ChecksumError, errors.UnknownNameError]
)
def test_every_error_of_a_user_has_the_common_base(kind: type[FastslowError]) -> None:
    assert issubclass(kind, FastslowError)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("pbt-fs-lstm-2", "ptb-fs-lstm-2"),
        ("PTB-FS-LSTM-4", "ptb-fs-lstm-4"),
        ("deom", "demo"),
        ("ptb", "ptb-fs-lstm-2"),
    ],
)
def test_nearest_names(name: str, first: str) -> None:
    assert nearest(name, PRESETS)[0] == first


def test_nearest_offers_nothing_far_and_not_too_much() -> None:
    assert nearest("zzz", PRESETS) == []
    assert len(nearest("lstm", PRESETS)) == 3
    assert nearest("x", []) == []


def test_unknown_name_names_what_came_what_is_near_and_what_there_is() -> None:
    message = str(unknown_name("corpus", "pbt", ["ptb", "enwik8", "text8"]))
    assert message == "unknown corpus 'pbt': did you mean 'ptb'? Known: ptb, enwik8, text8"
    assert str(unknown_name("run", "a", [])) == "unknown run 'a': None exist"


def test_os_reason() -> None:
    assert os_reason(OSError(errno.ENOSPC, "No space left on device")) == "the disk is full"
    assert os_reason(OSError(errno.EDQUOT, "x")) == "the disk quota is exceeded"
    assert os_reason(FileNotFoundError(errno.ENOENT, "No such file or directory")) == "no such file or directory"
    assert os_reason(OSError("Odd thing")) == "odd thing"
    assert os_reason(TimeoutError()) == "timeoutError"
