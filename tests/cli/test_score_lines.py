"""`fastslow score --lines` with a threshold, and `--follow`: real processes on growing files and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastslow.cli import main
from tests.cli.command import TEXT, error_of, output_of
from tests.interrupts import interruptible


def status_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str], str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_only_lines_above_a_threshold(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = ("score", text, "-m", model, "--lines", "--predictor", "network")
    every = json.loads(output_of(capsys, *score, "--json"))["per_line"]
    means = sorted({row["mean"] for row in every})
    bound = (means[-4] + means[-3]) / 2
    status, out, _ = status_of(capsys, *score, "--above", str(bound), "--json")
    found = json.loads("\n".join(out))
    assert status == 0
    assert found["per_line"] == [row for row in every if row["mean"] > bound]
    assert found["totals"]["lines"] == 120
    assert status_of(capsys, *score, "--above", "99")[:2] == (1, [f"{text}: " + _summary(capsys, score)])
    assert status_of(capsys, *score, "--above", "99", "--tsv")[:2] == (1, [])
    assert status_of(capsys, *score, "--deviations", "1")[0] == 0
    peaks = json.loads(output_of(capsys, *score, "--stretch", "3", "--json"))["per_line"]
    assert all(peak["mean"] > row["mean"] for peak, row in zip(peaks, every, strict=True))
    assert status_of(capsys, *score, "--above", str(means[-1] + 0.01))[0] == 1
    assert status_of(capsys, *score, "--above", str(means[-1] + 0.01), "--stretch", "3")[0] == 0
    assert status_of(capsys, *score, "--deviations", "50")[0] == 1


def _summary(capsys: pytest.CaptureFixture[str], score: tuple[str | Path, ...]) -> str:
    return output_of(capsys, *score).splitlines()[-1].split(": ", 1)[1]


def test_a_pipe_is_followed_to_its_end(
    model: Path, text: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ("--predictor", "network")
    every = json.loads(output_of(capsys, "score", text, "-m", model, "--lines", "--json", *alone))["per_line"]
    follow = ("score", "-", "-m", model, "--lines", "--follow", "--above", "0")
    stdin(TEXT)
    status, out, err = status_of(capsys, *follow, "--json")
    assert status == 0
    rows = [json.loads(line) for line in out]
    assert [(r["line"], r["text"], r["bytes"]) for r in rows] == [(r["line"], r["text"], r["bytes"]) for r in every]
    assert [r["mean"] for r in rows] == pytest.approx([r["mean"] for r in every], abs=1e-3)
    assert "-: 120 lines, 120 of them above the threshold" in err
    stdin(TEXT)
    _, out, _ = status_of(capsys, *follow, "--tsv")
    assert (len(out), out[0]) == (121, "line\tmean\tbits\tbytes\ttext")
    stdin(b"")
    assert status_of(capsys, *follow)[:2] == (1, [])
    pytest.importorskip("fastslow.mixing")
    stdin(TEXT)
    _, out, _ = status_of(capsys, *follow, "--predictor", "mixed", "--json")
    assert json.loads(out[-1])["mean"] < rows[-1]["mean"] / 2
    stdin(b"\xef\xbb\xbfa\xff\r\nb\r\n")
    assert [json.loads(line)["text"] for line in status_of(capsys, *follow, "--json")[1]] == ["a\\xff", "b"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--follow", "need --lines"),
        ("--above 3", "need --lines"),
        ("--lines --above 3 --deviations 2", "give --above or --deviations, not both"),
        ("--stretch 3", "need --lines"),
        ("--lines --stretch 0", "--stretch must be at least 1; got 0"),
        ("--lines --follow --top 3", "--top needs the whole text"),
        ("--lines --deviations -1", "--deviations must be at least 0; got -1"),
        ("--lines --deviations nan", "--deviations must be at least 0; got nan"),
    ],
)
def test_what_cannot_be(options: str, told: str, model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in error_of(capsys, "score", text, "-m", model, *options.split())


def test_files_that_cannot_be_followed(model: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow = ("-m", model, "--lines", "--follow")
    assert error_of(capsys, "score", "gone", *follow) == "cannot read gone: no such file or directory"
    assert "is a directory" in error_of(capsys, "score", elsewhere, *follow)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_log_that_grows_is_followed_until_a_signal(model: Path, text: Path, stop: signal.Signals) -> None:
    options = ["-m", model, "--lines", "--follow", "--above", "0", "--json"]
    with interruptible():
        running = subprocess.Popen(
            [sys.executable, "-m", "fastslow", "score", text, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        assert running.stdout is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(120)]
        assert lines[-1]["line"] == 120
        with open(text, "ab") as file:
            file.write(b"half")
            file.flush()
            time.sleep(0.3)
            file.write(b" a line\n")
        assert json.loads(running.stdout.readline())["text"] == "half a line"
        text.write_bytes(b"begun anew\n")
        fresh = json.loads(running.stdout.readline())
        assert (fresh["line"], fresh["text"]) == (1, "begun anew")
        running.send_signal(stop)
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert b"122 lines, 122 of them above the threshold" in running.stderr.read()
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdout, running.stderr):
            if pipe is not None:
                pipe.close()
