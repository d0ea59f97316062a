"""Whole archives: sizes, kinds of block, models found and missing, and what every kind of damage is called."""

from __future__ import annotations

import io
import resource
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from fastslow import codec
from fastslow.codec import container, plain
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.mixed import encode_block, lanes_for
from fastslow.codec.predictor import ExactPredictor
from fastslow.errors import FastslowError

from .fuzz import Pieces
from .tiny import TEXT, predicted_text, random_text, tiny_model


@pytest.fixture(scope="module")
def model() -> ExactModel:
    return tiny_model(hidden=6, slow=5)


@pytest.fixture(scope="module")
def text(model: ExactModel) -> bytes:
    return predicted_text(model, 900)


@pytest.mark.parametrize("length", [0, 1, 100, 20_000, 65_535])
def test_small_files_cost_little_more_than_their_payload(model: ExactModel, length: int) -> None:
    data = (b"a line like others\n" * 4000)[:length]
    archive = codec.compress(data, model)
    payloads = sum(entry.stored for entry in codec.ArchiveReader(io.BytesIO(archive)).entries())
    assert len(archive) - payloads <= 48
    assert len(archive) <= 160
    assert codec.decompress(archive, model) == data


def test_lanes_by_size() -> None:
    assert [lanes_for(n) for n in (0, 1, 8191, 8192, 1 << 20, 1 << 22)] == [1, 1, 1, 2, 16, 16]


def test_a_few_unknown_bytes_cost_little(model: ExactModel, text: bytes) -> None:
    marked = bytearray(text)
    for at in range(100, 900, 200):
        marked[at] = 0xE9
    extra = len(codec.compress(bytes(marked), model, lanes=20)) - len(codec.compress(text, model, lanes=20))
    assert extra < 4 * 8


def test_hopeless_blocks_are_given_up_early(model: ExactModel) -> None:
    steps: list[int] = []
    data = random_text(9600)
    assert encode_block(data, ExactPredictor(model), 16, 1000, steps.append) is None
    assert sum(steps) == 9600 / 4
    size = len(encode_block(data, ExactPredictor(model), 16, 1 << 20) or b"")
    assert encode_block(data, ExactPredictor(model), 16, size) is None
    assert encode_block(data, ExactPredictor(model), 16, size + 1) is not None


def test_a_hard_beginning_is_not_held_against_the_rest() -> None:
    """As in source code: the licence, then much repetition."""
    words = [bytes([97 + a, 97 + b, 97 + c]) for a in range(13) for b in range(13) for c in range(13)]
    draw = np.random.default_rng(1)
    data = b" ".join(words[i] for i in draw.integers(0, len(words), 1000)) + b"".join(
        b"%s(%s, %s);\n" % tuple(words[i] for i in row) for row in draw.integers(0, 6, (1000, 3))
    )
    coded = encode_block(data, None, 1, len(data))
    assert coded
    packed = len(plain.pack(data))
    first = encode_block(data[: len(data) // 4], None, 1, len(data))
    assert first
    assert 2 * 4 * len(first) > 3 * packed  # the projection alone would be hopeless
    assert encode_block(data, None, 1, packed) == coded


def test_noise_takes_next_to_nothing_more_than_itself(model: ExactModel) -> None:
    data = np.random.default_rng(0).bytes(150_000)
    assert len(codec.compress(data, model)) <= 1.001 * len(data)


def test_one_archive_after_the_other(model: ExactModel, text: bytes) -> None:
    parts = [text, b"", b"x", TEXT * 9]
    whole = b"".join(codec.compress(part, model, lanes=9) for part in parts)
    assert codec.decompress(whole, model) == b"".join(parts)
    for tail in (b"\0", b"\x89FSZ", b"\x89FSZ\x02"):
        assert refused(whole + tail, model)


def test_blocks_are_independent(model: ExactModel) -> None:
    data = predicted_text(model, 900)
    reader = codec.ArchiveReader(io.BytesIO(codec.compress(data, model, lanes=30, block_size=300)), model)
    assert list(reader.blocks()) == [data[:300], data[300:600], data[600:]]
    assert reader.summary.blocks == 3
    assert reader.summary.kinds == {"raw": 0, "lzma": 0, "mixed": 0, "neural": 900}


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
    for length in (1 << 17, 1 << 19):
        tracemalloc.start()
        target = io.BytesIO()
        codec.compress_stream(Zeros(length), target, model, codec.Options(block_size=1 << 16))  # type: ignore[arg-type]
        codec.decompress_stream(io.BytesIO(target.getvalue()), Nothing(), model)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 18)


class Random(io.RawIOBase):
    """A source that gives one piece of text again and again."""

    def __init__(self, length: int, piece: bytes) -> None:
        self._left, self._piece = length, piece

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._left, len(self._piece))
        self._left -= count
        return self._piece[:count]


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say how much memory is held")
def test_many_neural_blocks_take_the_memory_of_one(model: ExactModel, text: bytes) -> None:
    """Compiled code's memory too: what 100 blocks hold beside what a few did, in both directions."""

    def there_and_back(length: int) -> int:
        target = io.BytesIO()
        options = codec.Options(block_size=1 << 9, lanes=16)
        summary = codec.compress_stream(Random(length, text[:512]), target, model, options)  # type: ignore[arg-type]
        assert summary.kinds["neural"] == length
        target.seek(0)
        codec.decompress_stream(target, Nothing(), model)  # type: ignore[arg-type]
        return resident()

    before = there_and_back(5 << 9)
    assert there_and_back(100 << 9) < before + (1 << 23)


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
    for data in (b"", b"ab", bytes(3000), np.random.default_rng(1).bytes(100)):
        assert codec.decompress(codec.compress(data, model)) == data


def test_a_missing_model_and_a_different_one_are_named(model: ExactModel) -> None:
    archive = codec.compress(predicted_text(model, 400), model, lanes=20)
    with pytest.raises(codec.ModelError, match=rf"needs model {model.id.hex()[:16]}: pass its folder"):
        codec.decompress(archive)
    other = tiny_model(hidden=6, slow=5, seed=2)
    with pytest.raises(codec.ModelError, match=rf"needs model {model.id.hex()[:16]}.*has hash {other.id.hex()[:16]}"):
        codec.decompress(archive, other)


def test_an_embedded_model_is_used_and_nothing_else_is_needed(model: ExactModel) -> None:
    data = predicted_text(model, 400)
    archive = codec.compress(data, model, lanes=20, embed_model=True)
    assert codec.decompress(archive) == data
    assert len(archive) - len(codec.compress(data, model, lanes=20)) < len(model.to_bytes())


def test_a_finder_is_asked_only_when_a_model_is_needed(model: ExactModel) -> None:
    asked = []

    def find(wanted: codec.Wanted) -> ExactModel:
        asked.append(wanted.model_id)
        return model

    data = predicted_text(model, 400)
    for archive in (codec.compress(b"ab", model), codec.compress(data, model, embed_model=True, lanes=9)):
        codec.decompress_stream(io.BytesIO(archive), io.BytesIO(), find_model=find)
    assert asked == []
    codec.decompress_stream(io.BytesIO(codec.compress(data, model, lanes=9)), io.BytesIO(), find_model=find)
    assert asked == [model.id[:8]]


def test_models_from_files_and_objects(model: ExactModel, tmp_path: Path) -> None:
    codec.export_model(model, tmp_path / "m.fsxm")
    archive = codec.compress(random_text(300), str(tmp_path / "m.fsxm"), lanes=20)
    assert codec.decompress(archive, model) == random_text(300)
    (tmp_path / "no").write_bytes(b"something else")
    (tmp_path / "bad").write_bytes(model.to_bytes()[:-1])
    for name, words in (("no", "is not a model"), ("bad", "is damaged"), ("missing", "there is no model")):
        with pytest.raises(FastslowError, match=words):
            codec.compress(b"x" * 50, tmp_path / name)
    with pytest.raises(TypeError, match="model must be a folder"):
        codec.compress(b"x", 5)  # type: ignore[arg-type]


def test_senseless_options_are_refused(model: ExactModel) -> None:
    for options in ({"lanes": 0}, {"lanes": 5000}, {"block_size": 0}, {"block_size": 1 << 27}, {"weight_bits": 7}):
        with pytest.raises(codec.CodecError):
            codec.compress(b"x", model, **options)
    with pytest.raises(codec.ModelError, match="no model to embed"):
        codec.compress(b"x", embed_model=True)


def test_without_a_model_the_text_teaches_itself() -> None:
    data = TEXT + b"something else, " + TEXT
    archive = codec.compress(data)
    assert len(archive) < len(codec.compress(TEXT)) + 60
    assert codec.decompress(archive) == data


# ---------------------------------------------------------------------- damage, by name


@pytest.fixture(scope="module")
def archive(model: ExactModel) -> bytes:
    return codec.compress(predicted_text(model, 300), model, lanes=50, block_size=100)


def refused(data: bytes, model: ExactModel) -> str:
    with pytest.raises(codec.CodecError) as caught:
        codec.decompress(data, model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(archive: bytes, model: ExactModel, every: int) -> None:
    for at in range(0, len(archive), every):
        damaged = bytearray(archive)
        damaged[at] ^= 1 << (at % 8)
        refused(bytes(damaged), model)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_every_cut_is_noticed(archive: bytes, model: ExactModel, every: int) -> None:
    for length in range(0, len(archive), every):
        assert refused(archive[:length], model)


def test_errors_name_the_place(archive: bytes, model: ExactModel) -> None:
    head, blocks, tail = Pieces(archive).raw()
    flipped = bytearray(blocks[1])
    flipped[-1] ^= 1
    assert "block 1 is damaged" in refused(head + blocks[0] + flipped + blocks[2] + tail, model)
    assert "block 1 is damaged" in refused(head + blocks[0] + blocks[2] + blocks[1] + tail, model)
    assert "length differs from that of the blocks" in refused(head + blocks[0] + blocks[1] + tail, model)
    assert refused((head + blocks[0] + blocks[1])[:-3], model) == "block 1: the archive is truncated"
    assert "followed by other data" in refused(archive + b"\n", model)
    assert "not a fastslow archive" in refused(b"\x1f\x8b" + archive, model)
    assert "not a fastslow archive" in refused(b"", model)
    assert "line ends" in refused(b"\x89FSZ\n\x1a\n" + archive, model)
    other = codec.compress(predicted_text(model, 300, 5), model, lanes=50, block_size=100)
    changed = Pieces(archive)
    changed.parts[1] = Pieces(other).parts[1]
    assert "SHA-256 of the whole text" in refused(changed.sealed(), model)


def test_a_newer_version_says_upgrade(archive: bytes, model: ExactModel) -> None:
    newer = bytearray(archive)
    newer[4] = 3
    assert "format version 3; this fastslow reads 1 and 2: upgrade" in refused(bytes(newer), model)


def test_huge_lengths_allocate_nothing(model: ExactModel) -> None:
    """Heads that promise gigabytes in front of a few bytes."""
    seed, most = zlib.crc32(container.FRONT), container.MAX_BLOCK
    heads = [
        container.Block(container.Kind.LZMA, most, most - 1, bytes(8)).to_bytes(seed),
        container.Block(container.Kind.MIXED, most, most - 1, bytes(8), lanes=1, text=most).to_bytes(seed),
        container.Block(container.Kind.RAW, most, most, bytes(8)).to_bytes(seed),
        container.Model(1 << 29, 1 << 29, bytes(8)).to_bytes(seed),
        container.End(1 << 61, bytes(8)).to_bytes(),
    ]
    tracemalloc.start()
    for head in heads:
        refused(container.FRONT + head + b"few", model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20


def test_a_bomb_of_lzma_stops_at_its_length(model: ExactModel) -> None:
    from fastslow.codec import plain

    payload = plain.pack(bytes(1 << 20))
    with pytest.raises(codec.FormatError, match=r"length of its lzma stream differs|damaged"):
        plain.unpack(payload, 5000)
    with pytest.raises(codec.FormatError):
        plain.unpack(payload + b"x", 1 << 20)
    with pytest.raises(codec.FormatError):
        plain.unpack(payload[:-1], 1 << 20)
    assert plain.unpack(payload, 1 << 20) == bytes(1 << 20)
