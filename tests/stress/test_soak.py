"""`tests/stress/soak`: it detects every difference; and a short soak."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastslow.training.events import Updated
from tests.stress.soak.checks import Bench, Outcome, check_folder, check_loss, differences, lost
from tests.stress.soak.kills import plan
from tests.stress.soak.places import AT_RANDOM, FIRST, LAST, PLACES, STOPS
from tests.training.runs import Killed, run

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.stress.soak"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with a run of the tests as the uninterrupted one."""
    out = tmp_path_factory.mktemp("soak")
    (out / "few").write_bytes(b"3 times 4 is 12\n" * 4)
    run(out / "undisturbed")
    return Bench(out, out / "text", out / "few", 30, 0.1, 0.1)


@pytest.fixture
def copy(bench: Bench, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bench.reference, tmp_path / "copy"))


def test_a_plan_has_so_many_kills_and_begins_and_ends_where_a_run_does() -> None:
    for kills in (1, 3, 8, 15, 40):
        places = plan(kills, random.Random(kills))
        assert sum(place not in STOPS for place in places) == kills
        assert set(places) & set(STOPS)
        assert places[-1] in LAST
    assert set(plan(40, random.Random(1))) == {*FIRST, *PLACES, *LAST, *STOPS, AT_RANDOM}


def test_equal_runs_have_no_differences(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def progress(event: object) -> None:
        if isinstance(event, Updated) and event.update == 17:
            raise Killed

    with pytest.raises(Killed):
        run(out, progress=progress)
    assert [line["update"] for line in lost(out)[0]] == [16]  # the checkpoint is of 14, lines are of every fourth
    run(out, resume=True)
    assert differences(bench, out) == []


def change(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return apply


def flip(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)

    return apply


def cut(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight": (flip("model.safetensors"), "model.safetensors differs"),
    "the checkpoint": (flip("checkpoint.safetensors"), r"rng\.cpu differs in checkpoint"),
    "the position": (change("checkpoint.safetensors", b'\\"update\\": 30', b'\\"update\\": 31'), "its record differs"),
    "a line of metrics": (change("metrics.jsonl", b'"rate": 0.0', b'"rate": 0.1'), "metrics.jsonl differs: first in 1"),
    "a line that is missing": (cut, r"metrics.jsonl differs: \d+ lines, not \d+"),
    "the result": (change("result.json", b'"updates": 30', b'"updates": 31'), "result.json differs"),
    "the network": (change("config.json", b'"hidden_size": 8', b'"hidden_size": 9'), "config.json differs"),
    "a leftover": (lambda folder: (folder / ".run.json.7.part").touch(), r"\.part was left behind"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_seen(bench: Bench, copy: Path, what: str) -> None:
    assert differences(bench, copy) == []
    apply, words = CHANGES[what]
    apply(copy)
    found = differences(bench, copy)
    assert len(found) == 1
    assert re.search(words, found[0])


def test_too_much_that_is_lost_is_a_fault(bench: Bench, copy: Path) -> None:
    line = json.loads((copy / "metrics.jsonl").read_bytes().splitlines()[0])
    _, elapsed = lost(copy)
    with open(copy / "metrics.jsonl", "a", encoding="utf-8") as file:
        for update in (31, 32, 33):
            file.write(json.dumps({**line, "update": update, "seconds": elapsed + update - 30}) + "\n")
    for every, seconds, faults in ((3, 0.0, 0), (2, 0.0, 1), (0, 1.5, 0), (0, 1.0, 1)):
        outcome = Outcome("by hand")
        check_loss(copy, outcome, every, seconds)
        assert (outcome.lost_updates, round(outcome.lost_seconds, 6), len(outcome.faults)) == (3, 3.0, faults)


def test_what_commands_say_is_judged(bench: Bench, copy: Path) -> None:
    outcome = Outcome("by hand")
    check_folder(bench, copy, outcome)
    assert (outcome.worked, outcome.explained, outcome.faults) == (4, 0, [])
    (copy / "model.safetensors").unlink()
    check_folder(bench, copy, outcome)
    assert (outcome.worked, outcome.explained, outcome.faults) == (5, 3, [])
    (copy / "model.safetensors").write_bytes(b"damaged")  # there are weights, and no command may complain
    check_folder(bench, copy, outcome)
    assert len(outcome.faults) == 3


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    command = [*COMMAND, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "is not empty and was not created by this script" in done.stderr
    assert (tmp_path / "thesis").read_text() == "mine"


@pytest.mark.slow
def test_a_run_killed_three_times(tmp_path: Path) -> None:
    """Half a minute on an idle machine: three kills, a stop, a second process."""
    out = tmp_path / "soak"
    command = [*COMMAND, "--kills", "3", "--short", "--keep", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run equals the uninterrupted one, bit for bit" in done.stdout
    assert "a second process is rejected" in done.stdout
    assert int(re.findall(r"^(\d+) kills, (\d+) stops", done.stdout, re.MULTILINE)[0][0]) >= 3
