"""Several processes train as one would: the same losses, weights and figures, whatever their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fastslow.evaluation import evaluate
from fastslow.lm.config import ConfigError
from fastslow.training import read_record
from fastslow.training.checkpoint import read_checkpoint
from fastslow.training.distributed import Ranks, joined, rows_at_once
from fastslow.training.launch import Launch, LaunchError
from fastslow.training.precision import multiplies_bf16
from fastslow.training.run import follow

from ..cli.command import TEXT as TABLES
from ..cli.command import TINY
from ..lm.models import TEXT as LINES
from ..lm.models import small_lm
from .ranks import LONG, Seen, stopped
from .runs import metrics, run, tensors

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds for a job of two


def torchrun(*arguments: str | Path, ranks: int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*launcher, "--max-restarts", str(restarts), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Job(NamedTuple):
    """A scenario that has ended: its folder, what each rank has told, and what all of them printed."""

    folder: Path
    told: list[dict[str, Any]]
    stdout: str
    stderr: str


def job(name: str, folder: Path, ranks: int) -> Job:
    done = torchrun("-m", "tests.training.ranks", name, folder, ranks=ranks)
    assert done.returncode == 0, done.stderr
    told = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(ranks)]
    return Job(folder, told, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(out, **LONG)
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("two")
    stopped(folder / "by-one", 17)
    (folder / "tables.txt").write_bytes(TABLES)
    return job("two", folder, 2)


def assert_alike(run_folder: Path, alone: Path) -> None:
    """Updates whose every loss and validation is one process's, to 2e-5 bits per character."""
    mine, theirs = metrics(run_folder), metrics(alone)
    assert [(line["kind"], line["update"]) for line in mine] == [(line["kind"], line["update"]) for line in theirs]
    assert sum(line["kind"] == "train" for line in mine) == LONG["max_updates"]
    for one, other in zip(mine, theirs, strict=True):
        assert one["bpc"] == pytest.approx(other["bpc"], abs=2e-5)
        if one["kind"] == "train":
            assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
            assert one["rate"] == other["rate"]
    for file in ("model.safetensors", "checkpoint.safetensors"):
        assert {name: len(data) for name, data in tensors(run_folder / file).items()} == {
            name: len(data) for name, data in tensors(alone / file).items()
        }
    lm = small_lm_of(run_folder)
    mine_at, theirs_at = (read_checkpoint(folder, lm, LONG["batch"]) for folder in (run_folder, alone))
    assert mine_at is not None
    assert theirs_at is not None
    for name, weight in mine_at.model.items():
        torch.testing.assert_close(weight, theirs_at.model[name], rtol=1e-4, atol=1e-4, msg=name)
    torch.testing.assert_close(mine_at.state, theirs_at.state, rtol=1e-4, atol=3e-4)
    assert torch.equal(mine_at.rng["cpu"], theirs_at.rng["cpu"])


def small_lm_of(run_folder: Path) -> Any:
    from fastslow.lm import CharLM
    from fastslow.lm.files import read_config

    return CharLM(read_config(run_folder))


# ------------------------------------------------------------------------------------- two ranks


def test_two_ranks_train_as_one(two: Job, alone: Path) -> None:
    """With three streams and two."""
    folder, told = two.folder, two.told
    assert_alike(folder / "whole", alone)
    assert told[0]["whole"]["test"]["symbols"] == told[1]["whole"]["test"]["symbols"]
    assert told[0]["whole"]["best_bpc"] == told[1]["whole"]["best_bpc"]
    stored = json.loads((alone / "result.json").read_text())
    assert told[0]["whole"]["test"]["bpc"] == pytest.approx(stored["test"]["bpc"], abs=1e-5)
    assert told[0]["whole"]["test"]["symbols"] == stored["test"]["symbols"]
    assert told[0]["whole"]["characters"] == stored["characters"]
    (session,) = read_record(folder / "whole").sessions
    assert session["processes"] == 2
    assert sorted(path.name for path in (folder / "whole").iterdir()) == sorted(p.name for p in alone.iterdir())


def test_two_ranks_go_on_with_the_run_of_one(two: Job, alone: Path) -> None:
    """Each with its streams in two parts."""
    assert_alike(two.folder / "by-one", alone)
    assert [session.get("processes", 1) for session in read_record(two.folder / "by-one").sessions] == [1, 2]


def test_one_goes_on_with_the_run_of_two(two: Job, alone: Path) -> None:
    assert [session["processes"] for session in read_record(two.folder / "for-one").sessions] == [2]
    assert run(two.folder / "for-one", resume=True, **LONG).status == "completed"
    assert_alike(two.folder / "for-one", alone)


def test_a_signal_to_one_stops_all(two: Job, alone: Path) -> None:
    for told in two.told:
        assert (told["stopped"]["status"], told["stopped"]["updates"]) == ("interrupted", 12)
        assert told["stopped-resumed"]["status"] == "completed"
    assert_alike(two.folder / "stopped", alone)


def test_the_time_is_rank_0s(two: Job) -> None:
    assert [told["time"] for told in two.told] == [["time", "time"]] * 2


def test_failures_are_everybodys(two: Job) -> None:
    first, second = (told["failures"] for told in two.told)
    assert first["folder"][0] == "RunError"
    assert "already contains a run" in first["folder"][1]
    assert first["text"][0] == "ElsewhereError"
    assert "on rank 1 (" in first["text"][1]
    assert "the train text is not that of rank 0" in first["text"][1]
    assert first["batch"] == [
        "DataError",
        "a batch of 1 streams is too small for 2 processes: use at least one stream per process",
    ]
    assert first["accumulate"][0] == "ConfigError"
    assert "accumulate 3 needs at least as many streams per process; a batch of 4 on 2 has 2" in first["accumulate"][1]
    assert first["disk"][0] == "StorageError"
    assert "the disk is full; the checkpoint of step 14 is kept" in first["disk"][1]
    assert second.keys() == first.keys()
    assert {kind for kind, _ in second.values()} == {"ElsewhereError"}
    assert not (two.folder / "batch").exists()


def test_the_command(two: Job) -> None:
    """Rank 0 alone speaks and writes; the options are its own."""
    for told in two.told:
        assert told["command"][0] == 0
        assert told["command"][1] != 0
    out = two.folder / "command"
    assert two.stdout.count("10 training steps, 320 characters") == 1
    assert two.stderr.count(f"run folder {out}") == 1
    assert read_record(out).sessions[0]["processes"] == 2
    complaints = [line for line in two.stderr.splitlines() if line.startswith("fastslow: error: ")]
    assert complaints == [
        f"fastslow: error: {out} was started with window 8, not 9: a resumed run keeps it; leave it out, or start "
        "a new run in another folder"
    ]


def test_exchanges(two: Job) -> None:
    for rank, told in enumerate(two.told):
        exchange = told["exchange"]
        assert exchange["tensors"] == {
            "a": ["torch.float32", [1.5, 0.0]],
            "b": ["torch.int64", 3],
            "c": ["torch.bfloat16", [[1.0] * 3] * 2],
            "d": ["torch.float32", []],
            "e": ["torch.bool", [True, False]],
        }
        assert exchange["exact"]
        assert exchange["whole"] == [[[0, 1], [2, 3], [4, 5]], [[0, 2], [4, 6], [8, 10]]]
        assert (exchange["largest"], exchange["sum"]) == ([1, 0], [2, 1])
        slices = [("slice(0, 1, None)", "None"), ("slice(0, 1, None)", "slice(1, 2, None)")]
        assert exchange["columns"] == [
            *(pair[rank] for pair in slices),
            ("slice(0, 3, None)", "slice(3, 5, None)")[rank],
        ]


def test_gradients_are_those_of_distributed_data_parallel(two: Job) -> None:
    for told in two.told:
        assert told["reduction"]["size"] > 0.01
        assert told["reduction"]["apart"] < 1e-5
        assert told["reduction"]["loss"] < 1e-4


def test_recorded_updates_exchange_too(two: Job) -> None:
    for told in two.told:
        assert told["graphed"]["same"]
        assert told["graphed"]["losses"][0] == told["graphed"]["losses"][1]


def test_an_evaluation_that_is_shared_adds_up(two: Job) -> None:
    assert two.told[0]["evaluations"] == two.told[1]["evaluations"]
    for streams, warm, nats, symbols, calls, done in two.told[0]["evaluations"]:
        seen = Seen()
        whole = evaluate(small_lm(), LINES[:200], streams=streams, warm=warm, window=7, on_window=seen)
        assert nats == pytest.approx(whole.nats, rel=1e-6)
        assert symbols == whole.symbols == 199
        assert (calls, done) == (seen.calls, seen.done)


# ------------------------------------------------------------------------------------- four ranks, deaths


@pytest.mark.slow
def test_four_ranks_with_unequal_shares(tmp_path: Path, alone: Path) -> None:
    """Five streams on four ranks; and one process goes on with the run of four."""
    job("four", tmp_path, 4)
    assert_alike(tmp_path / "whole", alone)
    result = run(tmp_path / "begun", resume=True, **LONG)
    assert result.status == "completed"
    assert_alike(tmp_path / "begun", alone)


def test_a_rank_that_dies_ends_the_job_and_a_restart_goes_on(tmp_path: Path, alone: Path) -> None:
    begun = time.monotonic()
    done = torchrun("-m", "tests.training.ranks", "dying", tmp_path, ranks=2, restarts=1)
    assert done.returncode != 0
    assert time.monotonic() - begun < PATIENCE / 2
    lost = "rank 0 has lost contact with the other 1: one of them has exited, or has not responded for 10 minutes; the "
    assert f"{lost}checkpoint of step 7 is kept: resume it, with any number of processes" in done.stderr
    assert f"{lost}checkpoint of step 21 is kept" in done.stderr
    sessions = read_record(tmp_path / "run").sessions
    assert [session["update"] for session in sessions] == [0, 7]
    assert sessions[0]["job"] == sessions[1]["job"]
    result = run(tmp_path / "run", resume=True, **{**LONG, "validate_every": 0})
    assert result.status == "completed"
    trained = [line["bpc"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    expected = [line["bpc"] for line in metrics(alone) if line["kind"] == "train"]
    assert trained == pytest.approx(expected, abs=2e-5)


@pytest.mark.slow
def test_the_command_by_its_name(tmp_path: Path) -> None:
    """As `test_the_command`, started as a user does."""
    (tmp_path / "tables.txt").write_bytes(TABLES)
    out = tmp_path / "run"
    done = torchrun(
        "-m", "fastslow", "train", tmp_path / "tables.txt", "--out", out, *TINY, "--max-updates", "10", ranks=2
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10 training steps, 320 characters") == 1
    assert done.stderr.count(f"run folder {out}") == 1
    assert read_record(out).sessions[0]["processes"] == 2
    again = torchrun("-m", "fastslow", "train", "--resume", "--out", out, "--window", "9", ranks=2)
    assert again.returncode != 0
    complaints = [line for line in again.stderr.splitlines() if line.startswith("fastslow: error: ")]
    assert complaints == [
        f"fastslow: error: {out} was started with window 8, not 9: a resumed run keeps it; leave it out, or start "
        "a new run in another folder"
    ]


# ------------------------------------------------------------------------------------- one process


def test_a_batch_in_parts_is_the_batch(tmp_path: Path, alone: Path) -> None:
    """One process, four parts of unequal width."""
    run(tmp_path / "parts", **LONG, accumulate=4)
    assert_alike(tmp_path / "parts", alone)


def test_bf16_follows_float32(tmp_path: Path) -> None:
    """Over 200 updates the mean loss of every 20 is within 5% of float32's; emulated bfloat16 is float32."""
    means = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        run(out, **{**LONG, "max_updates": 200, "validate_every": 0}, precision=precision)
        curve = [line["bpc"] for line in metrics(out) if line["kind"] == "train"]
        means.append([sum(curve[i : i + 20]) / 20 for i in range(0, 200, 20)])
    assert means[1] == pytest.approx(means[0], rel=0.05)
    assert (means[1] != means[0]) == multiplies_bf16(torch.device("cpu"))
    assert means[1][-1] < means[1][0] * 0.7


def test_one_process_alone() -> None:
    with joined() as ranks:
        assert type(ranks) is Ranks
    assert (ranks.rank, ranks.size, ranks.leads) == (0, 1, True)
    assert ranks.columns(5) == slice(0, 5)
    assert ranks.lead(lambda: 3) == ranks.together(lambda: 3) == 3
    assert ranks.largest(1.0, 2.0) == ranks.sum(1.0, 2.0) == [1.0, 2.0]
    with pytest.raises(LaunchError, match="there is no rank 0 to follow"):
        follow()


def test_no_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    import fastslow.training.distributed as distributed

    monkeypatch.setattr(distributed, "TIMEOUT", distributed.timedelta(seconds=1))
    with pytest.raises(LaunchError, match=r"rank 1 cannot connect to the others at 127.0.0.1:1: "), joined():
        pass


@pytest.mark.parametrize(
    ("batch", "accumulate", "ranks", "rows"), [(6, 1, 1, 6), (6, 1, 4, 2), (6, 2, 2, 2), (7, 2, 1, 4)]
)
def test_rows_at_once(batch: int, accumulate: int, ranks: int, rows: int) -> None:
    assert rows_at_once(batch, accumulate, ranks) == rows


def test_devices() -> None:
    from fastslow.training.distributed import Group

    group = Group(Launch(rank=5, size=8, local_rank=1), None)  # type: ignore[arg-type]
    assert group.device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="several processes use one GPU each: use device cuda, not cuda:1"):
        group.device("cuda:1")
    if torch.cuda.device_count() < 2:
        with pytest.raises(ConfigError, match="this process needs GPU 1, but the machine has"):
            group.device("cuda")
