"""Commands that are given no model, and one by its name, with a model in the box and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastslow import CharLM
from fastslow.cli import main
from fastslow.codec.models import exact_model
from tests.cli.command import TEXT, TINY, error_of, output_of, save_model
from tests.lm.boxed import boxed_lm

NETWORK = ("--predictor", "network")
TOLD = "fastslow: model: english, the bundled model (4,620 weights)\n"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    """Output and messages of a command, which must succeed."""
    assert main([str(a) for a in arguments]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_score_takes_it_wherever_it_runs(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = ran(capsys, "score", text, "--json", *NETWORK)
    assert err == TOLD
    assert json.loads(out) == json.loads(output_of(capsys, "score", text, "--json", *NETWORK, "--model", "english"))
    save_model(Path("runs/new"))
    assert ran(capsys, "score", text, "--json", *NETWORK) == (out, TOLD)
    assert ran(capsys, "score", text, "--json", *NETWORK, "--model", "english") == (out, "")
    assert ran(capsys, "score", text, "--json", *NETWORK, "--model", "runs/new")[0] != out


def test_the_page_calls_it_by_its_name(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "score", text, "--html", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "english" in page
    assert str(box) not in page


def test_archives_of_it_need_no_name(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(Path("runs/new"))
    for options in ([], ["--weight-bits", "9"], ["--model", "english"]):
        out, err = ran(capsys, "compress", "-f", text, *options)
        assert (out, err) == ("", "" if "--model" in options else TOLD)
        assert ran(capsys, "decompress", "-f", f"{text}.fsz", "-o", "again") == ("", "")
        assert Path("again").read_bytes() == TEXT
    assert ran(capsys, "compress", "-q", "-f", text) == ("", "")
    archive = Path(f"{text}.fsz")
    assert "tables.txt.fsz" in ran(capsys, "decompress", "-l", archive)[0]
    archive.rename("renamed")
    assert ran(capsys, "decompress", "-t", "-v", "renamed")[1].endswith("renamed: OK\n")


def test_an_archive_of_a_run_still_finds_its_run(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(Path("runs/new"))
    ran(capsys, "compress", text, "--model", "runs/new")
    assert ran(capsys, "decompress", f"{text}.fsz", "-o", "again") == ("", "")
    assert Path("again").read_bytes() == TEXT


def test_a_file_of_its_name_is_in_nobodys_way(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("english").write_bytes(TEXT)
    for options in ([], ["--model", "english"]):
        ran(capsys, "compress", "-f", "english", *options)
        ran(capsys, "decompress", "english.fsz", "-f", "-o", "again")
        assert Path("again").read_bytes() == TEXT
    found = json.loads(output_of(capsys, "evaluate", "english", "--json"))
    assert found["text"]["name"] == "english"
    assert found["runs"] == ["english"]


def test_sample_prefers_what_was_trained_here(box: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ["--length", "30", "--seed", "3", "--backend", "reference"]

    def sampled(*names: str) -> tuple[bytes, bytes]:
        assert main(["sample", *names, *options]) == 0
        return capfdbinary.readouterr()

    boxed = sampled()
    assert boxed == (CharLM.from_pretrained(box, backend="reference").generate(b"", 30, seed=3), TOLD.encode())
    assert sampled("english") == (boxed[0], b"")
    save_model(Path("runs/new"))
    assert sampled()[1] == b"fastslow: no model was named: using the newest run, runs/new\n"


def test_evaluate_takes_its_name(box: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output_of(capsys, "evaluate", "english", text, "--json"))
    assert found["runs"] == ["english"]
    out, err = ran(capsys, "evaluate", text, "--json")
    assert (json.loads(out)["bpc"], err) == (found["bpc"], TOLD)
    save_model(Path("runs/new"))
    both = json.loads(output_of(capsys, "evaluate", "english", "runs/new", text, "--json"))
    assert (both["runs"], both["models"]) == (["english", "runs/new"], 2)
    wanted = "name a text to evaluate on: english, the bundled model, comes without the text it was trained on"
    assert error_of(capsys, "evaluate", "english") == wanted
    assert "--dynamic needs the gradient statistics" in error_of(capsys, "evaluate", "english", text, "--dynamic")


def test_info(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "info", "english")
    assert told.startswith("english\nbundled, 0.0 MB as 16-bit integers; archives identify it as ")
    assert f"model card: {box / 'README.md'}" in told
    found = json.loads(output_of(capsys, "info", "english", "--json"))
    assert found["bundled"]["archive_id"] == exact_model(boxed_lm()).id.hex()
    assert found["bundled"]["bytes"] == sum(path.stat().st_size for path in box.iterdir())
    assert found["parameters"] == 4620
    assert "bundled models: english (4,620 weights)" in output_of(capsys, "info")
    assert json.loads(output_of(capsys, "info", "--json"))["bundled"] == ["english"]


def test_errors_name_it(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "bundled: english" in error_of(capsys, "sample", "englis")
    save_model(Path("runs/new"))
    assert error_of(capsys, "sample", "englis").endswith("there are runs/new; bundled: english")


def test_a_damaged_one_is_one_line(
    box: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "box" / "english"
    damaged.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        data = (box / name).read_bytes()
        (damaged / name).write_bytes(data if name == "config.json" else data[:-3] + b"xyz")
    monkeypatch.setattr("fastslow.lm.packaged.models_folder", lambda: tmp_path / "box")
    assert main(["score", str(text)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == TOLD.strip()
    assert len(lines) == 2
    assert "is damaged: the checksum of its tensors does not match" in lines[1]


def test_without_a_box_all_is_as_before(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "no model was named and there is none in runs/: train one with `fastslow demo` or `fastslow train FILE`"
    for command in (["sample"], ["score", text], ["evaluate", text]):
        assert error_of(capsys, *command) == wanted
    assert main(["compress", str(text)]) == 1
    assert wanted in capsys.readouterr().err
    assert "there is no run english" in error_of(capsys, "sample", "english")
    assert "unknown preset 'english'" in error_of(capsys, "info", "english")
    assert "bundled models: none" in output_of(capsys, "info")
    output_of(capsys, "train", text, *TINY, "--max-updates", 3)
    assert ran(capsys, "score", text, "--top", "1")[1].startswith(
        "fastslow: no model was named: using the newest run, runs/"
    )
