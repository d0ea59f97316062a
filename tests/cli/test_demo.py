from __future__ import annotations

import bz2
import json
import lzma
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fastslow.cli import demo as demo_command
from fastslow.cli import main, progress
from fastslow.cli.progress import TrainingView
from fastslow.data.text import Splits, Text, split_fractions
from fastslow.lm import ModelOptions
from fastslow.training import PRESETS, TrainConfig, sources
from fastslow.training import presets as presets_module
from fastslow.training.events import Event, Updated
from tests.cli.command import TINY, error_of, output_of

TEXT = b"def add(a, b):\n    return a + b\n\n\n" * 300


@pytest.fixture(autouse=True)
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of a second: a short library, a small network."""
    recipe = TrainConfig(
        batch=4, window=16, epochs=1, max_updates=20, validate_every=10, rate=1e-2, test_streams=4, tensorboard=False
    )
    model = ModelOptions(embedding_size=6, hidden_size=8, slow_size=5)
    small = replace(PRESETS["demo"], model=model, train=recipe)
    monkeypatch.setitem(presets_module.PRESETS, "demo", small)

    def splits() -> Splits:
        return split_fractions(Text.of(TEXT, "library"), 0.9, 0.05, 0.05)

    monkeypatch.setattr(sources, "stdlib_splits", splits)


def test_the_demo_shows_what_it_promises(capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "demo")
    test = TEXT[int(0.95 * len(TEXT)) :]
    assert f"On the last {len(test)} bytes, which the model has not seen:" in told
    for name, size in (("xz -9", len(lzma.compress(test, preset=9))), ("bzip2 -9", len(bz2.compress(test, 9)))):
        row = next(line for line in told.splitlines() if line.startswith(name))
        assert row.split()[2:] == [f"{8 * size / len(test):.3f}", str(size), "bytes"]
    result = json.loads(Path("runs/demo/result.json").read_text())
    row = next(line for line in told.splitlines() if line.startswith("this model"))
    assert row.split()[2] == f"{result['test']['bpc']:.3f}"
    assert "A sample, after 'def ':\ndef " in told
    assert "retrun [line.strip()" in told
    assert "The run is saved in runs/demo" in told
    assert "fastslow sample runs/demo" in told


def test_the_model_in_the_box_reads_a_sentence(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "demo", "--out", "d").splitlines()
    at = told.index("The bundled model, english (4,620 weights), scores a sentence (--say for your own):")
    assert told[at + 2].endswith(demo_command.SENTENCE)
    assert any(character.isdigit() or character == "#" for character in told[at + 3])  # random weights: all surprises
    mine = output_of(capsys, "demo", "--out", "d", "--say", "né so").splitlines()
    assert mine[mine.index(told[at]) + 2].endswith("│ né so")
    assert error_of(capsys, "demo", "--say", "x") == "--say takes a sentence of at least 2 bytes; got 'x'"


def test_without_a_box_no_sentence_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bundled model" not in output_of(capsys, "demo", "--out", "d")
    assert error_of(capsys, "demo", "--say", "A sentence.", "--out", "e") == (
        "--say needs the bundled model, and this installation has none"
    )
    assert not Path("e").exists()


def test_a_finished_demo_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "demo", "--out", "d")
    first = json.loads(Path("d/run.json").read_text())
    assert main(["demo", "--out", "d", "--max-time", "1h"]) == 0
    assert "fastslow: replacing the finished demo in d" in capsys.readouterr().err
    second = json.loads(Path("d/run.json").read_text())
    assert len(second["sessions"]) == len(first["sessions"]) == 1
    assert second["train"]["max_time"] == 3600


def test_an_unfinished_demo_is_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "demo", "--out", "d")
    Path("d/result.json").unlink()
    assert main(["demo", "--out", "d"]) == 0
    assert "fastslow: continuing the unfinished demo in d" in capsys.readouterr().err
    assert len(json.loads(Path("d/run.json").read_text())["sessions"]) == 2


def test_what_the_demo_did_not_make_it_leaves_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t").write_bytes(TEXT)
    output_of(capsys, "train", "t", *TINY, "--max-updates", 3, "--out", "d")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in Path("d").iterdir())
    assert "d holds another run" in error_of(capsys, "demo", "--out", "d")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in Path("d").iterdir()) == before
    Path("e").mkdir()
    Path("e/mine").touch()
    assert main(["demo", "--out", "e"]) == 2
    assert "is not empty and not a run folder" in capsys.readouterr().err
    assert error_of(capsys, "demo", "--max-time", "soon").startswith("a duration must be like 90m")


def test_the_typing_errors_are_in_the_code_it_reads() -> None:
    assert b"retrun" in demo_command.JUDGED
    assert b"flie" in demo_command.JUDGED


def test_an_interrupted_demo_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(TrainingView):
        def __call__(self, event: Event) -> None:
            if isinstance(event, Updated) and event.update == 5:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress, "TrainingView", Impatient)
    assert main(["demo"]) == 130
    told = capsys.readouterr().err
    assert told == "fastslow: stopped after training step 5, saved in runs/demo; `fastslow demo` continues\n"
    assert main(["demo", "--out", "d"]) == 130
    assert "`fastslow demo --out d` continues" in capsys.readouterr().err
