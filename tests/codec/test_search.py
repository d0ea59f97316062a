"""Which model an archive gets where none is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fastslow import codec
from fastslow.codec import container
from fastslow.codec.search import model_among, packaged_model
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, LMConfig

TEXT = b"It was a dark night, and the old man sat by the fire and said nothing at all, for he had nothing to say."


def header_of(archive: bytes) -> container.Header:
    return container.read_header(io.BytesIO(archive).read)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = []
    for name, size in (("first", 8), ("second", 9)):
        config = LMConfig(alphabet=Alphabet.bytes(), embedding_size=4, hidden_size=size, slow_size=5)
        CharLM(config).save_pretrained(tmp_path / name)
        made.append(tmp_path / name)
    return made


@pytest.mark.parametrize("mode", ["exact", "adapt"])
def test_the_hash_decides(mode: str, folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    archive = codec.compress(TEXT, folders[1], mode=mode, lanes=4)  # type: ignore[arg-type]
    found = model_among([tmp_path / "broken", tmp_path / "none", *folders], header_of(archive))
    assert found is not None
    assert found.name == "second"
    assert model_among(folders[:1], header_of(archive)) is None


def test_bits_of_a_weight_are_part_of_the_name(folders: list[Path]) -> None:
    archive = codec.compress(TEXT, folders[0], lanes=4, weight_bits=10)
    assert model_among(folders, header_of(archive)) is not None
    assert packaged_model(header_of(archive)) is None


@pytest.mark.parametrize("mode", ["exact", "float"])
def test_archives_of_the_model_in_the_box_need_no_name(mode: str, tmp_path: Path) -> None:
    archive = codec.compress(TEXT, "english", mode=mode)  # type: ignore[arg-type]
    assert packaged_model(header_of(archive)) is not None
    assert codec.decompress(archive) == TEXT
    (tmp_path / "text.fsz").write_bytes(archive)
    with codec.open(tmp_path / "text.fsz") as file:
        assert file.read() == TEXT
