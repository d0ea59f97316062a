from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.data.alphabet import Alphabet
from tests.cli.command import TEXT, error_of, output_of, save_model


def test_a_pipe_gets_every_line_and_the_sum(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output_of(capsys, "score", text, "--model", model).splitlines()
    lines = TEXT.decode().splitlines()
    assert sum(line[:5].strip().isdigit() for line in shown) == len(lines)
    assert "most surprising:" in shown
    assert shown[-1].startswith(f"{text}: ")
    assert f"bits per byte over {len(TEXT) - 1:,} of {len(TEXT):,} bytes, 120 lines" in shown[-1]


def test_top(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output_of(capsys, "score", text, "--model", model, "--top", 3).splitlines()
    assert len(shown) == 7
    assert all("expected" in row for row in shown[1:6:2])
    found = json.loads(output_of(capsys, "score", text, "-m", model, "--top", 3, "--json"))
    bits = [place["bits"] for place in found["places"]]
    assert bits == sorted(bits, reverse=True)
    every = json.loads(output_of(capsys, "score", text, "--model", model, "--json"))["characters"]
    assert bits == sorted((c["bits"] for c in every[1:]), reverse=True)[:3]
    place = found["places"][0]
    assert every[place["offset"]] == place


def test_lines(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output_of(capsys, "score", text, "--model", model, "--lines").splitlines()
    assert shown[0].endswith("│ 0 times 0 is 0")
    assert "most surprising:" in shown
    per_line = json.loads(output_of(capsys, "score", text, "--model", model, "--lines", "--json"))
    assert [r["line"] for r in per_line["per_line"]] == list(range(1, 121))
    best = output_of(capsys, "score", text, "--model", model, "--lines", "--top", 2, "--tsv")
    rows = list(csv.DictReader(io.StringIO(best), delimiter="\t"))
    means = sorted((r["mean"] for r in per_line["per_line"]), reverse=True)
    assert [float(r["mean"]) for r in rows] == means[:2]


def test_tsv_of_characters(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = output_of(capsys, "score", text, "--model", model, "--tsv").splitlines()
    assert len(rows) == len(TEXT) + 1


def test_standard_input(model: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]) -> None:
    stdin(TEXT)
    assert output_of(capsys, "score", "-", "--model", model, "--top", 1).splitlines()[-1].startswith("-: ")


def test_the_newest_run_is_taken_and_told(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, _ = save_model(Path("runs/old")), save_model(Path("runs/new"))
    os.utime(old / "model.safetensors", (1, 1))
    assert main(["score", str(text), "--top", "1"]) == 0
    assert capsys.readouterr().err == "fastslow: no model was named: using the newest run, runs/new\n"


def test_the_page(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "score", text, "--model", model, "--html", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert told.startswith(f"page.html: {len(page.encode()):,} bytes; ")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>tables.txt" in page
    assert str(model) in page
    assert "exists" in error_of(capsys, "score", text, "--model", model, "--html", "page.html")
    output_of(capsys, "score", text, "--model", model, "--html", "page.html", "--force")
    assert not list(Path().glob(".*.part"))


def test_bad_input(model: Path, text: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").touch()
    Path("one").write_bytes(b"a")
    score = ("score", "--model", model)
    assert error_of(capsys, *score, "empty") == "empty is empty: a text needs at least 2 bytes"
    assert "one is too short" in error_of(capsys, *score, "one")
    assert error_of(capsys, *score, "gone") == "cannot read gone: no such file or directory"
    assert "is a directory" in error_of(capsys, *score, elsewhere)
    assert error_of(capsys, *score, text, "--top", 0) == "--top must be at least 1; got 0"
    assert "not both" in error_of(capsys, *score, text, "--json", "--tsv")
    assert "leave out" in error_of(capsys, *score, text, "--html", "p.html", "--json")
    assert "there is no folder nowhere" in error_of(capsys, *score, text, "--html", "nowhere/p.html")
    assert "it is a folder" in error_of(capsys, *score, text, "--html", elsewhere)
    assert "there is none in runs/" in error_of(capsys, "score", text)
    assert "there is no run runs/gone" in error_of(capsys, "score", text, "--model", "runs/gone")
    assert "backend must be" in error_of(capsys, *score, text, "--backend", "quantum")
    assert "device 'abacus' cannot be used" in error_of(capsys, *score, text, "--device", "abacus")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text.chmod(0)
    assert "permission denied" in error_of(capsys, "score", text, "--model", model)


def test_a_byte_the_model_does_not_know(elsewhere: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = save_model(elsewhere / "narrow", Alphabet(b"abc"))
    message = error_of(capsys, "score", text, "--model", narrow)
    assert message.startswith(f"{text} has byte 0x30 '0' at offset 0, which is not among the 3 symbols")


def test_damaged_models(model: Path, text: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = elsewhere / "damaged"
    folder.mkdir()
    assert "it has no config.json" in error_of(capsys, "score", text, "--model", folder)
    config = (model / "config.json").read_text()
    (folder / "config.json").write_text(config)
    assert "holds no weights" in error_of(capsys, "score", text, "--model", folder)
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-100])
    assert "model.safetensors" in error_of(capsys, "score", text, "--model", folder)
    (folder / "config.json").write_text(config.replace('"format_version": 1', '"format_version": 2'))
    assert "newer" in error_of(capsys, "score", text, "--model", folder)
    (folder / "config.json").write_text(config[:-20])
    assert "is damaged" in error_of(capsys, "score", text, "--model", folder)
    assert "is not a folder" in error_of(capsys, "score", text, "--model", text)
