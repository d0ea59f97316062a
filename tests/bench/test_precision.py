"""The errors of products and the price of saving less, at sizes of no interest."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from fastslow.backends.native import call, window
from fastslow.backends.native.library import Library, library
from fastslow.bench import precision, tables
from fastslow.bench.probe import STATES, window_of
from tests.bench.test_measures import TINY

needs_library = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")


@needs_library
def test_fewer_parts_err_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(call.TILES, "0")
    before = torch.get_float32_matmul_precision()
    rows = list(precision.errors(TINY, lambda line: None))
    assert torch.get_float32_matmul_precision() == before
    assert os.environ[call.TILES] == "0"
    found = library()
    assert isinstance(found, Library)
    errors = {row["products"]: (row["output_error"], row["gradient_error"]) for row in rows}
    assert len(rows) == len(errors) == 2 + found.dots + 3 * found.tiles
    exact, rough = dict(list(errors.items())[:2]), {name: its for name, its in errors.items() if "bfloat16" in name}
    for error in exact.values():  # of the loop, and of multiply-adds
        assert 0 < max(error) < 1e-4
    if found.dots:
        assert 1e-4 < min(rough.pop("dot products of bfloat16 (medium)")) < 0.3
    if found.tiles:
        three, two, one = rough.values()
        assert max(three) < 1e-4
        for a, b, c in zip(three, two, one, strict=True):
            assert a < b < c < 0.3
    text = "\n".join(tables._precision({"errors": rows}))
    assert f"{rows[0]['gradient_error']:.1e}" in text


def test_nothing_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    said: list[str] = []
    assert not list(precision.errors(TINY, said.append))
    assert not list(precision.saving([TINY], 0.0, said.append))
    assert "FASTSLOW_NATIVE=0" in said[0]
    assert tables._precision({"errors": [], "saving": []}) == []


@needs_library
def test_saving_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def memory(name: str, shape: object) -> int:
        asked.append(name)
        return 1_000_000 if name == STATES else 4_000_000

    monkeypatch.setattr(precision, "memory", memory)
    rows = list(precision.saving([TINY, replace(TINY, name="tiny too")], 0.0, lambda line: None))
    assert [(row["shape"], row["saved"]) for row in rows] == [
        ("tiny", "all"),
        ("tiny", "states"),
        ("tiny too", "all"),
        ("tiny too", "states"),
    ]
    assert asked == ["native", STATES] * 2
    assert [row["of_all_bytes"] for row in rows[:2]] == [1.0, 0.25]
    assert "0.25" in "\n".join(tables._precision({"saving": rows}))


@needs_library
def test_the_window_that_saves_states_does() -> None:
    assert call._saving.get() == "all"
    seen: list[str] = []
    window_of("native", TINY)()  # the engine has checked itself by now
    with pytest.MonkeyPatch.context() as patch:
        describe = call.describe

        def spy(*args: object) -> call.Call:
            made = describe(*args)  # type: ignore[arg-type]
            seen.append(made.saving)
            return made

        patch.setattr(window, "describe", spy)
        window_of(STATES, TINY)()
        window_of("native", TINY)()
    assert list(dict.fromkeys(seen)) == ["states", "all"]
