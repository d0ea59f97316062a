"""`experiments.english` from the corpus to a packaged model, with a network of a second."""

from __future__ import annotations

import json
import lzma
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiments.english.card import without_folders
from experiments.english.corpus import BETWEEN

from fastslow import CharLM, codec
from fastslow.codec.models import CodecModel
from fastslow.data.alphabet import Alphabet
from fastslow.data.augment import augmented_pieces
from fastslow.data.text import Text
from fastslow.evaluation import evaluate
from tests.lm.models import small_lm

TEXT = b"".join(b"It was the %dth of %d mornings.\n" % (i % 17, i % 29) for i in range(300))
VALID = TEXT[2000::-1]
BOOK = TEXT[4000:5500]
CODE = b"def f(x):\n    return x\n" * 9
MAIL = [b"From: one\n\nHello.", b"From: two\n\nGoodbye."]
DOC = b"Title\n=====\n\nText."
BOOKS = """gutenberg_id\ttitle\tauthor\tbytes\tsha256\tsplit
12\tA "Quoted" Title\tSomebody Known\t10\t00\ttrain
33\tWar Or Peace\tTolstoy\t10\t00\ttrain
34\tAnother\tNobody\t10\t00\tvalid
56\tKept Aside\tA Third\t10\t00\ttest
"""
SMALL = ["--hidden", "8", "--slow", "5", "--embedding", "4", "--batch", "4", "--window", "8", "--updates", "9"]


@pytest.fixture(scope="module")
def english() -> Any:
    from experiments.english import __main__ as english

    return english


@pytest.fixture(autouse=True)
def quick(english: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, no zpaq."""
    recipe = replace(english.training.RECIPE, precision="fp32", valid_streams=4, tensorboard=False, warmup=1)
    monkeypatch.setattr(english.training, "RECIPE", recipe)
    rivals = [
        SimpleNamespace(name=name, needs="", pack=zlib.compress, unpack=zlib.decompress)
        for name in english.marks.RIVALS
    ]
    rivals[1].needs = "nothing that is here"
    bench = SimpleNamespace(RIVALS=rivals, available=lambda rival: not rival.needs)
    monkeypatch.setattr(english.marks, "benchmark", lambda: bench)
    source = SimpleNamespace(test=Text.of(CODE, "code"))
    monkeypatch.setattr(english.marks, "stdlib_splits", lambda: source)
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
def kinds(tmp_path: Path) -> Path:
    """A corpus as `experiments.kinds` writes it."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    valid = [("mail", MAIL[0]), ("documentation", DOC), ("mail", MAIL[1])]
    (folder / "train.txt").write_bytes(TEXT + CODE)
    (folder / "valid.txt").write_bytes(BETWEEN.join(text for _, text in valid))
    rows = [f"{kind}\ts\tp\t{len(text)}\t00\tvalid" for kind, text in valid]
    rows.insert(1, "code\ts\tp\t9\t00\ttrain")
    (folder / "documents.tsv").write_text("\n".join(["kind\tsource\tpath\tbytes\tsha256\tpart", *rows]) + "\n")
    source = {"kind": "mail", "source": "letters", "licence": "CC0-1.0", "from": "-", "documents": 2, "bytes": 36}
    (folder / "sources.json").write_text(json.dumps({"sources": [source]}))
    return folder


@pytest.fixture
def run(english: Any, data: Path) -> Path:
    assert english.main(["train", "--data", str(data), "--validate-every", "5", *SMALL]) == 0
    return Path("runs/english/model")


def failed(english: Any, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert english.main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("english: error: ")


def test_the_training_text_can_be_augmented(
    english: Any, data: Path, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert english.main(["text", "--data", str(data)]) == 0
    assert Path("runs/english/corpus/train.txt").read_bytes() == TEXT
    assert english.main(["text", "--data", str(data), "--kinds", str(kinds), "--augment", "2"]) == 0
    printed = capsys.readouterr().out
    made = Path("runs/english/corpus/train-augmented-2.txt")
    assert made.read_bytes() == augmented_pieces(TEXT + CODE, 2)[0]
    assert f"train: {made}" in printed
    assert "valid: runs/english/corpus/valid.txt" in printed
    command = ["train", "--data", str(data), "--kinds", str(kinds), "--augment", "2", *SMALL]
    assert english.main(command) == 0
    record = json.loads(Path("runs/english/model/run.json").read_text())
    assert record["data"]["train"]["bytes"] == made.stat().st_size


def test_a_dry_run_prints_what_it_costs(english: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert english.main(["train", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fs-lstm-2 352/192, 1,835,520 weights; 9,000 training steps of 3,200 characters on ")
    assert not (tmp_path / "runs").exists()


def test_a_complete_training_is_not_repeated(
    english: Any, run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model.safetensors").read_bytes()
    assert english.main(["train", "--data", str(data), *SMALL]) == 0
    assert capsys.readouterr().out.endswith("model is complete\n")
    assert (run / "model.safetensors").read_bytes() == before


def test_a_training_may_start_from_a_model(english: Any, run: Path, data: Path) -> None:
    again = ["train", "--data", str(data), "--init-from", str(run), "--out", "again", *SMALL]
    assert english.main(again) == 0
    assert json.loads(Path("again/model/run.json").read_text())["init_from"] == str(run)


def test_marks_and_the_package(
    english: Any, run: Path, data: Path, kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(BOOK)
    small_lm(4, alphabet=Alphabet.bytes()).save_pretrained("old")
    given = ["--data", str(data), "--kinds", str(kinds)]
    arguments = ["marks", str(run), *given, "--text", f"War and Peace={book}", "--beside", "old"]
    assert english.main([*arguments, "--figures", "archive", "--limit", "1500"]) == 0
    assert english.main(arguments) == 0
    record = json.loads(Path("runs/english/marks.json").read_text())
    names = ["books", "War and Peace", "Python source, single modules", "mail", "documentation"]
    assert sorted(record["texts"]) == sorted(names)
    assert record["texts"]["mail"]["bytes"] == len(BETWEEN.join(MAIL))
    row = record["texts"]["War and Peace"]
    assert row["bytes"] == len(BOOK)
    assert row["archive"]["bits"] == 8 * row["archive"]["size"] / row["bytes"]
    rounded, _ = english.marks.rounded(CharLM.from_pretrained(run), 8)
    assert row["archive"]["size"] == len(codec.compress(BOOK, CodecModel("english", lm=rounded)))
    assert row["model"]["bits"] == evaluate(rounded, Text.of(BOOK, "book")).bpc
    crlf = BOOK.replace(b"\n", b"\r\n")
    assert row["model, CRLF"]["bits"] == evaluate(rounded, Text.of(crlf, "book")).bpc
    assert row["before"]["bits"] == evaluate(CharLM.from_pretrained("old"), Text.of(BOOK, "book")).bpc
    assert row["xz -9e"]["size"] == len(zlib.compress(BOOK))
    assert row["zpaq -m5"] == {"why": "nothing that is here is not installed"}
    table = Path("runs/english/marks.md").read_text()
    figures = " | ".join(f"{row[key]['bits']:.3f}" for key in ("model", "model, CRLF", "before", "before, CRLF"))
    assert f"| War and Peace | {len(BOOK):,} | {figures} |" in table
    assert f"| War and Peace | {len(BOOK):,} | {row['archive']['bits']:.3f} |" in table
    assert "zpaq" not in table
    before = Path("runs/english/marks.json").read_bytes()
    assert english.main(arguments) == 0  # all of it is measured
    assert Path("runs/english/marks.json").read_bytes() == before

    target = tmp_path / "box" / "english"
    package = ["package", str(run), *given, "--to", str(target)]
    assert english.main([*package, "--dry-run"]) == 0
    assert not target.exists()
    assert english.main(package) == 0
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (target / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\nlibrary_name: fastslow\nlicense: apache-2.0\nmetrics:\n- bpc\n")
    assert f"value: {row['model']['bits']:.3f}".rstrip("0") in card
    assert record["archive_id"] in card
    assert table.rstrip() in card
    assert "; the author of *War and Peace* also wrote War Or Peace, in the training text." in card
    assert "fs-lstm-2 8/5" in card
    assert "use it when no model is named" in card
    assert "8-bit integers" in card
    assert "| mail | letters | CC0-1.0 | 2 | 36 |" in card
    assert '- A "Quoted" Title, Somebody Known (12)' in card
    assert "Kept Aside" not in card
    assert "9 training steps, 288 characters" in card
    assert "    python -m experiments.english" in card
    assert str(tmp_path) not in card
    archive = codec.compress(TEXT, target)
    assert codec.decompress(archive, CodecModel("english", lm=rounded)) == TEXT

    message = failed(english, capsys, *package, "--marks", "runs/english/none.json")
    assert "cannot read the marks" in message
    assert "has the results of another model" in failed(english, capsys, "marks", "old", *given)


def test_weights_between_two_models(english: Any, run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = CharLM.from_pretrained(run)
    with torch.no_grad():
        for weight in old.parameters():
            weight.mul_(0.5)
    old.save_pretrained("old")
    package = ["package", str(run), "--data", str(data), "--bits", "16", "--to", "box", "--share", "0.75"]
    assert "--beside" in failed(english, capsys, *package)
    assert english.main([*package, "--beside", "old"]) == 0
    made, own = CharLM.from_pretrained("box"), CharLM.from_pretrained(run)
    torch.testing.assert_close(made.head.weight, 0.875 * own.head.weight, rtol=0, atol=1e-4)


def test_the_average_of_runs(english: Any, run: Path, data: Path) -> None:
    shutil.copytree(run, "again")
    other = CharLM.from_pretrained("again")
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)
    other.save_pretrained("again")
    package = ["package", str(run), "--average", "again", "--data", str(data), "--bits", "16", "--to", "box"]
    assert english.main(package) == 0
    made, own = CharLM.from_pretrained("box"), CharLM.from_pretrained(run)
    torch.testing.assert_close(made.head.weight, 0.75 * own.head.weight, rtol=0, atol=1e-4)
    card = Path("box/README.md").read_text(encoding="utf-8")
    assert "Its weights are averaged with those of 1 further run (seed 1)." in card


def test_the_card_without_marks_says_so(
    english: Any, run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert english.main(["package", str(run), "--data", str(data), "--bits", "16", "--to", "box"]) == 0
    assert capsys.readouterr().out.endswith("no results: run `marks`, then `package` again\n")
    card = Path("box/README.md").read_text(encoding="utf-8")
    assert "\nNot measured.\n" in card
    assert "16-bit integers" in card
    assert "`fastslow score FILE --model box`" in card
    assert '`CharLM.from_pretrained("box")` loads it.' in card
    assert CharLM.from_pretrained("box").num_parameters == CharLM.from_pretrained(run).num_parameters


def test_what_is_missing_is_one_line(
    english: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(english, capsys, "text") == (
        "pass the folder of the books with --data: it must contain train.txt.xz and valid.txt.xz"
    )
    assert failed(english, capsys, "train", "--data", tmp_path).endswith("contains neither train.txt nor train.txt.xz")
    message = failed(english, capsys, "train", "--data", data, "--kinds", tmp_path)
    assert message == f"{tmp_path} has no train.txt: make it with `python -m experiments.kinds`"
    small_lm(4, alphabet=Alphabet.bytes()).save_pretrained("m")
    assert "books.tsv with --data" in failed(english, capsys, "package", "m", "--to", "box")
    (data / "books.tsv").write_text("id\ttitle\n1\tx\n")
    assert "has no column gutenberg_id" in failed(english, capsys, "package", "m", "--data", data, "--to", "box")
    assert not Path("box").exists()
    assert "there is no model nothing" in failed(english, capsys, "marks", "nothing", "--data", data)
    message = failed(english, capsys, "marks", "m", "--data", data, "--figures", "static", "--text", "a=b")
    assert message == "--text a=b: b does not exist; use NAME=FILE"


def test_absolute_paths_of_a_command_are_cut() -> None:
    cut = without_folders("fastslow train /a/b/train.txt --valid=/c/valid.txt --out runs/x --decay 1/2")
    assert cut == "fastslow train train.txt --valid=valid.txt --out runs/x --decay 1/2"
