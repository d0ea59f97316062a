from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastslow.backends import ENGINES
from fastslow.lm import CharLM
from fastslow.training import PRESETS
from tests.cli.command import TINY, error_of, output_of


def test_the_installation(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CharLM.from_pretrained(model).save_pretrained("runs/mine")
    told = output_of(capsys, "info", "--device", "cpu")
    assert told.startswith("fastslow ")
    for name in (*ENGINES, *PRESETS):
        assert f"{name} " in told
    assert "ending in -cpu,\nby our recipe for CPUs. ptb-cpu and ptb-cpu-* are small networks" in told
    assert "runs: runs/mine" in told
    found = json.loads(output_of(capsys, "info", "--device", "cpu", "--json"))
    assert list(found["engines"]) == list(ENGINES)
    assert found["engines"]["reference"] == "runs"
    assert found["engines"]["triton"].startswith("no: ")
    assert found["presets"]["ptb-fs-lstm-2"]["parameters"] == 7_225_050


@pytest.mark.parametrize(("preset", "parameters"), [("ptb-fs-lstm-2", "7,225,050"), ("ptb-fs-lstm-4", "6,561,050")])
def test_the_presets_of_the_paper(preset: str, parameters: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "info", preset, "--device", "cpu")
    assert f"{parameters} parameters" in told
    assert "engine, training on cpu: " in told
    assert "training: 128 streams x 150 steps, Adam at 0.002 (step), clip 1; at most 200 epochs" in told


def test_a_preset_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output_of(capsys, "info", "ptb-fs-lstm-2", "--json", "--device", "cpu"))
    assert [node["reads"] for node in found["wiring"]] == ["x", "fast.0", "slow"]
    assert [node["size"] for node in found["wiring"]] == [700, 400, 700]
    assert found["training_bytes"]["weights_gradients_adam"] == 16 * 7_225_050
    cells = sum(node["parameters"] for node in found["wiring"])
    assert cells + 50 * 128 + 50 * 701 == found["parameters"]
    large = json.loads(output_of(capsys, "info", "enwik8-fs-lstm-4-large", "--json", "--device", "cpu"))
    assert large["wiring"][-1]["reads"] is None


def test_a_run_and_a_model(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "info", model)
    assert f"{CharLM.from_pretrained(model).num_parameters:,} parameters" in told
    assert "training:" not in told
    output_of(capsys, "train", text, *TINY, "--max-updates", 5)
    told = output_of(capsys, "info", "runs/tables")
    assert "started 20" in told
    assert "finished after 5 training steps" in told
    assert "  train  1,703 bytes of " in told
    Path("runs/tables/result.json").unlink()
    assert "not finished: `fastslow train --resume" in output_of(capsys, "info", "runs/tables")


def test_bad_input(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "info", "ptb-fs-lstm").startswith("unknown preset 'ptb-fs-lstm': did you mean")
    assert "there is no run runs/gone" in error_of(capsys, "info", "runs/gone")
    assert "it has no config.json" in error_of(capsys, "info", elsewhere)
    assert "device 'abacus' cannot be used" in error_of(capsys, "info", "--device", "abacus")
