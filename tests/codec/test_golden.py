"""Golden archives: today's program reads yesterday's bytes and writes the same ones; so do the restatements."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest

from fastslow import codec
from fastslow.codec.container import Kind
from fastslow.codec.transforms import LINES, MARK, UTF16

from . import restatement, restatement2
from .golden.make import CASES, FOLDER, HAS_LZMA, OLD_CASES, OLD_TEXTS, models, texts

BRIEF = ("one", "neural-7-lanes", "unknown", "lines")
"""Enough of them for the Python that does without a compiler."""
QUICK = {"empty", "one", "neural-7-lanes", "plain8", "embedded", "binary", "unknown", "utf16", "repeats", "noise"}
"""Those that Python alone reads in about a second: of every kind of block and model, with transforms and without."""
QUICK_OLD = {"empty", "one", "text-1-lane", "escapes", "binary"}


def quick(names: Iterable[str], these: set[str] = QUICK) -> list[Any]:
    return [pytest.param(name, marks=() if name in these else pytest.mark.slow) for name in names]


def archive(name: str) -> bytes:
    return (FOLDER / f"{name}.fsz").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_it_is_read(name: str) -> None:
    model, text, _ = CASES[name]
    assert codec.decompress(archive(name), str(FOLDER / f"{model}.fsxm")) == texts()[text]


@pytest.mark.parametrize("name", quick(BRIEF))
def test_it_is_read_without_compiled_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    test_it_is_read(name)


@pytest.mark.parametrize("name", quick(CASES))
def test_the_restatement_reads_it(name: str) -> None:
    model, text, _ = CASES[name]
    assert restatement2.decode(archive(name), (FOLDER / f"{model}.fsxm").read_bytes()) == texts()[text]


@pytest.mark.parametrize("name", sorted(set(CASES) - HAS_LZMA))
def test_the_same_bytes_are_written(name: str) -> None:
    model, text, options = CASES[name]
    assert codec.compress(texts()[text], models()[model], **options) == archive(name)


@pytest.mark.parametrize("name", quick(("one", "lines", "unknown")))
def test_the_same_bytes_are_written_without_compiled_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    test_the_same_bytes_are_written(name)


@pytest.mark.parametrize("name", ["norm", "plain8"])
def test_models_are_the_same(name: str) -> None:
    assert models()[name].to_bytes() == (FOLDER / f"{name}.fsxm").read_bytes()


def test_an_archive_of_the_first_bundled_model_finds_it() -> None:
    """The model of version 0.1.0 stays in the package for the archives that were made with it."""
    text = b"It was the best of times, it was the worst of times; and every archive of it decodes.\n" * 3
    assert codec.decompress(archive("english-0.1")) == text


def test_every_kind_of_block_and_transform_is_among_them() -> None:
    entries = [entry for name in CASES for entry in codec.ArchiveReader(io.BytesIO(archive(name))).entries()]
    assert {entry.kind for entry in entries} == set(Kind)
    assert {entry.block.transforms for entry in entries} >= {0, LINES, UTF16 | MARK | LINES}  # type: ignore[union-attr]


# ---------------------------------------------------------------------- version 1


@pytest.fixture(params=["compiled", "python"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code where there is a compiler, and the Python that does without one."""
    if request.param == "python":
        monkeypatch.setenv("FASTSLOW_NATIVE", "0")


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", OLD_CASES)
def test_version_1_is_read(name: str) -> None:
    model, text = OLD_CASES[name]
    assert codec.decompress(archive(f"v1/{name}"), str(FOLDER / f"{model}.fsxm")) == OLD_TEXTS[text]


@pytest.mark.parametrize("name", quick(OLD_CASES, QUICK_OLD))
def test_the_restatement_reads_version_1(name: str) -> None:
    model, text = OLD_CASES[name]
    assert restatement.decode(archive(f"v1/{name}"), (FOLDER / f"{model}.fsxm").read_bytes()) == OLD_TEXTS[text]


def test_versions_may_follow_each_other() -> None:
    data = archive("v1/random-7-lanes") + archive("neural-7-lanes") + archive("v1/one") + archive("empty")
    text = OLD_TEXTS["random"] + texts()["norm"] + OLD_TEXTS["one"]
    assert codec.decompress(data, FOLDER / "norm.fsxm") == text


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_byte_of_version_1_is_noticed(every: int) -> None:
    """Of any eleven neighbours one, and one by one where there is more time."""
    data = archive("v1/random-blocks")
    for at in range(0, len(data), every):
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(codec.CodecError):
            codec.decompress(bytes(damaged), FOLDER / "norm.fsxm")
    for length in range(0, len(data), 2 * every):
        with pytest.raises(codec.CodecError):
            codec.decompress(data[:length], FOLDER / "norm.fsxm")


def test_float_archives_of_version_1_are_refused_in_a_sentence() -> None:
    import struct
    import zlib

    data = bytearray(archive("v1/one"))
    data[9] = 1
    size = struct.unpack_from("<I", data, 60)[0]
    struct.pack_into("<I", data, 72 + size, zlib.crc32(data[: 72 + size]))
    with pytest.raises(codec.FormatError, match="--float, --adapt or --online by fastslow"):
        codec.decompress(bytes(data))
