"""Full disks and read-only folders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.stress.soak.checks import Bench, Outcome, check_folder, check_loss, expect
from tests.stress.soak.kills import BY_STEP, finish
from tests.stress.soak.places import AT_RANDOM, CHECKPOINT
from tests.stress.soak.processes import PROGRAM, Training, resume


def full_disk(bench: Bench, folder: Path, choose: random.Random) -> Outcome:
    """A checkpoint that does not fit; a disk that fills up at a random time; a start on a full disk."""
    outcome = Outcome("full disk", note="tmpfs")
    size = (bench.reference / CHECKPOINT).stat().st_size
    start = bench.train(folder, "--checkpoint-every", str(BY_STEP), "--checkpoint-seconds", "0")
    with tmpfs(folder.parent, size * 3 // 2) as resize:
        expect(
            outcome,
            Training(start).end(),
            "the disk is full",
            f"the checkpoint of step {BY_STEP} is kept: free some space",
        )
        check_folder(bench, folder, outcome)
        resize(size * 8)
        for seconds in (choose.uniform(0.0, bench.work / 4), choose.uniform(0.0, bench.work / 4)):
            training = Training(resume(folder))
            outcome.resumed += 1
            training.comes_to_train()
            training.runs_for(seconds)
            ballast(folder.parent / "ballast")
            expect(outcome, training.end(), "the disk is full", "is kept: free some space")
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
    """Without a separate disk: a checkpoint that is larger than the system allows."""
    outcome = Outcome("file limit", note="no mounts here: RLIMIT_FSIZE instead of a full disk")
    start = bench.train(folder, "--checkpoint-every", str(BY_STEP))
    size = (bench.reference / CHECKPOINT).stat().st_size
    expect(outcome, Training(start, file_limit=size // 2).end(), "file too large", "there was no checkpoint yet")
    check_folder(bench, folder, outcome)
    training = Training(resume(folder))
    training.comes_to_train()
    training.runs_for(bench.work / 2)
    training.end(signal.SIGKILL)
    expect(outcome, Training(resume(folder), file_limit=size // 2).end(), "file too large", "is kept: free some space")
    check_folder(bench, folder, outcome)
    finish(bench, folder, outcome)
    return outcome


def read_only(bench: Bench, folder: Path, mounted: bool, choose: random.Random) -> Outcome:
    """A read-only folder: reading commands work, writing commands fail with an error, and nothing changes."""
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


def namespace() -> list[str] | None:
    """The command that gives a process its own mounts, or None if that is not permitted."""
    try_it = ["sh", "-c", "mount -t tmpfs -o size=1m soak /mnt"]
    for head in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*head, *try_it], capture_output=True, check=False).returncode == 0:
                return head
    return None


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Callable[[int | None], None]]:
    """A small disk at `folder`; yields a function that changes its size, or makes it read-only (None)."""
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
    """The same for a folder on a disk of any size."""
    folder.parent.mkdir(parents=True)
    yield lambda size: folder.chmod(0o555 if size is None else 0o755)


def disks(bench: Bench, seed: int) -> list[Outcome]:
    """The stages that need a separate disk, in a process with its own mounts if permitted."""
    head = namespace()
    if head is None:
        outcomes = [file_limit(bench, bench.out / "limit" / "run")]
        if os.geteuid() != 0:  # permissions do not apply to the superuser
            outcomes.append(read_only(bench, bench.out / "read-only" / "run", False, random.Random(seed)))
        return outcomes
    answer = bench.out / "disks.json"
    told = {**vars(bench), "out": str(bench.out), "text": str(bench.text), "few": str(bench.few)}
    subprocess.run([*head, *PROGRAM, "--disks", json.dumps(told), "--seed", str(seed)], check=True)
    return [Outcome(**{**row, "kills": Counter(row["kills"])}) for row in json.loads(answer.read_text())]


def disks_inside(told: dict[str, Any], seed: int) -> None:
    bench = Bench(**{**told, "out": Path(told["out"]), "text": Path(told["text"]), "few": Path(told["few"])})
    choose = random.Random(seed)
    outcomes = [
        full_disk(bench, bench.out / "full" / "run", choose),
        read_only(bench, bench.out / "read-only" / "run", True, choose),
    ]
    (bench.out / "disks.json").write_text(json.dumps([vars(outcome) for outcome in outcomes]))
