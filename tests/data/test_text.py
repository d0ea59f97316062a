"""Texts from files: mapped, joined, hashed, split; and every way a path can be wrong."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.text import Splits, Text, open_splits, open_text, split_fractions, split_sizes
from fastslow.errors import DataError


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_one_file_is_mapped_and_read_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"hello")
    text = open_text(path)
    assert isinstance(text.data, np.memmap)
    assert bytes(text.data) == b"hello"
    assert len(text) == 5
    assert text.name == str(path)
    assert text.paths == (path,)
    with pytest.raises(ValueError, match="read-only"):
        text.data[0] = 0


def test_several_files_are_joined_in_order_empty_ones_too(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, data) for name, data in (("b", b"one "), ("c", b""), ("a", b"two"))]
    text = open_text(paths)
    assert bytes(text.data) == b"one two"
    assert text.name == f"{paths[0]} and 2 more"
    assert text.paths == tuple(paths)
    with pytest.raises(ValueError, match="read-only"):
        text.data[0] = 0


def test_hash_is_that_of_all_bytes(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    text = open_text(write(tmp_path / "a", data))
    assert text.sha256 == hashlib.sha256(data).hexdigest()
    assert text.describe() == {"name": text.name, "bytes": len(data), "sha256": text.sha256}


def test_standard_input_only_where_it_is_allowed_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"standard input.*save the text to a file"):
        open_text("-")
    with pytest.raises(DataError, match="only once"):
        open_text(["-", "-"], stdin=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped\xff")))
    text = open_text("-", stdin=True)
    assert bytes(text.data) == b"piped\xff"
    assert text.paths == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_only_where_standard_input_would_be(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="not a regular file"):
        open_text(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"through",))
    writer.start()
    assert bytes(open_text(pipe, stdin=True).data) == b"through"
    writer.join()


def test_wrong_paths_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere: no such file or directory"):
        open_text(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a directory: pass the files in it"):
        open_text(tmp_path)
    with pytest.raises(DataError, match="is empty: a text needs at least 2 bytes"):
        open_text(write(tmp_path / "empty", b""))
    with pytest.raises(DataError, match="is too short: it has 1 byte; at least 2"):
        open_text(write(tmp_path / "one", b"x"))
    with pytest.raises(DataError, match="at least 1,000 are needed"):
        open_text(write(tmp_path / "few", b"xyz"), min_bytes=1000)
    with pytest.raises(DataError, match="no text was given"):
        open_text([])
    with pytest.raises(DataError, match="cannot read"):
        open_text("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", b"abc")
    path.chmod(0)
    with pytest.raises(DataError, match="permission denied"):
        open_text(path)


@given(st.integers(40, 5000), st.integers(1, 98), st.integers(1, 98))
def test_split_covers_the_text_in_order(n: int, valid: int, test: int) -> None:
    train = 100 - valid - test
    text = Text.of(np.arange(n, dtype=np.uint32).view(np.uint8)[:n], "t")
    if train < 1 or min(train, valid, test) * n < 300:
        return
    splits = split_fractions(text, train / 100, valid / 100, test / 100)
    assert splits.valid is not None
    assert splits.test is not None
    assert len(splits.train) == n * train // 100
    assert len(splits.train) + len(splits.valid) == n * (train + valid) // 100
    joined = np.concatenate([splits.train.data, splits.valid.data, splits.test.data])
    assert np.array_equal(joined, text.data)


def test_split_of_a_hundred_million_is_exact() -> None:
    text = Text(np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (10**8,), (0,)), "big")
    splits = split_fractions(text)
    assert [len(t) for t in (splits.train, splits.valid, splits.test) if t] == [90_000_000, 5_000_000, 5_000_000]
    assert splits.train.name == "big (train part)"


def test_split_without_a_part() -> None:
    splits = split_fractions(Text.of(bytes(100), "t"), 0.9, 0.1, 0.0)
    assert (len(splits.train), splits.test) == (90, None)
    described = splits.describe()
    assert described["test"] is None
    assert described["train"] is not None
    assert described["train"]["bytes"] == 90


def test_impossible_splits_are_refused() -> None:
    text = Text.of(bytes(30), "t")
    with pytest.raises(DataError, match="too short to split: 30 bytes leave 1 for the valid part"):
        split_fractions(text)
    with pytest.raises(DataError, match=r"add up to 1; got 0.5, 0.1, 0.1, together 0.7"):
        split_fractions(text, 0.5, 0.1, 0.1)
    for wrong in ((1.1, -0.05, -0.05), (0.0, 0.5, 0.5), (float("nan"), 0.5, 0.5)):
        with pytest.raises(DataError, match="must be at least 0"):
            split_fractions(text, *wrong)
    with pytest.raises(DataError, match="cannot be split into 10, 10, 11"):
        split_sizes(text, 10, 10, 11)


def test_split_by_sizes() -> None:
    splits = split_sizes(Text.of(bytes(range(10)), "t"), 5, 3, 2)
    assert splits.valid is not None
    assert bytes(splits.valid.data) == b"\x05\x06\x07"


def test_splits_from_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train", bytes(range(200)))
    valid = write(tmp_path / "valid", b"valid")
    test = write(tmp_path / "test", b"test!")

    def sizes(splits: Splits) -> list[int | None]:
        return [None if t is None else len(t) for t in (splits.train, splits.valid, splits.test)]

    assert sizes(open_splits(train)) == [180, 10, 10]
    assert sizes(open_splits(train, fractions=(0.5, 0.3, 0.2))) == [100, 60, 40]
    assert sizes(open_splits(train, valid)) == [200, 5, None]
    assert sizes(open_splits(train, valid, test)) == [200, 5, 5]
    assert sizes(open_splits([train, train], None, test)) == [378, 22, 5]
    with pytest.raises(DataError, match="a training part"):
        open_splits(train, None, test, fractions=(0.0, 0.0, 1.0))
