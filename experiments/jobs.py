"""Commands of `fastslow`, one after another or in parallel; shared by the long scripts of this folder.

In parallel each command has one thread, and so a core of its own on a machine with enough cores: several networks are
then trained for the same time under equal conditions, and two cores do more than with two threads for one small
network.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fastslow.data.corpora import load_corpus
from fastslow.errors import FastslowError
from fastslow.storage import read_json
from fastslow.training import read_record

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class JobsError(FastslowError):
    """Some commands failed."""


class Stopped(Exception):
    """The script and its commands were interrupted."""


def exit_status(script: str, run: Callable[[], int | None]) -> int:
    """Run a script; returns its exit status (None: 0). An interruption and an error are told in one line."""
    try:
        return run() or 0
    except Stopped:
        print("stopped; run the same command again to resume")
        return 130
    except FastslowError as error:
        print(f"{script}: error: {error}", file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Job:
    """One command.

    name: name of its log. arguments: after `fastslow`. run: the run folder that it trains, which is resumed if it
    exists.
    out: the file for its output, once it has succeeded. of: the complete runs that it evaluates, older than the output.
    """

    name: str
    arguments: tuple[str, ...]
    run: Path | None = None
    out: Path | None = None
    of: tuple[Path, ...] = ()

    def done(self) -> bool:
        if self.run is not None:
            return complete(self.run)
        if self.out is None or not self.out.is_file():
            return False
        made = self.out.stat().st_mtime_ns
        return all(complete(run) and (run / "result.json").stat().st_mtime_ns <= made for run in self.of)

    def command(self) -> list[str]:
        resume = ["--resume"] if self.run is not None and (self.run / "run.json").is_file() else []
        return [sys.executable, "-m", "fastslow", *self.arguments, *resume]


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path | None
    began: float


def run_jobs(jobs: Sequence[Job], at_once: int, logs: Path) -> None:
    """Run the incomplete jobs, `at_once` at a time, in order. A single one has this terminal and all threads; parallel
    ones have one thread and a log in `logs` each.

    SIGINT and SIGTERM are passed on as SIGTERM, on which trainings save; then Stopped is raised. A failed command does
    not stop the others: JobsError lists the failed ones at the end.
    """
    waiting, running, failed = [job for job in jobs if not job.done()], [], []
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for one in running:
            one.process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while running or (waiting and not stopping):
            while waiting and len(running) < at_once and not stopping:
                running.append(_start(waiting.pop(0), at_once > 1, logs))
                if stopping:  # the signal came during the start
                    stop(signal.SIGTERM, None)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if not _ended(one) and not stopping:
                    failed.append(one)
            time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in running:  # only after an error in this loop
            one.process.terminate()
            one.process.wait()
    if stopping:
        raise Stopped
    if failed:
        raise JobsError("; ".join(_reason(one) for one in failed))


def _start(job: Job, side_by_side: bool, logs: Path) -> _Running:
    command = job.command()
    print(f"\n{job.name}: {shlex.join(['fastslow', *command[3:]])}", flush=True)
    log = logs / f"{job.name}.log" if side_by_side else None
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if log is not None:
            logs.mkdir(parents=True, exist_ok=True)
            options["stderr"] = options["stdout"] = stack.enter_context(log.open("ab"))
            options["env"] = os.environ | ONE_THREAD
        if job.out is not None:
            job.out.parent.mkdir(parents=True, exist_ok=True)
            options["stdout"] = stack.enter_context(_part(job.out).open("wb"))
        return _Running(job, subprocess.Popen(command, stdin=subprocess.DEVNULL, **options), log, time.monotonic())


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _ended(one: _Running) -> bool:
    """Whether it succeeded; if so, its output is moved to its place."""
    job, good = one.job, one.process.returncode == 0
    if job.out is not None:
        if good:
            os.replace(_part(job.out), job.out)
        else:
            _part(job.out).unlink()
    good = good and job.done()
    minutes = (time.monotonic() - one.began) / 60
    print(f"{job.name}: {'done' if good else 'ended'} after {minutes:.1f} minutes", flush=True)
    return good


def _reason(one: _Running) -> str:
    told = f"{one.job.name} failed (exit status {one.process.returncode})"
    if one.log is None:
        return told
    lines = one.log.read_text(errors="replace").strip().splitlines()
    return f"{told}: {lines[-1][:300] if lines else 'no output'}"


# ---------------------------------------------------------------------- trainings


@dataclass(frozen=True)
class Texts:
    """The files of the training, validation and test text."""

    train: Path
    valid: Path
    test: Path


def the_texts(folder: Path | None) -> Texts:
    """The texts in `folder`, or those of Penn Treebank, which must have been fetched."""
    if folder is None:
        splits = load_corpus("ptb").splits
        assert splits.valid is not None
        assert splits.test is not None
        return Texts(splits.train.paths[0], splits.valid.paths[0], splits.test.paths[0])
    texts = Texts(*(folder / f"{part}.txt" for part in ("train", "valid", "test")))
    for path in (texts.train, texts.valid, texts.test):
        if not path.is_file():
            raise JobsError(f"{path} does not exist: --data must be a folder with train.txt, valid.txt and test.txt")
    return texts


def training(folder: Path, preset: str, texts: Texts, *, test: bool = True, **changes: Any) -> Job:
    """A training with a preset and some changed fields, on the symbols of the text; not tested without `test`.

    Raises JobsError if the folder contains a run with other values of these fields.
    """
    if (folder / "run.json").is_file():
        stored = read_record(folder)
        there = stored.train.to_json() | stored.model.options_json()
        for name, value in changes.items():
            if there[name] != value:
                raise JobsError(f"{folder} contains a run with {name} {there[name]}, not {value}: choose another --out")
    options = ["train", str(texts.train), "--valid", str(texts.valid), *(["--test", str(texts.test)] if test else [])]
    options += ["--alphabet", "text", "--device", "cpu", "--preset", preset, "--out", str(folder)]
    return Job(folder.name, (*options, *as_options(changes)), run=folder)


def as_options(changes: Mapping[str, Any]) -> list[str]:
    """Fields of a network or recipe as options of `fastslow train`."""
    made = []
    for name, value in changes.items():
        option = name.replace("_", "-")
        made += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return made


def complete(folder: Path) -> bool:
    path = folder / "result.json"
    return path.is_file() and read_json(path, what="the result").get("status") == "completed"


def rounds(count: int, at_once: int) -> int:
    """The time of `count` jobs of equal length, in units of one job."""
    return -(-count // at_once)
