from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastslow.data.text import Splits, Text
from fastslow.errors import AlphabetError, CorpusError, DataError, UnknownNameError
from fastslow.lm.config import ConfigError
from fastslow.training import DataSource
from fastslow.training.sources import make_alphabet


def test_files_joined_and_cut(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 60)
    (tmp_path / "b").write_bytes(b"y" * 40)
    splits = DataSource(texts=(str(tmp_path / "a"), str(tmp_path / "b")), fractions=(0.5, 0.3, 0.2)).open()
    assert splits.train.data.tobytes() == b"x" * 50
    assert splits.valid is not None
    assert splits.valid.data.tobytes() == b"x" * 10 + b"y" * 20


def test_paths_are_stored_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"x" * 100)
    source = DataSource(texts=("a",), test="a", alphabet="text")
    stored = DataSource.from_json(json.loads(json.dumps(source.to_json())))
    assert stored.texts == (str(tmp_path / "a"),)
    assert stored.test == str(tmp_path / "a")
    monkeypatch.chdir("/")
    assert stored.open().train.data.tobytes() == b"x" * 94


def test_the_standard_library() -> None:
    splits = DataSource(corpus="stdlib").open()
    assert len(splits.train) > 1_000_000
    assert splits.test is not None


def test_a_corpus_that_was_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="fastslow data fetch ptb"):
        DataSource(corpus="ptb", data_dir=str(tmp_path)).open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no text was given"),
        ({"texts": ("a",), "corpus": "ptb"}, "either files or the corpus ptb"),
        ({"texts": ("a",), "protocol": "char"}, "protocol can only be used with a corpus"),
        ({"texts": ("a",), "alphabet": "utf-8"}, "alphabet must be bytes or text"),
        ({"texts": ("a",), "fractions": (1.0, 0.0)}, "fractions must be three numbers"),
    ],
)
def test_senseless_sources(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSource(**options)


def test_unknown_corpora_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'enwik8'"):
        DataSource(corpus="enwik9")
    with pytest.raises(DataError, match="no such file"):
        DataSource(texts=(str(tmp_path / "none"),)).open()


@pytest.mark.parametrize(
    "change",
    [{"texts": "abc"}, {"texts": [None]}, {"texts": [3]}, {"valid": 3}, {"fractions": None}, {"other": 1}, {"raw": 1}],
)
def test_stored_sources_that_are_none(change: dict[str, Any]) -> None:
    value = {**DataSource(texts=("a",)).to_json(), **change}
    with pytest.raises(ConfigError, match="the data source"):
        DataSource.from_json(value)


def test_alphabets_are_checked_against_every_part() -> None:
    parts = Splits(Text.of(b"abcabc", "train"), Text.of(b"abz", "valid"), None)
    assert make_alphabet("bytes", parts).is_bytes
    with pytest.raises(AlphabetError, match="valid has byte 0x7a 'z' at offset 2"):
        make_alphabet("text", parts)
    assert make_alphabet("text", Splits(parts.train, parts.train, None)).symbols == b"abc"


def test_files_are_normalised_unless_raw(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\r\n" * 50)
    (tmp_path / "b").write_bytes(b"ab\n" * 50)
    texts = (str(tmp_path / "a"), str(tmp_path / "b"))
    parts = DataSource(texts=texts, fractions=(1.0, 0.0, 0.0)).open()
    assert parts.train.data.tobytes() == b"ab\n" * 100
    assert DataSource(texts=texts, fractions=(1.0, 0.0, 0.0), raw=True).open().train.data.tobytes().count(b"\r") == 50


def test_a_file_that_is_normalised_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "dos.txt"
    path.write_bytes(b"A line.\r\n" * 50)
    assert DataSource(texts=(str(path),), raw=True).open()
    assert not caplog.messages
    assert DataSource(texts=(str(path),)).open()
    assert caplog.messages == [
        f"{path} has CRLF line ends: it is read as UTF-8 with LF line ends; --raw keeps the bytes"
    ]


def test_runs_from_before_there_was_a_choice_are_raw() -> None:
    value = DataSource(texts=("a",)).to_json()
    assert DataSource.from_json(value).raw is False
    del value["raw"]
    assert DataSource.from_json(value).raw is True
