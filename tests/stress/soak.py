#!/usr/bin/env python3
"""Runs that are killed again and again, on full disks and read-only folders, against one that nobody disturbed.

    python tests/stress/soak.py                     30 kills; a few minutes
    python tests/stress/soak.py --kills 3 --short   less of everything; half a minute

A small network is trained on sources of the standard library by `fastslow train`, a process of its own, once without
disturbance. Then the same run is made again, and again, but killed with SIGKILL: at random moments from outside, and
from inside at places that a random moment hardly meets (half of a checkpoint written, before and after a rename, half a
line of metrics, in a validation, in the test, ...); SIGTERM and SIGINT stop it as well. Each time `fastslow train
--resume` goes on. Checkpoints are made by step in one run and by time in the next. After each kill:

    `fastslow info`, `evaluate`, `sample` and `score` on the folder work, or say in one line why not;
    no more work is lost than since the last checkpoint was due;
    a second process is refused while the first has the folder (once a run).

Then a disk that is full (a tmpfs of its own, where mounts are permitted; else a limit on the size of files) and a
folder that is read-only. In the end weights, optimiser, carried state, random generators, metrics and result of every
run are those of the undisturbed one, byte for byte but for times. Prints a table; the status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULES = ("argparse", "ast", "datetime", "dataclasses", "inspect", "typing")
"""Whose sources are the text."""

NETWORK = ["--embedding-size", "12", "--hidden-size", "48", "--slow-size", "32"]
NETWORK += ["--dropout", "0.1", "--zoneout-h", "0.05", "--zoneout-c", "0.2"]
RECIPE = ["--batch", "16", "--window", "40", "--rate", "0.01", "--epochs", "99", "--random-offset", "--average", "0.9"]
RECIPE += [
    "--schedule",
    "plateau",
    "--patience",
    "1",
    "--log-every",
    "1",
    "--valid-streams",
    "8",
    "--test-streams",
    "4",
]
BY_STEP = 15
"""Updates between checkpoints, where they are made by step."""

CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "model.safetensors"
FIRST = ("before the rename of run.json", "half of config.json", "after the rename of config.json")
OFTEN = (
    f"half of {CHECKPOINT}",
    f"before the rename of {CHECKPOINT}",
    f"after the rename of {CHECKPOINT}",
    "half a line of metrics.jsonl",
)
PLACES = (
    *OFTEN,
    "in a validation",
    f"half of {WEIGHTS}",
    f"before the rename of {WEIGHTS}",
    f"after the rename of {WEIGHTS}",
    "half of run.json",
)
LAST = ("in the test", "half of result.json", "after the rename of result.json")
AT_RANDOM, STOPS = "at a random moment", {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
FILES = {".lock", "run.json", "config.json", CHECKPOINT, WEIGHTS, "metrics.jsonl", "result.json", "tensorboard"}
TIMES = ("seconds", "characters_per_second", "elapsed", "metrics_bytes")
"""What differs between equal runs: times, and the length of the lines that tell them."""

PATIENCE = 600.0
"""Seconds after which a process that should have ended has failed."""


# ---------------------------------------------------------------------- inside a run that is to be killed


def arm(place: str, nth: int) -> None:
    """Have this process killed when it comes to `place` for the `nth` time."""
    left = [nth]

    def there() -> bool:
        left[0] -= 1
        return left[0] == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if place.startswith(("before the rename of ", "after the rename of ")):
        _arm_rename(place.split(" of ")[1], place.startswith("before"), there, die)
    elif place == "half a line of metrics.jsonl":
        from fastslow.training.folder import Metrics

        write = Metrics.write

        def half_line(self: Metrics, line: Any) -> None:
            if there():
                data = json.dumps(line).encode()
                self._file.write(data[: len(data) // 2])
                self._file.flush()
                die()
            write(self, line)

        Metrics.write = half_line  # type: ignore[method-assign]
    elif place.startswith("half of "):
        _arm_write(place.removeprefix("half of "), there, die)
    else:
        from fastslow.cli.progress import TrainingView
        from fastslow.training.events import Evaluating

        part = {"in a validation": "valid", "in the test": "test"}[place]
        show = TrainingView.__call__

        def view(self: TrainingView, event: Any) -> None:
            if isinstance(event, Evaluating) and event.part == part and 2 * event.done >= event.total and there():
                die()
            show(self, event)

        TrainingView.__call__ = view  # type: ignore[method-assign]


def _arm_rename(name: str, before: bool, there: Callable[[], bool], die: Callable[[], None]) -> None:
    replace = os.replace

    def rename(source: Any, target: Any) -> None:
        now = Path(target).name == name and there()
        if now and before:
            die()
        replace(source, target)
        if now:
            die()

    os.replace = rename  # type: ignore[assignment]


def _arm_write(name: str, there: Callable[[], bool], die: Callable[[], None]) -> None:
    from fastslow import storage

    write = storage.write_atomic

    def write_half(path: Path, fill: Callable[[Any], None], *, what: str | None = None) -> None:
        def half(file: Any) -> None:
            whole = io.BytesIO()
            fill(whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            die()

        write(path, half if path.name == name and there() else fill, what=what)

    storage.write_atomic = write_half


# ---------------------------------------------------------------------- processes


@dataclass
class Ended:
    """How a process ended. begun: whether it came as far as training. said: its stderr, line by line."""

    status: int
    begun: bool
    said: list[str]

    def error(self) -> str:
        """The one line a command failed with, or "" if it was not one line."""
        lines = [line for line in self.said if line.startswith("fastslow: error: ")]
        return lines[0] if len(lines) == 1 and not any("Traceback" in line for line in self.said) else ""


class Training:
    """A `fastslow train` of its own."""

    def __init__(self, arguments: list[str], *, place: str = "", nth: int = 1, file_limit: int = 0) -> None:
        head = [sys.executable, __file__, "--at", place, "--nth", str(nth)] if place else fastslow()
        self.process = subprocess.Popen(
            [*head, "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: limit_files(file_limit)) if file_limit else None,
        )
        self.said: list[str] = []
        self.begun = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))
            if line.startswith("run folder "):
                self.begun.set()

    def runs_for(self, seconds: float) -> bool:
        """Wait; whether it still runs then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def comes_to_train(self) -> bool:
        """Wait for it to train; False if it ended before."""
        end = time.monotonic() + PATIENCE
        while not self.begun.wait(0.2):
            if self.process.poll() is not None or time.monotonic() > end:
                self._reader.join(5.0)
                return self.begun.is_set()
        return True

    def end(self, number: signal.Signals | None = None) -> Ended:
        """Send a signal, if one is given, and wait."""
        if number is not None:
            self.process.send_signal(number)
        if self.runs_for(PATIENCE):
            self.process.kill()
            self.said.append(f"it did not end within {PATIENCE:g} s")
        self.process.wait()
        self._reader.join()
        return Ended(self.process.returncode, self.begun.is_set(), self.said)


def fastslow() -> list[str]:
    return [sys.executable, "-m", "fastslow"]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def ask(*arguments: str) -> tuple[int, str]:
    """`fastslow` in this process: its status, and what it says on stderr."""
    from fastslow.cli import main

    said, printed = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        status = main(list(arguments))
    return status, said.getvalue()


# ---------------------------------------------------------------------- what there must be


@dataclass
class Outcome:
    """What happened to a run: a row of the table."""

    name: str
    kills: Counter[str] = field(default_factory=Counter)
    stops: int = 0
    resumed: int = 0
    lost_updates: int = 0
    lost_seconds: float = 0.0
    worked: int = 0
    explained: int = 0
    half_written: int = 0
    note: str = ""
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.name}: {text}")


@dataclass(frozen=True)
class Bench:
    """Where it happens, and the run that nobody disturbed: its folder, and the seconds it took to begin and to end."""

    out: Path
    text: Path
    few: Path
    updates: int
    startup: float = 0.0
    work: float = 0.0

    @property
    def reference(self) -> Path:
        return self.out / "undisturbed"

    def train(self, folder: Path, *checkpoints: str) -> list[str]:
        """Arguments that start a run."""
        each = str(self.updates // 10)
        ends = ["--max-updates", str(self.updates), "--validate-every", each]
        return [str(self.text), "--out", str(folder), "--device", "cpu", *NETWORK, *RECIPE, *ends, *checkpoints]


def resume(folder: Path) -> list[str]:
    return ["--resume", "--out", str(folder)]


def differences(bench: Bench, folder: Path) -> list[str]:
    """In what a complete run is not the undisturbed one."""
    one, other = bench.reference, folder
    found = [
        f"{name} differs"
        for name in (WEIGHTS, "config.json")
        if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    a, b = stored(one / CHECKPOINT), stored(other / CHECKPOINT)
    found += [f"{name} differs in {CHECKPOINT}" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    for name in ("metrics.jsonl", "result.json"):
        lines, others = ([told(line) for line in documents(path / name)] for path in (one, other))
        unequal = [i for i, (x, y) in enumerate(zip(lines, others, strict=False), 1) if x != y]
        if unequal or len(lines) != len(others):
            where = f"first in {unequal[0]}" if unequal else f"{len(others)} lines, not {len(lines)}"
            found.append(f"{name} differs: {where}")
    return found + [f"{path.name} lies around" for path in other.iterdir() if path.name not in FILES]


def documents(path: Path) -> list[Any]:
    """The JSON documents in a file: one, or one a line."""
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


def told(value: Any) -> Any:
    """A JSON value without times."""
    if isinstance(value, dict):
        return {name: told(part) for name, part in value.items() if name not in TIMES}
    return value


def stored(path: Path) -> dict[str, Any]:
    """Every tensor's bytes and the rest of a checkpoint, without times."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        values: dict[str, Any] = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        return {**values, "its record": told(json.loads(file.metadata()["fastslow"]))}


def lost(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """The lines of metrics of updates that the checkpoint does not have, and the run's seconds at the checkpoint."""
    from safetensors import safe_open

    from fastslow.training.folder import read_metrics

    position = {"update": 0, "elapsed": 0.0}
    if (folder / CHECKPOINT).exists():
        with safe_open(folder / CHECKPOINT, framework="np") as file:
            position = json.loads(file.metadata()["fastslow"])["position"]
    lines = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    return [x for x in lines if x["kind"] == "train" and x["update"] > position["update"]], position["elapsed"]


def check_loss(folder: Path, outcome: Outcome, every: int, seconds: float) -> None:
    """No more is lost than since a checkpoint was due: `every` updates, or `seconds` and the update in hand."""
    lines, elapsed = lost(folder)
    if not lines:
        return
    outcome.lost_updates = max(outcome.lost_updates, len(lines))
    outcome.lost_seconds = max(outcome.lost_seconds, lines[-1]["seconds"] - elapsed)
    if every and len(lines) > every:
        outcome.fault(f"{len(lines)} updates lost, with checkpoints every {every}")
    # The first of them ended after the checkpoint did, and none may begin when the next checkpoint is due.
    if seconds and len(lines) > 1 and lines[-2]["seconds"] - lines[0]["seconds"] >= seconds:
        outcome.fault(
            f"{lines[-2]['seconds'] - lines[0]['seconds']:.2f} s lost, with checkpoints every {seconds:.2f} s"
        )


def check_folder(bench: Bench, folder: Path, outcome: Outcome) -> None:
    """Every command works on the folder, or says in one line why not; all work once there are weights."""
    outcome.half_written += len(list(folder.glob(".*.part")))
    name, few = str(folder), str(bench.few)
    for arguments in (
        ("info", name),
        ("evaluate", name, few, "--streams", "2"),
        ("sample", name, "--length", "8", "--seed", "1"),
        ("score", few, "--model", name, "--json"),
    ):
        try:
            status, said = ask(*arguments)
        except Exception as error:
            outcome.fault(f"{arguments[0]} raised {type(error).__name__}: {error}")
            continue
        if status == 0:
            outcome.worked += 1
        elif status == 2 and said.startswith("fastslow: error: ") and said.count("\n") == 1:
            outcome.explained += 1
            if (folder / WEIGHTS).exists():
                outcome.fault(f"there are weights, but {arguments[0]} says {said.strip()}")
        else:
            outcome.fault(f"{arguments[0]} ended with status {status}: {said.strip()[-200:]}")


# ---------------------------------------------------------------------- the stages


def undisturbed(bench: Bench) -> Bench:
    """Make the run that the others are compared with; the bench with its times."""
    begun = time.monotonic()
    training = Training(bench.train(bench.reference, "--checkpoint-every", str(BY_STEP)))
    training.comes_to_train()
    started = time.monotonic()
    ended = training.end()
    if ended.status != 0:
        raise SystemExit("soak: the undisturbed run failed: " + " ".join(ended.said[-3:]))
    return Bench(bench.out, bench.text, bench.few, bench.updates, started - begun, time.monotonic() - started)


def plan(kills: int, choose: random.Random) -> list[str]:
    """Where a run is killed or stopped, in this order: at its beginning, on its way, at its end."""
    first = [*FIRST][: kills // 5]
    last = [*LAST][: max(1, min(3, kills // 5))]
    left = max(0, kills - len(first) - len(last))
    middle = choose.sample(PLACES, min(len(PLACES), (left + 1) // 2))
    middle += [AT_RANDOM] * (left - len(middle)) + [*STOPS][: max(1, min(2, kills // 5))]
    choose.shuffle(middle)
    return [*first, *middle, *last]


def killed(bench: Bench, name: str, kills: int, every: int, seconds: float, choose: random.Random) -> Outcome:
    """A run that is killed `kills` times, or fewer if it is complete before; stopped by signals; resumed each time."""
    outcome, folder = Outcome(name), bench.out / name.replace(" ", "-")
    start = bench.train(folder, "--checkpoint-every", str(every), "--checkpoint-seconds", f"{seconds:.3g}")
    places = plan(kills, choose)
    on_the_way = sum(place not in FIRST + LAST for place in places)
    for place in places:
        arguments = resume(folder) if (folder / "run.json").exists() else start
        outcome.resumed += arguments is not start
        if place == AT_RANDOM or place in STOPS:
            training = Training(arguments)
            if place == AT_RANDOM and choose.random() < 0.15:
                training.runs_for(choose.uniform(0.0, bench.startup))
            elif training.comes_to_train():
                if not outcome.note:
                    refused(training, folder, outcome)
                training.runs_for(choose.uniform(0.0, 0.5 * bench.work / on_the_way))
            ended = training.end(STOPS.get(place, signal.SIGKILL))
        else:
            nth = choose.randint(1, 2) if place in OFTEN else 1
            ended = Training(arguments, place=place, nth=nth).end()
        if ended.status == 0:  # it was complete before
            break
        if ended.status == -signal.SIGKILL:
            outcome.kills[place] += 1
            check_loss(folder, outcome, every, seconds)
        elif ended.status == 130 and place in STOPS:
            outcome.stops += 1
            if lost(folder)[0]:
                outcome.fault(f"{place} lost {len(lost(folder)[0])} updates")
        else:
            outcome.fault(f"killed {place}, it ended with status {ended.status}: {ended.said[-1:]}")
            break
        check_folder(bench, folder, outcome)
    finish(bench, folder, outcome)
    return outcome


def finish(bench: Bench, folder: Path, outcome: Outcome) -> None:
    """Let the run come to its end, and compare."""
    ended = Training(resume(folder)).end()
    outcome.resumed += 1
    if ended.status != 0:
        outcome.fault(f"the last process ended with status {ended.status}: {ended.said[-1:]}")
    else:
        for text in differences(bench, folder):
            outcome.fault(text)
        check_folder(bench, folder, outcome)


def refused(training: Training, folder: Path, outcome: Outcome) -> None:
    """A second process does not get the folder that another has. The first stands still meanwhile, to be there."""
    training.process.send_signal(signal.SIGSTOP)
    if training.process.poll() is None:
        ended = Training(resume(folder)).end()
        if ended.status != 2 or f"is in use: process {training.process.pid} is training" not in ended.error():
            outcome.fault(f"a second process was not refused: status {ended.status}, {ended.said[-1:]}")
        outcome.note = "a second process is refused"
    training.process.send_signal(signal.SIGCONT)


def expect(outcome: Outcome, ended: Ended, *words: str) -> None:
    """A process failed in one line that has these words."""
    error = ended.error()
    if ended.status != 2 or not all(word in error for word in words):
        outcome.fault(f"not told of {' and '.join(words)}: status {ended.status}, {ended.said[-1:]}")


def full_disk(bench: Bench, folder: Path, choose: random.Random) -> Outcome:
    """A checkpoint that does not fit; a disk that fills up at some moment; a start on one that is full."""
    outcome = Outcome("full disk", note="tmpfs")
    size = (bench.reference / CHECKPOINT).stat().st_size
    start = bench.train(folder, "--checkpoint-every", str(BY_STEP), "--checkpoint-seconds", "0")
    with tmpfs(folder.parent, size * 3 // 2) as resize:
        expect(
            outcome, Training(start).end(), "the disk is full", f"the checkpoint of update {BY_STEP} is kept: make room"
        )
        check_folder(bench, folder, outcome)
        resize(size * 8)
        for seconds in (choose.uniform(0.0, bench.work / 4), choose.uniform(0.0, bench.work / 4)):
            training = Training(resume(folder))
            outcome.resumed += 1
            training.comes_to_train()
            training.runs_for(seconds)
            ballast(folder.parent / "ballast")
            expect(outcome, training.end(), "the disk is full", "is kept: make room")
            check_folder(bench, folder, outcome)
            expect(outcome, Training(resume(folder)).end(), "the disk is full")
            check_folder(bench, folder, outcome)
            (folder.parent / "ballast").unlink()
        check_loss(folder, outcome, BY_STEP, 0.0)
        finish(bench, folder, outcome)
    return outcome


def ballast(path: Path) -> None:
    """Fill the disk."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def file_limit(bench: Bench, folder: Path) -> Outcome:
    """Where there is no disk of one's own: a checkpoint that is larger than the system allows."""
    outcome = Outcome("file limit", note="no mounts here: RLIMIT_FSIZE instead of a full disk")
    start = bench.train(folder, "--checkpoint-every", str(BY_STEP))
    size = (bench.reference / CHECKPOINT).stat().st_size
    expect(outcome, Training(start, file_limit=size // 2).end(), "file too large", "there was no checkpoint yet")
    check_folder(bench, folder, outcome)
    training = Training(resume(folder))
    training.comes_to_train()
    training.runs_for(bench.work / 2)
    training.end(signal.SIGKILL)
    expect(outcome, Training(resume(folder), file_limit=size // 2).end(), "file too large", "is kept: make room")
    check_folder(bench, folder, outcome)
    finish(bench, folder, outcome)
    return outcome


def read_only(bench: Bench, folder: Path, mounted: bool, choose: random.Random) -> Outcome:
    """A folder that may be read only: what reads it works, what writes says so, and nothing changes."""
    outcome = Outcome("read-only folder", note="tmpfs, remounted" if mounted else "permissions")
    start = bench.train(folder, "--checkpoint-every", str(BY_STEP))
    with tmpfs(folder.parent, 1 << 26) if mounted else permissions(folder) as resize:
        training = Training(start)
        training.comes_to_train()
        training.runs_for(bench.work * choose.uniform(0.3, 0.6))
        training.end(signal.SIGKILL)
        outcome.kills[AT_RANDOM] += 1
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        resize(None)
        expect(outcome, Training(resume(folder)).end(), "cannot write", str(folder))
        expect(outcome, Training(bench.train(folder / "other")).end(), "cannot make the folder")
        check_folder(bench, folder, outcome)
        if before != {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}:
            outcome.fault("it was written to")
        resize(1 << 26)
        finish(bench, folder, outcome)
    return outcome


# ---------------------------------------------------------------------- mounts


def namespace() -> list[str] | None:
    """The command that gives a process mounts of its own, or None where that is not permitted."""
    try_it = ["sh", "-c", "mount -t tmpfs -o size=1m soak /mnt"]
    for head in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*head, *try_it], capture_output=True, check=False).returncode == 0:
                return head
    return None


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Callable[[int | None], None]]:
    """A small disk at `folder`; yields what makes it another size, or read-only (None)."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "soak", folder], check=True)

    def remount(size: int | None) -> None:
        options = "ro" if size is None else f"rw,size={size}"
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def permissions(folder: Path) -> Iterator[Callable[[int | None], None]]:
    """The same of a folder on a disk of any size."""
    folder.parent.mkdir(parents=True)
    yield lambda size: folder.chmod(0o555 if size is None else 0o755)


def disks(bench: Bench, seed: int) -> list[Outcome]:
    """The stages that need a disk of their own, in a process with mounts of its own where that is permitted."""
    head = namespace()
    if head is None:
        outcomes = [file_limit(bench, bench.out / "limit" / "run")]
        if os.geteuid() != 0:  # permissions do not hold the superuser
            outcomes.append(read_only(bench, bench.out / "read-only" / "run", False, random.Random(seed)))
        return outcomes
    answer = bench.out / "disks.json"
    told = {**vars(bench), "out": str(bench.out), "text": str(bench.text), "few": str(bench.few)}
    subprocess.run([*head, sys.executable, __file__, "--disks", json.dumps(told), "--seed", str(seed)], check=True)
    return [Outcome(**{**row, "kills": Counter(row["kills"])}) for row in json.loads(answer.read_text())]


def disks_inside(told: dict[str, Any], seed: int) -> None:
    bench = Bench(**{**told, "out": Path(told["out"]), "text": Path(told["text"]), "few": Path(told["few"])})
    choose = random.Random(seed)
    outcomes = [
        full_disk(bench, bench.out / "full" / "run", choose),
        read_only(bench, bench.out / "read-only" / "run", True, choose),
    ]
    (bench.out / "disks.json").write_text(json.dumps([vars(outcome) for outcome in outcomes]))


# ---------------------------------------------------------------------- all of it


def soak(options: argparse.Namespace) -> int:
    begun = time.monotonic()
    out = options.out.resolve()
    if out.exists():
        if not (out / "few").is_file() and any(out.iterdir()):
            raise SystemExit(f"soak: {out} is not empty, and not of this script: name another folder")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    sources = b"".join(Path(str(importlib.import_module(name).__file__)).read_bytes() for name in MODULES)
    size = 40_000 if options.short else 120_000
    (out / "text").write_bytes(sources[:size])
    (out / "few").write_bytes(sources[:300])
    bench = undisturbed(Bench(out, out / "text", out / "few", 120 if options.short else 300))
    print(
        f"undisturbed: {bench.updates} updates in {bench.work:.1f} s, after {bench.startup:.1f} s to start", flush=True
    )
    choose = random.Random(options.seed)
    # Often enough that a run gets on between two kills, seldom enough that there is something to lose.
    seconds = max(0.05, bench.work / 15)
    outcomes: list[Outcome] = []
    ways = [("by step", BY_STEP, 0.0), ("by time", 0, seconds)]
    if options.kills < 6:
        ways = [("by step and time", BY_STEP, seconds)]
    for number in range(8):
        left = options.kills - sum(sum(outcome.kills.values()) for outcome in outcomes)
        if number >= len(ways) and left <= 0:
            break
        name, every, wait = ways[number % len(ways)]
        share = -(-options.kills // len(ways)) if number < len(ways) else left
        again = f" {number // len(ways) + 1}" if number >= len(ways) else ""
        outcomes.append(killed(bench, name + again, share, every, wait, choose))
        report(outcomes[-1])
    if not options.short:
        for outcome in disks(bench, options.seed):
            report(outcome)
            outcomes.append(outcome)
    return conclude(outcomes, options, seconds, time.monotonic() - begun)


def report(outcome: Outcome) -> None:
    faults = f", {len(outcome.faults)} faults" if outcome.faults else ", equal to the undisturbed run"
    print(f"{outcome.name}: killed {sum(outcome.kills.values())} times{faults}", flush=True)
    for fault in outcome.faults:
        print(f"  {fault}", flush=True)


def conclude(outcomes: list[Outcome], options: argparse.Namespace, seconds: float, took: float) -> int:
    """Print the table; the exit status."""
    kills: Counter[str] = sum((outcome.kills for outcome in outcomes), Counter())
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if kills.total() < options.kills:
        faults.append(f"only {kills.total()} of {options.kills} kills")
    print(f"\n{'killed':<44} times")
    for place, count in kills.most_common():
        print(f"{place:<44} {count:>5}")
    print(
        f"\n{'run':<18} {'SIGKILL':>7} {'stopped':>7} {'resumed':>7}   {'lost at most':<20} "
        f"{'half-written':>12} {'commands worked, explained':>27}   equal"
    )
    for o in outcomes:
        lost = f"{o.lost_updates} updates, {o.lost_seconds:.2f} s"
        print(
            f"{o.name:<18} {o.kills.total():>7} {o.stops:>7} {o.resumed:>7}   {lost:<20} {o.half_written:>12} "
            f"{f'{o.worked}, {o.explained}':>27}   {'NO' if o.faults else 'yes'}{f'  ({o.note})' if o.note else ''}"
        )
    print(
        f"\n{kills.total()} kills, {sum(o.stops for o in outcomes)} stops by signal; checkpoints every {BY_STEP} "
        f"updates or {seconds:.2f} s; seed {options.seed}; {took:.0f} s"
    )
    for fault in faults:
        print(f"soak: {fault}")
    print("every run equals the undisturbed one, bit for bit" if not faults else f"soak: {len(faults)} faults")
    if not faults and not options.keep:
        shutil.rmtree(options.out)
    return 1 if faults else 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--at"]:
        from fastslow.cli import main as command

        arm(arguments[1], int(arguments[3]))
        sys.argv[1:] = arguments[4:]
        return command()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="at least so many (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="of the places and moments (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/soak"), help="folder for everything; removed in the end if all went well"
    )
    parser.add_argument("--short", action="store_true", help="a shorter run, and no disks")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--disks", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.disks is not None:
        disks_inside(options.disks, options.seed)
        return 0
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    return soak(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
