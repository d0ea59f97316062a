"""`experiments/english.py` from the corpus to a packaged model, with a network of a second."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastslow import CharLM, codec
from fastslow.codec.models import CodecModel
from fastslow.data.alphabet import Alphabet
from fastslow.data.text import Text
from fastslow.evaluation import evaluate
from fastslow.lm import parameter_count
from tests.lm.models import small_lm

TEXT = b"".join(b"It was the %dth of %d mornings.\n" % (i % 17, i % 29) for i in range(300))
VALID = TEXT[2000::-1]
BOOK = TEXT[4000:5500]
BOOKS = """gutenberg_id\ttitle\tauthor\tbytes\tsha256\tsplit
12\tA "Quoted" Title\tSomebody Known\t10\t00\ttrain
33\tWar Or Peace\tTolstoy\t10\t00\ttrain
34\tAnother\tNobody\t10\t00\tvalid
56\tKept Aside\tA Third\t10\t00\ttest
"""
SMALL = ["--hidden", "8", "--slow", "5", "--embedding", "4", "--batch", "4", "--window", "8"]


@pytest.fixture(scope="module")
def english() -> Any:
    from experiments import english

    return english


@pytest.fixture(autouse=True)
def quick(english: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nine updates a run, one thread, no zpaq."""
    recipe = replace(english.RECIPE, max_updates=9, precision="fp32", valid_streams=4, tensorboard=False, warmup=1)
    monkeypatch.setattr(english, "RECIPE", recipe)
    rivals = [
        SimpleNamespace(name=name, needs="", pack=zlib.compress, unpack=zlib.decompress) for name in english.RIVALS
    ]
    rivals[1].needs = "nothing that is here"
    bench = SimpleNamespace(RIVALS=rivals, available=lambda rival: not rival.needs)
    monkeypatch.setattr(english, "benchmark", lambda: bench)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for part, text in (("train", TEXT), ("valid", VALID)):
        (folder / f"{part}.txt.xz").write_bytes(lzma.compress(text))
    (folder / "books.tsv").write_text(BOOKS, encoding="utf-8")
    return folder


@pytest.fixture
def run(english: Any, data: Path) -> Path:
    assert english.main(["train", "--data", str(data), "--minutes", "1", "--validate-every", "5", *SMALL]) == 0
    return Path("runs/english/model")


def failed(english: Any, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert english.main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("english: error: ")


def test_every_pilot_is_of_one_size(english: Any) -> None:
    for name, make in english.PILOTS.items():
        pilot = make()
        count = parameter_count(pilot.model.with_alphabet(Alphabet.bytes()))
        assert abs(count / english.WEIGHTS - 1) < 0.025, name
        replace(english.RECIPE, **pilot.changes)
    model = english.PILOTS["fs2"]().model
    assert (model.hidden_size, model.slow_size) == (352, 192)


def test_the_training_text_can_be_augmented(english: Any, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert english.main(["texts", "--data", str(data)]) == 0
    plain = Path("runs/english/corpus/train.txt").read_bytes()
    assert english.main(["texts", "--data", str(data), "--augment", "2"]) == 0
    told = capsys.readouterr().out
    made = Path("runs/english/corpus/train-augmented-2.txt")
    assert made.read_bytes() == english.augmented_pieces(plain, 2)[0]
    assert f"train: {made}" in told
    assert "valid: runs/english/corpus/valid.txt" in told
    command = ["train", "--data", str(data), "--minutes", "1", "--validate-every", "5", "--augment", "2", *SMALL]
    assert english.main(command) == 0
    record = json.loads(Path("runs/english/model/run.json").read_text())
    assert record["data"]["train"]["bytes"] == made.stat().st_size


def test_dry_runs_say_what_it_costs_and_do_nothing(
    english: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert english.main(["pilots", "--data", str(data), "--minutes", "6", "--dry-run"]) == 0
    assert (
        "11 pilots of 6 minutes on one core, 0 of them complete; about 1.4 hours, and 330 MB" in capsys.readouterr().out
    )
    assert english.main(["train", "--minutes", "90", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("fs-lstm-2 352/192, 1,835,520 weights, 3.7 MB packaged; 90 minutes of this machine's ")
    assert not (tmp_path / "runs").exists()


def test_pilots_and_their_table(
    english: Any, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("fs2", 8), ("stacked1", 9)):
        model = english.PILOTS[name]().model
        small = replace(model, hidden_size=size, slow_size=model.slow_size and 5, embedding_size=4)
        pilot = english.Pilot(small, {"batch": 4, "window": 8})
        monkeypatch.setitem(english.PILOTS, name, lambda pilot=pilot: pilot)
    arguments = ["pilots", "--data", str(data), "--only", "fs2", "stacked1"]
    assert english.main(arguments) == 0
    rows = json.loads(Path("runs/english/pilots.json").read_text())["runs"]
    assert {row["run"] for row in rows} == {"pilot-fs2", "pilot-stacked1"}
    assert rows[0]["valid_bpc"] <= rows[1]["valid_bpc"]
    assert all(row["updates"] == 9 and row["characters"] == 9 * 32 for row in rows)
    assert Path("runs/english/corpus/valid.txt").read_bytes() == VALID
    told = Path("runs/english/pilots.md").read_text()
    assert "| pilot-stacked1 | stacked-1 9 |" in told
    assert "4 x 8 | 9 | 288 |" in told
    capsys.readouterr()
    assert english.main(arguments) == 0  # complete: only the table
    assert capsys.readouterr().out.startswith(
        "2 pilots of 2.5 minutes on one core, 2 of them complete; about 0.0 hours"
    )
    Path("runs/english/pilot-fs2/result.json").unlink()
    assert english.main(["pilots", "--table", *map(str, Path("runs/english").glob("p*")), "--out", "other"]) == 0
    assert Path("other/pilots.md").read_text().splitlines()[-1].endswith("(not complete) |")


def test_training_goes_on_and_ends(english: Any, run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "model.safetensors").read_bytes()
    assert english.main(["train", "--data", str(data), "--minutes", "1", *SMALL]) == 0
    assert capsys.readouterr().out.endswith("model is complete\n")
    assert (run / "model.safetensors").read_bytes() == before


def test_marks_and_the_package(
    english: Any, run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(BOOK)
    arguments = ["marks", str(run), "--data", str(data), "--book", str(book)]
    assert english.main([*arguments, "--dry-run"]) == 0
    assert "24 of 24 figures to measure; very roughly 0.0 hours" in capsys.readouterr().out
    assert english.main([*arguments, "--kinds", "exact", "--limit", "1500"]) == 0
    assert english.main(arguments) == 0
    record = json.loads(Path("runs/english/marks.json").read_text())
    row = record["texts"]["book, whole"]
    assert row["bytes"] == len(BOOK)
    assert row["exact"]["bits"] == 8 * row["exact"]["size"] / row["bytes"]
    boxed = CodecModel("english", lm=CharLM.from_pretrained(run))
    assert row["exact"]["size"] == len(codec.compress(BOOK, boxed))
    assert abs(row["static"]["bits"] - evaluate(boxed.lm, Text.of(BOOK, "book")).bpc) < 1e-3
    assert list(record["texts"])[-1] == "book, whole"
    assert row["xz -9e"]["size"] == len(zlib.compress(BOOK))
    assert row["zpaq -m5"] == {"why": "nothing that is here is not installed"}
    told = Path("runs/english/marks.md").read_text()
    assert f"| book, whole | {len(BOOK):,} | {row['static']['bits']:.3f} | {row['exact']['bits']:.3f} |" in told
    assert f"| {row['exact']['size']:,} | {row['exact']['size'] + record['model_bytes']:,} |" in told
    assert "zpaq" not in told
    capsys.readouterr()
    assert english.main(arguments) == 0  # everything is measured
    assert capsys.readouterr().out.startswith("0 of 24 figures to measure")

    target = tmp_path / "box" / "english"
    package = ["package", str(run), "--data", str(data), "--to", str(target)]
    assert english.main([*package, "--dry-run"]) == 0
    assert not target.exists()
    assert english.main(package) == 0
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (target / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\nlibrary_name: fastslow\nlicense: apache-2.0\nmetrics:\n- bpc\n")
    assert f"value: {record['texts']['book, whole']['static']['bits']:.3f}".rstrip("0") in card
    assert record["archive_id"] in card
    assert told.rstrip() in card
    assert "; its author also wrote War Or Peace, which are in the training text." in card
    assert "fs-lstm-2 8/5" in card
    assert '- A "Quoted" Title, Somebody Known (12)' in card
    assert "Kept Aside" not in card
    assert "9 training steps, 288 characters" in card
    assert "    python -m experiments.english" in card
    assert str(tmp_path) not in card
    archive = codec.compress(TEXT, run)
    assert codec.decompress(archive, target) == TEXT
    assert english.main(["marks", str(target), "--data", str(data), "--book", str(book), "--dry-run"]) == 0
    assert "0 of 24 figures" in capsys.readouterr().out.splitlines()[-1]

    small_lm(4, alphabet=Alphabet.bytes()).save_pretrained("other")
    told = failed(english, capsys, "package", run, "--data", data, "--to", target, "--marks", "runs/english/none.json")
    assert "cannot read the marks" in told
    assert "has the marks of another model" in failed(english, capsys, "marks", "other", "--data", data)


def test_the_card_without_marks_says_so(
    english: Any, run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert english.main(["package", str(run), "--data", str(data), "--to", "box"]) == 0
    assert capsys.readouterr().out.endswith("without marks: measure them and package it again\n")
    assert "\nNot measured.\n" in Path("box/README.md").read_text(encoding="utf-8")
    assert CharLM.from_pretrained("box").num_parameters == CharLM.from_pretrained(run).num_parameters


def test_what_is_missing_is_one_line(
    english: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(english, capsys, "pilots") == (
        "name the folder of the corpus with --data: it holds train.txt.xz and valid.txt.xz"
    )
    assert "there is no pilot fs3; there are fs2, " in failed(english, capsys, "pilots", "--only", "fs3")
    assert failed(english, capsys, "train", "--data", tmp_path).endswith("holds neither train.txt nor train.txt.xz")
    small_lm(4, alphabet=Alphabet.bytes()).save_pretrained("m")
    assert "books.tsv with --data" in failed(english, capsys, "package", "m", "--to", "box")
    (data / "books.tsv").write_text("id\ttitle\n1\tx\n")
    assert "has no column gutenberg_id" in failed(english, capsys, "package", "m", "--data", data, "--to", "box")
    assert not Path("box").exists()
    assert "there is no model nothing" in failed(english, capsys, "marks", "nothing", "--data", data)


def test_absolute_paths_of_a_command_are_cut(english: Any) -> None:
    cut = english.without_folders("fastslow train /a/b/train.txt --valid=/c/valid.txt --out runs/x --decay 1/2")
    assert cut == "fastslow train train.txt --valid=valid.txt --out runs/x --decay 1/2"
