"""Whole archives: sizes, kinds of block, models found and missing, and what every kind of damage is called."""

from __future__ import annotations

import io
import resource
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastslow import codec
from fastslow.codec import container
from fastslow.codec.blocks import encode_block, escape_for, lanes_for
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.predictor import ExactPredictor
from fastslow.codec.rangecoder import TOTAL
from fastslow.errors import FastslowError

from .fuzz import pieces
from .tiny import ALPHABET, TEXT, random_text, tiny_model


@pytest.fixture(scope="module")
def model() -> ExactModel:
    return tiny_model(hidden=6, slow=5)


def code_length_bytes(model: ExactModel, data: bytes, lanes: int) -> float:
    """-log2 p of every byte under the model's own frequencies, lanes laid out anew; in bytes."""
    predictor, bits = ExactPredictor(model), 0.0
    bounds = np.cumsum([0] + [len(data) // lanes + (lane < len(data) % lanes) for lane in range(lanes)])
    for lane in range(lanes):
        predictor.begin(1)
        previous = np.array([model.start])
        for byte in data[bounds[lane] : bounds[lane + 1]]:
            symbol = model.symbols.index(byte)
            bits -= float(np.log2(predictor.frequencies(predictor.step(previous))[0, symbol] / TOTAL))
            previous = np.array([symbol])
    return bits / 8


@pytest.mark.parametrize(("length", "lanes"), [(900, 1), (2000, 7)])
def test_size_is_the_code_length_and_little_more(model: ExactModel, length: int, lanes: int) -> None:
    data = random_text(length)
    archive = codec.compress(data, model, lanes=lanes)
    assert len(archive) <= 1.001 * code_length_bytes(model, data, lanes) + 256


def test_lanes_by_size() -> None:
    assert [lanes_for(n) for n in (0, 1, 8191, 8192, 1 << 20, 1 << 22)] == [1, 1, 1, 2, 256, 256]


def test_escape_frequency_follows_the_share_of_unknown_bytes() -> None:
    assert escape_for(0, 100) == 0
    assert escape_for(100, 100) == 24
    assert escape_for(1, 1 << 26) == 1
    assert [1 << (escape_for(n, 1024) - 1) for n in (1, 2, 512)] == [TOTAL >> 10, TOTAL >> 9, TOTAL >> 1]


def test_a_few_unknown_bytes_cost_little(model: ExactModel) -> None:
    plain = random_text(2000)
    marked = bytearray(plain)
    for at in range(100, 2000, 200):
        marked[at] = 0xE9
    extra = len(codec.compress(bytes(marked), model, lanes=20)) - len(codec.compress(plain, model, lanes=20))
    assert extra < 10 * 4


def test_hopeless_blocks_are_given_up_early(model: ExactModel) -> None:
    """Runs of one byte: lzma needs next to nothing, and the model is stopped after a few steps."""
    steps: list[int] = []
    data = bytes([ALPHABET[3]]) * 60_000
    assert encode_block(data, ExactPredictor(model), 16, 0, 100, steps.append) is None
    assert sum(steps) == 16 * 64
    assert len(codec.compress(data, model, lanes=16)) < 300
    steps.clear()
    data = random_text(9600)
    size = len(encode_block(data, ExactPredictor(model), 16, 0, 1 << 20) or b"")
    assert encode_block(data, ExactPredictor(model), 16, 0, size * 8 // 10, steps.append) is None
    assert 9600 / 8 <= sum(steps) <= 9600 / 4
    assert encode_block(data, ExactPredictor(model), 16, 0, size) is None
    assert encode_block(data, ExactPredictor(model), 16, 0, size + 1) is not None


def test_blocks_are_independent(model: ExactModel) -> None:
    data = random_text(900)
    reader = codec.ArchiveReader(io.BytesIO(codec.compress(data, model, lanes=30, block_size=300)), model)
    assert list(reader.blocks()) == [data[:300], data[300:600], data[600:]]
    assert reader.summary.blocks == 3
    assert reader.summary.kinds == {"raw": 0, "lzma": 0, "neural": 900}


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._data[self._at : self._at + min(7, size)]
        self._at += len(piece)
        return piece


def test_streams_that_trickle(model: ExactModel) -> None:
    data = random_text(700)
    target, back = io.BytesIO(), io.BytesIO()
    options = codec.Options(lanes=25, block_size=200)
    summary = codec.compress_stream(Trickle(data), target, model, options)  # type: ignore[arg-type]
    assert (summary.plain, summary.stored, summary.blocks) == (700, len(target.getvalue()), 4)
    assert target.getvalue() == codec.compress(data, model, lanes=25, block_size=200)
    codec.decompress_stream(Trickle(target.getvalue()), back, model)  # type: ignore[arg-type]
    assert back.getvalue() == data


class Zeros(io.RawIOBase):
    """A source of zeros that holds none of them."""

    def __init__(self, length: int) -> None:
        self._left = length

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


class Nothing(io.RawIOBase):
    def write(self, data: bytes) -> int:  # type: ignore[override]
        return len(data)


def test_memory_is_that_of_a_block_not_of_the_file(model: ExactModel) -> None:
    peaks = []
    for length in (1 << 18, 1 << 20):
        tracemalloc.start()
        target = io.BytesIO()
        codec.compress_stream(Zeros(length), target, model, codec.Options(block_size=1 << 16))  # type: ignore[arg-type]
        codec.decompress_stream(io.BytesIO(target.getvalue()), Nothing(), model)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 18)


class Random(io.RawIOBase):
    """A source of symbols of the alphabet that only a model can shorten; it holds one piece of them."""

    def __init__(self, length: int) -> None:
        self._left, self._piece = length, random_text(1 << 16)

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._left, len(self._piece))
        self._left -= count
        return self._piece[:count]


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say how much memory is held")
def test_many_neural_blocks_take_the_memory_of_one(model: ExactModel) -> None:
    """Compiled code's memory too: what 400 blocks hold beside what a few did, in both directions."""

    def there_and_back(length: int) -> int:
        target = io.BytesIO()
        options = codec.Options(block_size=1 << 9, lanes=16)
        summary = codec.compress_stream(Random(length), target, model, options)  # type: ignore[arg-type]
        assert summary.kinds["neural"] == length
        target.seek(0)
        codec.decompress_stream(target, Nothing(), model)  # type: ignore[arg-type]
        return resident()

    before = there_and_back(5 << 9)
    assert there_and_back(400 << 9) < before + (1 << 22)


def test_progress_tells_the_bytes_done(model: ExactModel) -> None:
    told: list[tuple[int, int]] = []
    archive = io.BytesIO()
    source = io.BytesIO(random_text(500))
    codec.compress_stream(source, archive, model, codec.Options(lanes=10), progress=lambda *done: told.append(done))
    assert [text for text, _ in told] == sorted(text for text, _ in told)
    assert told[-1][0] == 500
    told.clear()
    archive.seek(0)
    codec.decompress_stream(archive, io.BytesIO(), model, progress=lambda *done: told.append(done))
    assert told[-1][0] == 500


# ---------------------------------------------------------------------- models


def test_an_archive_without_neural_blocks_needs_no_model(model: ExactModel) -> None:
    for data in (b"", b"ab", TEXT * 30):
        assert codec.decompress(codec.compress(data, model)) == data


def test_a_missing_model_and_a_different_one_are_named(model: ExactModel) -> None:
    archive = codec.compress(random_text(400), codec.CodecModel("wires", exact=model), lanes=20)
    with pytest.raises(codec.ModelError, match=rf"needs model {model.id.hex()[:16]} \(wires\): name its folder"):
        codec.decompress(archive)
    other = tiny_model(hidden=6, slow=5, seed=2)
    with pytest.raises(codec.ModelError, match=rf"needs model {model.id.hex()[:16]}.*has hash {other.id.hex()[:16]}"):
        codec.decompress(archive, other)


def test_an_embedded_model_is_used_and_nothing_else_is_needed(model: ExactModel) -> None:
    data = random_text(400)
    archive = codec.compress(data, model, lanes=20, embed_model=True)
    assert codec.decompress(archive) == data
    assert len(archive) - len(codec.compress(data, model, lanes=20)) < len(model.to_bytes())


def test_a_finder_is_asked_only_when_a_model_is_needed(model: ExactModel) -> None:
    asked = []

    def find(header: container.Header) -> ExactModel:
        asked.append(header.model_id)
        return model

    data = random_text(400)
    for archive in (codec.compress(b"ab", model), codec.compress(data, model, embed_model=True, lanes=9)):
        codec.decompress_stream(io.BytesIO(archive), io.BytesIO(), find_model=find)
    assert asked == []
    codec.decompress_stream(io.BytesIO(codec.compress(data, model, lanes=9)), io.BytesIO(), find_model=find)
    assert asked == [model.id]


def test_models_from_files_and_objects(model: ExactModel, tmp_path: Path) -> None:
    codec.export_model(model, tmp_path / "m.fsxm")
    archive = codec.compress(random_text(300), str(tmp_path / "m.fsxm"), lanes=20)
    assert codec.decompress(archive, model) == random_text(300)
    (tmp_path / "no").write_bytes(b"something else")
    (tmp_path / "bad").write_bytes(model.to_bytes()[:-1])
    for name, words in (("no", "is no model"), ("bad", "is damaged"), ("missing", "there is no model")):
        with pytest.raises(FastslowError, match=words):
            codec.compress(b"x" * 50, tmp_path / name)
    with pytest.raises(TypeError, match="a model is"):
        codec.compress(b"x", 5)  # type: ignore[arg-type]
    with pytest.raises(codec.ModelError, match="integers alone"):
        codec.compress(b"x" * 50, model, mode="float")


def test_senseless_options_are_refused(model: ExactModel) -> None:
    for options in ({"lanes": 0}, {"lanes": 5000}, {"block_size": 0}, {"block_size": 1 << 27}):
        with pytest.raises(codec.CodecError):
            codec.compress(b"x", model, **options)
    with pytest.raises(codec.CodecError, match="weight_bits belongs"):
        codec.compress(b"x", model, mode="float", weight_bits=8)
    with pytest.raises(codec.ModelError, match="takes no model"):
        codec.compress(b"x", model, mode="online")
    with pytest.raises(codec.ModelError, match="a model is needed"):
        codec.compress(b"x")
    with pytest.raises(codec.CodecError, match="no model to embed"):
        codec.compress(b"x", mode="online", embed_model=True)
    with pytest.raises(ValueError, match="mode must be"):
        codec.compress(b"x", model, mode="fast")


# ---------------------------------------------------------------------- damage, by name


@pytest.fixture(scope="module")
def archive(model: ExactModel) -> bytes:
    return codec.compress(random_text(300), model, lanes=50, block_size=100)


def refused(data: bytes, model: ExactModel) -> str:
    with pytest.raises(codec.CodecError) as caught:
        codec.decompress(data, model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_flipped_bit_is_noticed(archive: bytes, model: ExactModel) -> None:
    for at in range(len(archive)):
        damaged = bytearray(archive)
        damaged[at] ^= 1 << (at % 8)
        refused(bytes(damaged), model)


def test_every_cut_is_noticed(archive: bytes, model: ExactModel) -> None:
    for length in range(len(archive)):
        assert refused(archive[:length], model)


def test_errors_name_the_place(archive: bytes, model: ExactModel) -> None:
    head, blocks, tail = pieces(archive)
    flipped = bytearray(blocks[1])
    flipped[60] ^= 1
    assert "block 1 is damaged" in refused(head + blocks[0] + flipped + blocks[2] + tail, model)
    assert refused(head + blocks[0] + blocks[2] + blocks[1] + tail, model) == (
        "block 1 is not there: block 2 stands in its place"
    )
    assert "counts 3 blocks, but there are 2" in refused(head + blocks[0] + blocks[1] + tail, model)
    assert refused((head + blocks[0] + blocks[1])[:-3], model) == "block 1: the archive is cut short"
    assert "followed by other bytes" in refused(archive + b"\n", model)
    assert "no fastslow archive" in refused(b"\x1f\x8b" + archive, model)
    assert "no fastslow archive" in refused(b"", model)
    assert "line ends" in refused(archive.replace(b"\r\n", b"\n", 1), model)
    other = codec.compress(random_text(300, 5), model, lanes=50, block_size=99)
    assert "block 0 is damaged" in refused(head + pieces(other)[1][0] + b"".join(blocks[1:]) + tail, model)


def test_a_newer_version_says_upgrade(archive: bytes, model: ExactModel) -> None:
    newer = bytearray(archive)
    newer[8] = 2
    assert "format version 2; this fastslow reads 1: upgrade" in refused(bytes(newer), model)


def test_huge_lengths_allocate_nothing(model: ExactModel) -> None:
    """Headers that promise gigabytes in front of a few bytes."""
    header = container.Header(container.Mode.EXACT, container.MAX_BLOCK, 0, 23, model.id).sealed()
    block = container.BlockHeader(
        0, container.Kind.LZMA, 0, 0, container.MAX_BLOCK, container.MAX_BLOCK - 1, 0, bytes(8)
    )
    trailer = struct.pack("<B7sQQ32s", container.END_TAG, bytes(7), 2**40, 2**41, bytes(32))
    model_part = container.Header(
        container.Mode.EXACT, 1, 0, 23, bytes(32), model_size=1 << 29, embedded_size=1 << 29
    ).sealed()
    tracemalloc.start()
    for data in (
        header.to_bytes() + block.to_bytes(header.crc) + b"few",
        header.to_bytes() + trailer,
        model_part.to_bytes() + b"few",
    ):
        refused(data, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20


def test_a_bomb_of_lzma_stops_at_its_length(model: ExactModel) -> None:
    from fastslow.codec import plain

    payload = plain.pack(bytes(1 << 20))
    with pytest.raises(codec.FormatError, match=r"another length|damaged"):
        plain.unpack(payload, 5000)
    with pytest.raises(codec.FormatError):
        plain.unpack(payload + b"x", 1 << 20)
    with pytest.raises(codec.FormatError):
        plain.unpack(payload[:-1], 1 << 20)
    assert plain.unpack(payload, 1 << 20) == bytes(1 << 20)
