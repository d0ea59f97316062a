"""`fastslow score --words`, `--items`, `--regions`: the tables, and what is wrong with what one asks for."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.lm import CharLM
from fastslow.scoring import item_surprisals, word_surprisals
from tests.cli.command import error_of, output_of

TEXT = "The cat sat.\nIt couldn't\tmove!\n\nعالم يا नमस्ते\n"


@pytest.fixture
def story(elsewhere: Path) -> Path:
    path = elsewhere / "story.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_words_are_those_of_the_function(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(story), "--model", str(model), "--words"]) == 0
    told = capsys.readouterr()
    rows = table(told.out)
    wanted = word_surprisals(CharLM.from_pretrained(model), TEXT)
    columns = [
        "sentence_id",
        "word_id",
        "word",
        "surprisal",
        "entropy",
        "length",
        "start",
        "stop",
        "offset",
        "line",
        "column",
    ]
    assert list(rows[0]) == columns
    assert [row["word"] for row in rows] == [word.word for word in wanted]
    assert [float(row["surprisal"]) for row in rows] == pytest.approx([w.surprisal for w in wanted], abs=1e-3)
    assert [int(row["offset"]) for row in rows] == [w.offset for w in wanted]
    total = math.fsum(w.surprisal for w in wanted)
    assert f"11 words, {total:,.2f} bits; a word's bits include the white space before it" in told.err


def test_words_as_json_and_the_other_conventions(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = (
        "score",
        story,
        "-m",
        model,
        "--words",
        "--json",
        "--space",
        "after",
        "--split",
        "space",
        "--context",
        "So.\n",
    )
    found = json.loads(output_of(capsys, *ask))
    wanted = word_surprisals(CharLM.from_pretrained(model), TEXT, space="after", split="space", context="So.\n")
    assert [row["word"] for row in found["words"]] == TEXT.split()
    assert [row["surprisal"] for row in found["words"]] == pytest.approx([w.surprisal for w in wanted], abs=1e-3)
    assert (found["space"], found["split"], found["context"], found["totals"]["words"]) == (
        "after",
        "space",
        "So.\n",
        9,
    )


def test_positions_are_those_of_the_file(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = table(output_of(capsys, "score", story, "-m", model, "--words"))
    raw = b"\xef\xbb\xbf" + story.read_bytes().replace(b"\n", b"\r\n")
    Path("crlf").write_bytes(raw)
    found = table(output_of(capsys, "score", "crlf", "-m", model, "--words"))
    for before, after in zip(plain, found, strict=True):
        assert {**before, "offset": ""} == {**after, "offset": ""}
        if after["word"]:
            assert raw[int(after["offset"]) :].startswith(after["word"].encode())


def test_items_one_a_line(model: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]) -> None:
    stdin("The cat sat.\r\n\r\nIt rained.\tThe cat\u200d sat.\r\n".encode())
    rows = table(output_of(capsys, "score", "-", "-m", model, "--items"))
    lm = CharLM.from_pretrained(model)
    wanted = item_surprisals(lm, ["The cat sat.", "The cat\u200d sat."], contexts=[None, "It rained."])
    assert [row["sentence_id"] for row in rows] == ["1"] * 4 + ["3"] * 4
    assert [row["word"] for row in rows] == [w.word for w in wanted]
    assert [float(row["surprisal"]) for row in rows] == pytest.approx([w.surprisal for w in wanted], abs=1e-3)
    assert [(row["start"], row["offset"], row["line"], row["column"]) for row in rows][:1] == [("0", "0", "1", "1")]
    assert [(row["start"], row["offset"], row["line"], row["column"]) for row in rows][4:5] == [("0", "27", "3", "12")]


def test_regions(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("spans").write_text("region\tstart\tstop\nsubject\t0\t7\nverb\t7\t11\n")
    rows = table(output_of(capsys, "score", story, "-m", model, "--regions", "spans"))
    words = word_surprisals(CharLM.from_pretrained(model), TEXT)
    assert [(row["region"], row["text"]) for row in rows] == [("subject", "The cat"), ("verb", " sat")]
    assert float(rows[0]["surprisal"]) == pytest.approx(words[0].surprisal + words[1].surprisal, abs=1e-3)
    Path("spans").write_bytes(b"sentence_id\tstart\tstop\r\n2\t0\t2\r\n")
    found = json.loads(output_of(capsys, "score", story, "-m", model, "--items", "--regions", "spans", "--json"))
    assert [(row["sentence_id"], row["text"]) for row in found["regions"]] == [(2, "mo")]  # behind its context
    assert found["totals"]["regions"] == 1


def test_nothing_to_score_is_a_table_without_rows(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story.write_text("\n\n")
    assert output_of(capsys, "score", story, "-m", model, "--items").startswith("sentence_id\tword_id\tword")


def test_invalid_utf_8(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story.write_bytes(b"a\xffb \\c\x1b")
    rows = table(output_of(capsys, "score", story, "-m", model, "--words"))
    assert [row["word"] for row in rows] == ["a", "\\xff", "b", "\\\\", "c", "\\x1b"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--words --lines", "leave out --lines and --top"),
        ("--items --top 3", "leave out --lines and --top"),
        ("--words --html page", "leave out --top, --lines, --words"),
        ("--words --regions spans", "give --words or --regions, not both"),
        ("--space after", "need --words, --items or --regions"),
        ("--context x", "need --words, --items or --regions"),
        ("--words --space behind", "--space cannot be 'behind'"),
        ("--regions gone", "cannot read gone: no such file"),
        ("--regions empty", "empty is empty"),
        ("--regions story.txt", "story.txt has no column start: its first line must name the columns start, stop"),
        ("--regions spans --items", "spans has no column sentence_id"),
        ("--regions header", "header has no regions"),
        ("--regions short", "short, line 3: expected 2 columns as in its first line; got 1"),
        ("--regions spans", "spans, line 2: stop must be a whole number; got 'x'"),
        ("--regions far", "ends after the end of the text, which has"),
        ("--regions back", "expected 0 <= start < stop"),
    ],
)
def test_what_cannot_be(options: str, told: str, model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "empty": "",
        "header": "start\tstop\n",
        "short": "start\tstop\n\n1\n",
        "spans": "start\tstop\n1\tx\n",
        "far": "start\tstop\n1\t9999\n",
        "back": "start\tstop\n5\t1\n",
    }
    for name, text in files.items():
        Path(name).write_text(text)
    status = main(["score", story.name, "--model", str(model), *options.split()])
    captured = capsys.readouterr()
    assert status == 2
    assert len(captured.err.splitlines()) == 1
    assert told in captured.err


def test_an_empty_file(model: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story.write_bytes(b"")
    assert error_of(capsys, "score", story, "-m", model, "--words").endswith("a text needs at least 1 byte")
