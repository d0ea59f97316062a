"""`codec.open`: an archive as a file to read from and jump in."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from fastslow import codec
from fastslow.codec.exact.model import ExactModel

from .fuzz import Pieces
from .tiny import random_text, tiny_model

DATA = b"\n".join(random_text(70, seed) for seed in range(12))


@pytest.fixture(scope="module")
def model() -> ExactModel:
    return tiny_model(hidden=5, slow=4)


@pytest.fixture
def path(model: ExactModel, tmp_path: Path) -> Path:
    path = tmp_path / "text.fsz"
    path.write_bytes(codec.compress(DATA, model, lanes=16, block_size=200))
    return path


def test_it_reads_like_the_file_it_was(path: Path, model: ExactModel) -> None:
    with codec.open(path, model) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.read() == DATA
    assert file.closed
    with codec.open(path, model) as file:
        assert list(file) == io.BytesIO(DATA).readlines()
        assert file.read() == b""


def test_it_jumps(path: Path, model: ExactModel) -> None:
    draw, plain = random.Random(1), io.BytesIO(DATA)
    with codec.open(path, model) as file:
        for _ in range(40):
            whence = draw.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            at = plain.tell()
            offset = {
                io.SEEK_SET: draw.randrange(900),
                io.SEEK_CUR: draw.randrange(-at, 50),
                io.SEEK_END: -draw.randrange(800),
            }[whence]
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            size = draw.choice([0, 1, 30, 450])
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
        with pytest.raises(ValueError, match="negative"):
            file.raw.seek(-1)
        with pytest.raises(ValueError, match="whence"):
            file.raw.seek(0, 7)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_only_the_blocks_asked_for_are_decoded(path: Path, model: ExactModel) -> None:
    head, blocks, tail = Pieces(path.read_bytes()).raw()
    damaged = bytearray(blocks[2])
    damaged[60] ^= 1
    path.write_bytes(head + b"".join([*blocks[:2], damaged, *blocks[3:]]) + tail)
    with codec.open(path, model) as file:
        file.seek(650)
        assert file.read(50) == DATA[650:700]
        file.seek(450)
        with pytest.raises(codec.FormatError, match="block 2 is damaged"):
            file.read(10)
        file.seek(10)
        assert file.read(20) == DATA[10:30]


def test_what_is_no_archive_is_refused_at_once(path: Path, model: ExactModel, tmp_path: Path) -> None:
    whole = path.read_bytes()
    head, blocks, tail = Pieces(whole).raw()
    for data, words in (
        (b"text", "not a fastslow archive"),
        (whole[:-1], "truncated"),
        (whole[:40], "truncated"),
        (head + tail, "length differs from that of the blocks"),
        (head + blocks[1] + tail, "checksum"),
        (whole + b"more", "followed by other data"),
    ):
        path.write_bytes(data)
        with pytest.raises(codec.FormatError, match=words):
            codec.open(path, model)
    with pytest.raises(codec.CodecError, match="cannot read"):
        codec.open(tmp_path / "missing", model)


def test_an_empty_text(model: ExactModel, tmp_path: Path) -> None:
    (tmp_path / "e.fsz").write_bytes(codec.compress(b"", model))
    with codec.open(tmp_path / "e.fsz") as file:
        assert file.read() == b""
        assert file.seek(0, io.SEEK_END) == 0


def test_several_archives_are_one_file(model: ExactModel, tmp_path: Path) -> None:
    whole = codec.compress(DATA, model, block_size=300) + codec.compress(b"", model) + codec.compress(b"end", model)
    (tmp_path / "s.fsz").write_bytes(whole)
    with codec.open(tmp_path / "s.fsz", model) as file:
        assert file.read() == DATA + b"end"
        file.seek(-5, io.SEEK_END)
        assert file.read() == (DATA + b"end")[-5:]
