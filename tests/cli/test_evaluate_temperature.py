from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import TEXT, TINY, error_of, output_of

REFERENCE = ("--backend", "reference")


def test_a_temperature_fitted_on_the_runs_validation_text(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", text, *TINY, "--max-updates", 5, "--out", "runs/a")
    plain = json.loads(output_of(capsys, "evaluate", "runs/a", "--json", *REFERENCE))
    given = ["evaluate", "runs/a", "--fit-temperature", "valid", *REFERENCE]
    found = json.loads(output_of(capsys, *given, "--json"))
    tempered = found.pop("tempered")
    assert found["bpc"] == plain["bpc"] != tempered["bpc"]
    assert tempered["symbols"] == found["symbols"]
    fit = tempered["fit"]
    assert fit["bpc"] < fit["bpc_at_1"]
    assert fit["text"]["sha256"] != found["text"]["sha256"]
    told = output_of(capsys, *given)
    assert f"at temperature {tempered['temperature']:.3f}, fitted on " in told
    assert f": {tempered['bpc']:.4f} bits per character" in told
    two = json.loads(output_of(capsys, "evaluate", "runs/a", "runs/a", "--fit-temperature", text, "--json", *REFERENCE))
    assert two["tempered"]["models"] == 2
    assert two["tempered"]["fit"]["symbols"] == len(TEXT) - 1


def test_bad_input(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", model, text, "--fit-temperature"]
    assert "give only one of them" in error_of(capsys, *given, "valid", "--dynamic")
    assert "needs such a text: " in error_of(capsys, *given, "valid")
    assert "is the text to evaluate" in error_of(capsys, *given, text)
    assert "cannot read gone.txt" in error_of(capsys, *given, "gone.txt")
