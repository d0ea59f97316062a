from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.data.alphabet import Alphabet
from fastslow.evaluation import evaluate
from fastslow.lm import CharLM
from tests.cli.command import TEXT as LONG
from tests.cli.command import TINY, error_of, output_of, save_model
from tests.lm.models import small_lm

REFERENCE = ("--backend", "reference")
TEXT = LONG[:400]


@pytest.fixture
def text(elsewhere: Path) -> Path:
    path = elsewhere / "tables.txt"
    path.write_bytes(TEXT)
    return path


def bpc(*folders: Path | str) -> float:
    return evaluate([CharLM.from_pretrained(folder, backend="reference") for folder in folders], TEXT).bpc


def test_a_model_on_a_text(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "evaluate", model, text, *REFERENCE).splitlines()
    assert told[0] == f"{bpc(model):.4f} bits per character on {text}"
    count = f"{len(TEXT) - 1:,} of {len(TEXT):,} symbols"
    assert told[1] == f"{count}: every symbol but the first, one continuous stream"
    found = json.loads(output_of(capsys, "evaluate", model, text, "--json", *REFERENCE))
    assert found["bpc"] == bpc(model)
    assert found["text"]["bytes"] == len(TEXT)
    assert found["runs"] == [str(model)]
    many = json.loads(output_of(capsys, "evaluate", model, text, "--json", "--streams", 8, "--warm", 4))
    assert (many["streams"], many["warm"], many["symbols"]) == (8, 4, len(TEXT) - 1)


def test_matrices_of_8_bits(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = CharLM.from_pretrained(model, backend="reference")
    lm.layer.round_to_int8_()
    rounded = evaluate([lm], TEXT).bpc
    found = json.loads(output_of(capsys, "evaluate", model, text, "--json", "--int8", *REFERENCE))
    assert found["bpc"] == pytest.approx(rounded, rel=1e-6)
    assert found["bpc_before_rounding"] == bpc(model) != rounded
    told = output_of(capsys, "evaluate", model, text, "--int8", *REFERENCE)
    assert f"8-bit matrices; {bpc(model):.4f} before, so rounding costs {rounded - bpc(model):+.5f}" in told
    assert "give only one of them" in error_of(capsys, "evaluate", model, text, "--int8", "--dynamic")


def test_several_models_are_an_ensemble(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_lm(3, alphabet=Alphabet.bytes()).save_pretrained("other")
    found = json.loads(output_of(capsys, "evaluate", model, "other", text, "--json", *REFERENCE))
    assert (found["bpc"], found["models"]) == (bpc(model, "other"), 2)
    narrow = save_model(Path("narrow"), Alphabet.of(TEXT))
    assert "different alphabets" in error_of(capsys, "evaluate", model, narrow, text)


def test_a_run_is_evaluated_on_the_text_it_kept_aside(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text.write_bytes(LONG)
    assert "test: " in output_of(capsys, "train", text, *TINY, "--max-updates", 5, "--test-streams", 1)
    result = json.loads(Path("runs/tables/result.json").read_text())
    for arguments in (["runs/tables"], []):
        found = json.loads(output_of(capsys, "evaluate", *arguments, "--json", *REFERENCE))
        assert found["bpc"] == pytest.approx(result["test"]["bpc"], rel=1e-6)
    arguments = ["runs/tables", "--part", "valid", "--streams", "64", "--json"]
    found = json.loads(output_of(capsys, "evaluate", *arguments, *REFERENCE))
    assert found["bpc"] == pytest.approx(result["best_bpc"], rel=1e-6)
    text.write_bytes(LONG + b"more")
    assert "has changed since it was trained" in error_of(capsys, "evaluate", "runs/tables")


def test_standard_input(model: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]) -> None:
    stdin(TEXT)
    assert "bits per character on -" in output_of(capsys, "evaluate", model, "-")


def test_bad_input(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").touch()
    assert "empty is empty" in error_of(capsys, "evaluate", model, "empty")
    assert error_of(capsys, "evaluate", model, "gone.txt") == "cannot read gone.txt: no such file or directory"
    assert "there is no run nothing" in error_of(capsys, "evaluate", "nothing", text)
    assert "there is neither a run nor a text runs/nothing" in error_of(capsys, "evaluate", "runs/nothing")
    assert "there is none in runs/" in error_of(capsys, "evaluate")
    assert "there is none in runs/" in error_of(capsys, "evaluate", text)
    assert "name a text to evaluate on" in error_of(capsys, "evaluate", model)
    assert "--streams must be at least 1" in error_of(capsys, "evaluate", model, text, "--streams", 0)
    assert "--warm must be at least 0" in error_of(capsys, "evaluate", model, text, "--warm", -1)
    assert "--protocol needs a corpus" in error_of(capsys, "evaluate", model, text, "--protocol", "char")
    narrow = save_model(Path("narrow"), Alphabet(b"abc"))
    assert "0x30 '0' at offset 0" in error_of(capsys, "evaluate", narrow, text)


def test_line_ends_and_encodings_do_not_change_the_figure(
    model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(output_of(capsys, "evaluate", model, text, "--json"))
    assert "file_bytes" not in plain
    raw = text.read_bytes()
    Path("crlf").write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"))
    Path("wide").write_bytes(raw.decode().encode("utf-16"))
    for name, size in (("crlf", 3 + len(raw) + raw.count(b"\n")), ("wide", 2 + 2 * len(raw))):
        found = json.loads(output_of(capsys, "evaluate", model, name, "--json"))
        assert (found["nats"], found["text"]["sha256"]) == (plain["nats"], plain["text"]["sha256"])
        assert found["file_bytes"] == size
        scored = size - 4  # less the mark and the first character
        assert found["bits_per_file_byte"] == pytest.approx(found["nats"] / math.log(2) / scored)
    assert main(["evaluate", str(model), "crlf"]) == 0
    told = capsys.readouterr()
    assert "bits per byte of the file, which has a byte-order mark with CRLF line ends" in told.out
    assert "it is read as UTF-8 with LF line ends (--raw keeps its bytes)" in told.err
    kept = json.loads(output_of(capsys, "evaluate", model, "crlf", "--raw", "--json"))
    assert kept["symbols"] == 2 + len(raw) + raw.count(b"\n")
