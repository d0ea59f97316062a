"""The registry of corpora, both PTB protocols, and reading what has been fetched."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.corpora import (
    CORPORA,
    ENWIK8,
    PTB,
    TEXT8,
    char_protocol_mask,
    corpus_dir,
    default_data_dir,
    find_corpus,
    is_present,
    list_corpora,
    load_corpus,
)
from fastslow.errors import ChecksumError, CorpusError, UnknownNameError
from tests.data.samples import SINGLE, SINGLE_CORPUS, TRIPLE, TRIPLE_CORPUS


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_the_registry_has_the_published_sizes() -> None:
    assert list(CORPORA) == ["ptb", "enwik8", "text8"]
    assert PTB.split_sizes == (5_101_618, 399_782, 449_945)
    assert ENWIK8.split_sizes == TEXT8.split_sizes == (90_000_000, 5_000_000, 5_000_000)
    assert sum(ENWIK8.split_sizes) == ENWIK8.size == 10**8
    assert [c.alphabet_size for c in CORPORA.values()] == [50, 205, 27]


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=list(CORPORA))
def test_every_entry_is_well_formed(corpus: object) -> None:
    found = find_corpus(corpus)  # type: ignore[arg-type]
    assert found.protocols[0].name == "raw"
    assert len(found.sources) >= 2
    for file in found.files:
        assert len(bytes.fromhex(file.sha256)) == 32
    for source in found.sources:
        assert len(source.urls) in (1, len(found.files))
        assert all(urlsplit(url).scheme in ("http", "https") for url in source.urls)


def test_an_unknown_corpus_or_protocol_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown corpus 'pbt': did you mean 'ptb'"):
        find_corpus("pbt")
    with pytest.raises(UnknownNameError, match="unknown protocol of ptb 'chars': did you mean 'char'"):
        PTB.protocol("chars")
    assert PTB.protocol().name == "raw"


def test_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTSLOW_DATA", "~/corpora")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "corpora"
    assert corpus_dir("ptb") == tmp_path / "corpora" / "ptb"
    monkeypatch.delenv("FASTSLOW_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir() == tmp_path / "cache" / "fastslow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_data_dir() == tmp_path / ".cache" / "fastslow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_data_dir() == tmp_path / ".cache" / "fastslow"


def test_load_one_file_cut_by_sizes(tmp_path: Path) -> None:
    put(tmp_path / "single", {"single": SINGLE})
    loaded = load_corpus(SINGLE_CORPUS, data_dir=tmp_path)
    splits = loaded.splits
    assert splits.valid is not None
    assert splits.test is not None
    assert bytes(splits.train.data) + bytes(splits.valid.data) + bytes(splits.test.data) == SINGLE
    assert (len(splits.train), len(splits.valid), len(splits.test)) == SINGLE_CORPUS.split
    assert isinstance(splits.train.data, np.memmap)
    assert splits.test.name == "single (raw protocol, test part)"
    assert loaded.protocol.name == "raw"


def test_load_three_files_under_both_protocols(tmp_path: Path) -> None:
    put(tmp_path / "triple", TRIPLE)
    raw = load_corpus(TRIPLE_CORPUS, "raw", tmp_path).splits
    char = load_corpus(TRIPLE_CORPUS, "char", tmp_path).splits
    assert raw.test is not None
    assert char.test is not None
    assert bytes(raw.train.data) == TRIPLE["triple.train.txt"]
    assert bytes(char.train.data) == b"the first line\nand a second\n" * 3000
    assert bytes(char.test.data) == b"to test\non this\n" * 40
    assert char.test.name == "triple (char protocol, test part)"
    assert char.train.sha256 != raw.train.sha256
    with pytest.raises(ValueError, match="read-only"):
        char.train.data[0] = 0


def test_files_under_their_other_names_are_found(tmp_path: Path) -> None:
    put(tmp_path / "triple", {name.removeprefix("triple."): data for name, data in TRIPLE.items()})
    assert is_present(TRIPLE_CORPUS, tmp_path)
    assert bytes(load_corpus(TRIPLE_CORPUS, data_dir=tmp_path).splits.train.data) == TRIPLE["triple.train.txt"]


def test_a_missing_corpus_says_how_to_get_it(tmp_path: Path) -> None:
    assert not is_present("enwik8", tmp_path)
    with pytest.raises(CorpusError, match=r"the corpus enwik8 is not in .*fastslow data fetch enwik8"):
        load_corpus("enwik8", data_dir=tmp_path)


def test_a_damaged_corpus_is_refused(tmp_path: Path) -> None:
    damaged = bytearray(SINGLE)
    damaged[777] ^= 1
    put(tmp_path / "single", {"single": bytes(damaged)})
    assert is_present(SINGLE_CORPUS, tmp_path)
    with pytest.raises(ChecksumError, match="damaged or a different file"):
        load_corpus(SINGLE_CORPUS, data_dir=tmp_path)
    (tmp_path / "single" / "single").write_bytes(SINGLE[:-1])
    assert not is_present(SINGLE_CORPUS, tmp_path)
    with pytest.raises(ChecksumError, match="999,999 bytes; expected 1,000,000"):
        load_corpus(SINGLE_CORPUS, data_dir=tmp_path)


def test_list(tmp_path: Path) -> None:
    statuses = {s.corpus.name: s for s in list_corpora(tmp_path)}
    assert set(statuses) == set(CORPORA)
    assert not any(s.present for s in statuses.values())
    shown = json.loads(json.dumps(statuses["ptb"].to_json()))
    assert shown["bytes"] == 5_951_345
    assert shown["split"] == {"train": 5_101_618, "valid": 399_782, "test": 449_945}
    assert set(shown["protocols"]) == {"raw", "char"}
    assert "Linguistic Data Consortium" in shown["licence"]
    assert shown["folder"] == str(tmp_path / "ptb")


def test_char_protocol_mask_by_hand() -> None:
    def kept(text: bytes) -> bytes:
        return bytes(np.frombuffer(text, np.uint8)[char_protocol_mask(text)])

    assert kept(b" a b \n c \n") == b"a b\nc\n"
    assert kept(b"a b\nc") == b"a b\nc"
    assert kept(b"  a  \n") == b" a \n"  # one space at each end, not all of them
    assert kept(b" \n\n ") == b"\n\n"
    assert kept(b"") == b""
    assert kept(b" ") == b""


lines = st.lists(st.text(alphabet="ab ", max_size=6), max_size=8)


@given(lines)
def test_char_protocol_is_each_line_without_one_space_at_both_ends(words: list[str]) -> None:
    raw = "".join(f" {line} \n" for line in words).encode()
    kept = np.frombuffer(raw, np.uint8)[char_protocol_mask(raw)].tobytes()
    assert kept == "".join(f"{line}\n" for line in words).encode()
