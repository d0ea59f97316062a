"""`experiments/jobs.py`: what is done is not done again, what fails is named, and a stop reaches the commands."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import run


@pytest.fixture
def jobs() -> Any:
    from experiments import jobs

    return jobs


@pytest.fixture
def python(jobs: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Jobs whose arguments are a program of Python's instead of a command of fastslow."""
    monkeypatch.setattr(jobs.Job, "command", lambda job: [sys.executable, "-c", *job.arguments])
    return lambda name, code, **options: jobs.Job(name, (code,), **options)


def test_side_by_side_with_a_thread_each_and_not_again(jobs: Any, python: Any, tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS']); print('told', file=sys.stderr)"
    plan = [python(f"job-{i}", code, out=tmp_path / "scores" / f"{i}.json") for i in range(3)]
    jobs.run_jobs(plan, 2, tmp_path / "logs")
    assert [job.out.read_text() for job in plan] == ["1\n"] * 3
    assert (tmp_path / "logs" / "job-1.log").read_text() == "told\n"
    plan[0].out.write_text("kept")
    plan[1].out.unlink()
    jobs.run_jobs(plan, 2, tmp_path / "logs")
    assert [job.out.read_text() for job in plan] == ["kept", "1\n", "1\n"]
    assert not list(tmp_path.rglob("*.part"))


def test_one_at_a_time_has_all_threads(jobs: Any, python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    job = python("one", "import os; print(os.environ.get('OMP_NUM_THREADS'))", out=tmp_path / "one.json")
    jobs.run_jobs([job], 1, tmp_path / "logs")
    assert job.out.read_text() == "None\n"
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_fails_is_named_and_the_others_go_on(jobs: Any, python: Any, tmp_path: Path, at_once: int) -> None:
    bad = python("bad", "import sys; print('half'); sys.exit('out of luck')", out=tmp_path / "bad.json")
    good = python("good", "print(1)", out=tmp_path / "good.json")
    reason = r"^bad failed \(exit status 1\)" + (": out of luck$" if at_once > 1 else "$")
    with pytest.raises(jobs.JobsError, match=reason):
        jobs.run_jobs([bad, good], at_once, tmp_path / "logs")
    assert good.done()
    assert not bad.done()
    assert not list(tmp_path.rglob("*.part"))


def test_a_training_that_ends_early_is_not_done(jobs: Any, python: Any, tmp_path: Path) -> None:
    with pytest.raises(jobs.JobsError, match="early failed"):
        jobs.run_jobs([python("early", "pass", run=tmp_path / "run")], 2, tmp_path / "logs")


def test_a_stop_reaches_the_commands(jobs: Any, python: Any, tmp_path: Path) -> None:
    waits = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', file=sys.stderr)))\n"
        f"os.kill({os.getpid()}, signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    before, began = signal.getsignal(signal.SIGINT), time.monotonic()
    plan = [python("first", waits, out=tmp_path / "first.json"), python("second", "print(1)", out=tmp_path / "second")]
    plan.append(python("third", "print(1)", out=tmp_path / "third"))
    with pytest.raises(jobs.Stopped):
        jobs.run_jobs(plan, 2, tmp_path / "logs")
    assert time.monotonic() - began < 50
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "logs" / "first.log").read_text() == "saved\n"
    assert not (tmp_path / "third").exists() or plan[1].done()


def test_scores_of_a_run_that_was_made_again_are_made_again(jobs: Any, tmp_path: Path) -> None:
    job = jobs.Job("score", (), out=tmp_path / "score.json", of=(tmp_path,))
    (tmp_path / "result.json").write_text('{"status": "completed"}')
    assert not job.done()
    job.out.touch()
    assert job.done()
    os.utime(tmp_path / "result.json", (time.time() + 9, time.time() + 9))
    assert not job.done()


def test_a_folder_with_another_run(jobs: Any, tmp_path: Path) -> None:
    texts = jobs.Texts(Path("a"), Path("b"), Path("c"))
    run(tmp_path / "run", max_updates=2)
    assert jobs.training(tmp_path / "run", "demo", texts, max_updates=2, hidden_size=8, rate=1e-2).done()
    with pytest.raises(jobs.JobsError, match="contains a run with max_updates 2, not 3: choose another --out"):
        jobs.training(tmp_path / "run", "demo", texts, max_updates=3)


def test_options_and_commands(jobs: Any, tmp_path: Path) -> None:
    assert jobs.as_options({"zoneout_c": 0, "random_offset": False, "tensorboard": True, "rate": 4e-3}) == [
        "--zoneout-c", "0", "--no-random-offset", "--tensorboard", "--rate", "0.004",
    ]  # fmt: skip
    texts = jobs.Texts(Path("a"), Path("b"), Path("c"))
    job = jobs.training(tmp_path / "run", "demo", texts, test=False, seed=3)
    assert job.command()[1:] == [
        "-m", "fastslow", "train", "a", "--valid", "b", "--alphabet", "text", "--device", "cpu", "--preset", "demo",
        "--out", str(tmp_path / "run"), "--seed", "3",
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    assert job.command()[-1] == "--resume"
    assert [jobs.rounds(count, 2) for count in range(4)] == [0, 1, 1, 2]
    with pytest.raises(jobs.JobsError, match="--data must be a folder with"):
        jobs.the_texts(tmp_path)
