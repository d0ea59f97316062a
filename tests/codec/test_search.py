"""Which model an archive gets where none is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fastslow import codec
from fastslow.codec.search import model_among, packaged_model
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, LMConfig

TEXT = b"It was a dark night, and the old man sat by the fire and said nothing at all, for he had nothing to say."


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = []
    for name, size in (("first", 8), ("second", 9)):
        config = LMConfig(alphabet=Alphabet.bytes(), embedding_size=4, hidden_size=size, slow_size=5)
        CharLM(config).save_pretrained(tmp_path / name)
        made.append(tmp_path / name)
    return made


def wanted(folder: Path, bits: int = 16) -> codec.Wanted:
    return codec.Wanted(codec.models.as_model(folder).id(bits)[:8], bits)


def test_the_hash_decides(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    found = model_among([tmp_path / "broken", tmp_path / "none", *folders], wanted(folders[1]))
    assert found is not None
    assert found.name == "second"
    assert model_among(folders[:1], wanted(folders[1])) is None


def test_bits_of_a_weight_are_part_of_the_name(folders: list[Path]) -> None:
    assert model_among(folders, wanted(folders[0], 10)) is not None
    assert packaged_model(wanted(folders[0], 10)) is None


def test_archives_of_the_model_in_the_box_need_no_name(tmp_path: Path) -> None:
    archive = codec.compress(TEXT, "english")
    (entry,) = codec.ArchiveReader(io.BytesIO(archive)).entries()
    assert entry.wanted is not None
    assert packaged_model(entry.wanted) is not None
    assert codec.decompress(archive) == TEXT
    (tmp_path / "text.fsz").write_bytes(archive)
    with codec.open(tmp_path / "text.fsz") as file:
        assert file.read() == TEXT
