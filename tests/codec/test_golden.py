"""Golden archives: today's program reads yesterday's bytes and writes the same ones; so does the restatement."""

from __future__ import annotations

import io

import pytest

from fastslow import codec
from fastslow.codec.container import Kind

from .golden.make import CASES, FOLDER, HAS_LZMA, models, texts
from .restatement import decode


@pytest.fixture(params=["compiled", "python"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code where there is a compiler, and the Python that does without one."""
    if request.param == "python":
        monkeypatch.setenv("FASTSLOW_NATIVE", "0")


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", CASES)
def test_it_is_read(name: str) -> None:
    model, text, _ = CASES[name]
    archive = (FOLDER / f"{name}.fsz").read_bytes()
    assert codec.decompress(archive, str(FOLDER / f"{model}.fsxm")) == texts()[text]


@pytest.mark.parametrize("name", CASES)
def test_the_restatement_reads_it(name: str) -> None:
    model, text, _ = CASES[name]
    archive = (FOLDER / f"{name}.fsz").read_bytes()
    assert decode(archive, (FOLDER / f"{model}.fsxm").read_bytes()) == texts()[text]


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", sorted(set(CASES) - HAS_LZMA))
def test_the_same_bytes_are_written(name: str) -> None:
    model, text, options = CASES[name]
    assert codec.compress(texts()[text], models()[model], **options) == (FOLDER / f"{name}.fsz").read_bytes()


@pytest.mark.parametrize("name", ["norm", "plain8"])
def test_models_are_the_same(name: str) -> None:
    assert models()[name].to_bytes() == (FOLDER / f"{name}.fsxm").read_bytes()


def test_every_kind_of_block_is_among_them() -> None:
    found = set()
    for name, (model, _, _) in CASES.items():
        reader = codec.ArchiveReader(io.BytesIO((FOLDER / f"{name}.fsz").read_bytes()), FOLDER / f"{model}.fsxm")
        list(reader.blocks())
        found |= {kind for kind, size in reader.summary.kinds.items() if size}
    assert found == {kind.name.lower() for kind in Kind}
