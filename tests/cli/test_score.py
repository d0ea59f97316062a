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
    alone = ("--predictor", "network")
    shown = output_of(capsys, "score", text, "--model", model, "--top", 3, *alone).splitlines()
    assert len(shown) == 7
    assert all("expected" in row for row in shown[1:6:2])
    found = json.loads(output_of(capsys, "score", text, "-m", model, "--top", 3, "--json", *alone))
    bits = [place["bits"] for place in found["places"]]
    assert bits == sorted(bits, reverse=True)
    every = json.loads(output_of(capsys, "score", text, "--model", model, "--json", *alone))["characters"]
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
    assert main(["score", str(text), "--top", "1", "--predictor", "network"]) == 0
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
    assert message.startswith(f"{text} has byte 0x30 '0' at offset 0, which is not one of the 3 symbols")


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


def changed(raw: bytes, form: str) -> bytes:
    crlf = raw.replace(b"\n", b"\r\n")
    return {"crlf": crlf, "bom": b"\xef\xbb\xbf" + raw, "utf-16": crlf.decode().encode("utf-16")}[form]


@pytest.mark.parametrize("form", ["crlf", "bom", "utf-16"])
def test_line_ends_and_encodings(model: Path, text: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(output_of(capsys, "score", text, "-m", model, "--json"))
    raw = changed(TEXT, form)
    Path("changed").write_bytes(raw)
    assert main(["score", "changed", "-m", str(model), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "it is read as UTF-8 with LF line ends" in told.err
    keys = ("line", "column", "text", "bits", "expected")
    assert [[c[k] for k in keys] for c in found["characters"]] == [[c[k] for k in keys] for c in plain["characters"]]
    unit = 2 if form == "utf-16" else 1
    for char in found["characters"]:
        size = 2 if char["text"] == "\n" and form != "bom" else 1
        shown = raw[char["offset"] : char["offset"] + size * unit].decode("utf-16-le" if unit == 2 else "utf-8")
        assert shown.replace("\r", "") == char["text"]
    assert found["totals"]["bytes"] == len(raw)
    mark = {"crlf": 0, "bom": 3, "utf-16": 2}[form]
    assert found["totals"]["scored"] == len(raw) - mark - unit
    bits = plain["totals"]["bits_per_byte"] * plain["totals"]["scored"]
    assert found["totals"]["bits_per_byte"] * found["totals"]["scored"] == pytest.approx(bits, rel=1e-3)
    per_line = json.loads(output_of(capsys, "score", "changed", "-m", model, "--lines", "--json"))["per_line"]
    assert sum(line["bytes"] for line in per_line) == found["totals"]["scored"]
    assert "; the file has " in output_of(capsys, "score", "changed", "-m", model, "--top", 1)
    output_of(capsys, "score", "changed", "-m", model, "--html", "page.html")
    assert "it was read as UTF-8 with LF line ends" in Path("page.html").read_text(encoding="utf-8")


def test_raw_keeps_every_byte(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("crlf").write_bytes(b"ab\r\ncd\r\n")
    assert main(["score", "crlf", "-m", str(model), "--raw", "--json"]) == 0
    told = capsys.readouterr()
    assert "it is read as" not in told.err
    assert [c["text"] for c in json.loads(told.out)["characters"]] == list("ab\r\ncd\r\n")


def test_mixed_line_ends_stay(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").write_bytes(b"ab\r\ncd\n")
    found = json.loads(output_of(capsys, "score", "mixed", "-m", model, "--json"))
    assert [c["text"] for c in found["characters"]] == list("ab\r\ncd\n")
    assert "form" not in found


def test_the_predictor_is_told(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastslow.mixing")
    score = ("score", text, "-m", model)
    alone = json.loads(output_of(capsys, *score, "--predictor", "network", "--json"))
    mixed = json.loads(output_of(capsys, *score, "--predictor", "mixed", "--json"))
    assert (alone["predictor"], mixed["predictor"]) == ("network", "mixed")
    # The tables come again and again: contexts that learn know them, a network of random weights does not.
    assert mixed["totals"]["bits_per_byte"] < alone["totals"]["bits_per_byte"] / 2
    assert len(mixed["characters"]) == len(alone["characters"])
    last, expected = mixed["characters"][-1], mixed["characters"][-1]["expected"]
    assert expected[0][0] == last["text"]
    assert expected[0][1] > 0.9 > alone["characters"][-1]["expected"][0][1]
    assert "; by the network mixed with contexts" in output_of(capsys, *score, "--predictor", "mixed", "--top", 1)
    output_of(capsys, *score, "--predictor", "mixed", "--html", "page.html")
    assert "Predicted by the network mixed with contexts" in Path("page.html").read_text(encoding="utf-8")
    output_of(capsys, *score, "--predictor", "network", "--html", "page.html", "--force")
    assert "Predicted by the network alone." in Path("page.html").read_text(encoding="utf-8")
    lines = [
        json.loads(output_of(capsys, *score, "--predictor", name, "--lines", "--json"))["per_line"]
        for name in ("network", "mixed")
    ]
    assert lines[0][-1]["mean"] > 2 * lines[1][-1]["mean"]
    assert "leave out --words" in error_of(capsys, *score, "--predictor", "mixed", "--words")
