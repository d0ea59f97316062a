"""What the processes of a job do in the tests of `training.distributed`: started by torchrun, one JSON file a rank.

torchrun --nproc-per-node N -m tests.training.ranks NAME FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from fastslow import cli
from fastslow.data.streams import Streams
from fastslow.data.text import Splits, Text
from fastslow.errors import FastslowError
from fastslow.evaluation import evaluate
from fastslow.lm import StorageError
from fastslow.state import state_tensors
from fastslow.training.accelerated import GraphedUpdater
from fastslow.training.checkpoint import Checkpoint
from fastslow.training.distributed import Group, Ranks, joined
from fastslow.training.launch import find_launch
from fastslow.training.updater import Step, Updater

from ..cli.command import TINY
from ..lm.models import LETTERS, small_lm
from ..lm.models import TEXT as LINES
from .runs import MODEL, RECIPE, SPLITS, run
from .test_graphed import Strict

LONG: dict[str, Any] = {
    "model": MODEL,
    "max_updates": 45,
    "epochs": 50,
    "batch": 5,
    "log_every": 1,
    # With its usual epsilon Adam takes whole steps along gradients that are nothing but rounding, and an untrained
    # network lets them grow; with this one two orders of the same sums stay together.
    "rate": 0.1,
    "epsilon": 0.1,
}
"""More than an epoch of five streams, which no number of ranks shares evenly."""


def main(name: str, folder: Path) -> None:
    launch = find_launch()
    told = SCENARIOS[name](folder)
    (folder / f"{name}-{launch.rank}.json").write_text(json.dumps(told))


def two(folder: Path) -> dict[str, Any]:
    """All that two ranks are asked in one job."""
    told: dict[str, Any] = {}
    result = run(folder / "whole", **LONG)
    told["whole"] = result.to_json()
    told["resumed"] = run(folder / "by-one", resume=True, **LONG, accumulate=2).to_json()
    told["stopped"] = stopped(folder / "stopped", 12, rank=1)
    if find_launch().rank == 0:
        shutil.copytree(folder / "stopped", folder / "for-one")
    told["stopped-resumed"] = run(folder / "stopped", resume=True, **LONG).to_json()
    told["time"] = [run(folder / "time", resume=resume, **LONG, max_time=0.0).status for resume in (False, True)]
    told["failures"] = failures(folder)
    with joined() as ranks:
        assert isinstance(ranks, Group)
        ranks.connect(torch.device("cpu"))
        told["exchange"] = exchanges(ranks)
        told["reduction"] = reduction(ranks)
        told["graphed"] = graphed(ranks)
        told["evaluations"] = evaluations(ranks)
    told["command"] = command(folder)
    return told


def four(folder: Path) -> dict[str, Any]:
    """Four ranks with one or two streams each: a whole run, and the beginning of one."""
    whole = run(folder / "whole", **LONG).to_json()
    stopped(folder / "begun", 17, rank=3)
    return {"whole": whole}


def dying(folder: Path) -> dict[str, Any]:
    """Rank 1 is killed at update 10, and after a restart at update 24."""
    launch = find_launch()
    # The launcher sends it to the rank that is left, as soon as it sees the other dead: maybe before that has spoken.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if launch.rank == 1:
        at_update(24 - 7 if launch.restarts else 10, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return run(folder / "run", **{**LONG, "validate_every": 0}).to_json()


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {"two": two, "four": four, "dying": dying}


# ---------------------------------------------------------------------------------------------------- parts


def at_update(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` in this process's update `number`, counted from 1; what is returned undoes it."""
    real, count = Updater.step, 0

    def step(updater: Updater, *arguments: Any) -> Step:
        nonlocal count
        count += 1
        if count == number:
            act()
        return real(updater, *arguments)

    Updater.step = step  # type: ignore[method-assign]

    def undo() -> None:
        Updater.step = real  # type: ignore[method-assign]

    return undo


def stopped(out: Path, update: int, rank: int = 0) -> dict[str, Any]:
    """A run that a signal to one rank stops."""
    undo = at_update(update, lambda: os.kill(os.getpid(), signal.SIGTERM) if find_launch().rank == rank else None)
    try:
        return run(out, **LONG).to_json()
    finally:
        undo()


def failures(folder: Path) -> dict[str, list[str]]:
    """What each rank says of failures: of rank 0, of rank 1, of rank 0 at a checkpoint."""
    other = Splits(Text.of(bytes(reversed(SPLITS.train.data.tobytes())), "reversed"), SPLITS.valid, SPLITS.test)
    told = {}

    def note(name: str, fn: Callable[[], Any]) -> None:
        try:
            fn()
        except FastslowError as error:
            told[name] = [type(error).__name__, str(error)]

    first = find_launch().rank == 0
    note("folder", lambda: run(folder / "whole"))
    note("text", lambda: run(folder / "text", splits=SPLITS if first else other))
    note("batch", lambda: run(folder / "batch", batch=1))
    note("accumulate", lambda: run(folder / "accumulate", batch=4, accumulate=3))
    real = Checkpoint.write

    def full(checkpoint: Checkpoint, path: Path) -> Path:
        if checkpoint.position.update > 15:
            raise StorageError("cannot write the checkpoint: the disk is full")
        return real(checkpoint, path)

    Checkpoint.write = full  # type: ignore[method-assign]
    note("disk", lambda: run(folder / "disk"))
    Checkpoint.write = real  # type: ignore[method-assign]
    return told


def command(folder: Path) -> list[int]:
    """The statuses of `fastslow train`, and of going on with other options."""
    out = str(folder / "command")
    begun = cli.main(["train", str(folder / "tables.txt"), "--out", out, *TINY, "--max-updates", "10"])
    return [begun, cli.main(["train", "--resume", "--out", out, "--window", "9"])]


def exchanges(ranks: Group) -> dict[str, Any]:
    mine = {"a": torch.tensor([1.5, -0.0]), "b": torch.tensor(3, dtype=torch.int64), "c": torch.ones(2, 3).bfloat16()}
    got = ranks.tensors({} if not ranks.leads else {**mine, "d": torch.empty(0, 2), "e": torch.tensor([True, False])})
    columns = ranks.columns(3)
    assert columns is not None
    rows = torch.arange(6.0).reshape(3, 2)
    whole = ranks.whole((rows[columns], 2 * rows[columns]), 3)
    return {
        "tensors": {name: [str(value.dtype), value.tolist()] for name, value in got.items()},
        "exact": all(got[name].view(-1).view(torch.uint8).tolist() == mine[name].view(-1).view(torch.uint8).tolist()
                     for name in "ac"),
        "whole": [leaf.tolist() for leaf in whole],
        "largest": ranks.largest(ranks.rank, -ranks.rank),
        "sum": ranks.sum(1.0, ranks.rank),
        "columns": [str(ranks.columns(count)) for count in (1, 2, 5)],
    }  # fmt: skip


def window(columns: slice | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(len(LETTERS), (10, 3), generator=torch.Generator().manual_seed(3))
    tokens = tokens if columns is None else tokens[:, columns]
    return tokens[:-1], tokens[1:]


def reduction(ranks: Group) -> dict[str, float]:
    """How far the gradients are from those of DistributedDataParallel, which takes the mean of the ranks' losses."""
    config = replace(RECIPE, batch=3, clip=0.0)
    columns = ranks.columns(3)
    inputs, targets = window(columns)
    lm, twin = small_lm(), small_lm()
    updater = Updater(lm, config, ranks)
    kept: list[torch.Tensor] = []
    updater._clip = lambda: kept.extend(p.grad.clone() for p in lm.parameters()) or torch.zeros(())  # type: ignore
    loss = float(updater.step(inputs, targets, None, 0.0).loss_nats)
    model = DistributedDataParallel(twin)
    logits, _ = model(inputs)
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    (nats * ranks.size / 3).backward()
    apart = max(float((a - b.grad).abs().max()) for a, b in zip(kept, twin.parameters(), strict=True))
    return {"apart": apart, "loss": abs(loss - ranks.sum(nats.item())[0]), "size": float(kept[0].abs().max())}


def graphed(ranks: Group) -> dict[str, Any]:
    """Whether gradients that are made and applied in two recordings give the same weights, bit for bit."""
    config = replace(RECIPE, batch=3)
    weights, losses = [], []
    for recorded in (False, True):
        lm = small_lm(dropout=0.2, zoneout_h=0.1)
        updater = GraphedUpdater(lm, config, ranks, recorder=Strict()) if recorded else Updater(lm, config, ranks)
        state = None
        torch.manual_seed(5)
        for _ in range(6):
            step = updater.step(*window(ranks.columns(3)), state, 0.01)
            state = step.state
        losses.append(float(step.loss_nats))
        weights.append([p.detach().clone() for p in (*lm.parameters(), *state_tensors(state))])
    return {"same": all(torch.equal(a, b) for a, b in zip(*weights, strict=True)), "losses": losses}


def evaluations(ranks: Ranks) -> list[list[float]]:
    lm = small_lm()
    text = Text.of(LINES[:200], "lines")
    told = []
    for streams, warm in ((1, 0), (2, 0), (3, 5), (8, 2)):
        seen = Seen()
        result = evaluate(lm, text, streams=streams, warm=warm, window=7, sharing=ranks, on_window=seen)
        told.append([streams, warm, result.nats, result.symbols, seen.calls, seen.done])
        assert seen.calls == len(Streams.evaluation(text.data, streams, 7))
    return told


class Seen:
    """Counts an evaluation's windows."""

    def __init__(self) -> None:
        self.calls = self.done = 0

    def __call__(self, done: int, total: int) -> None:
        self.calls, self.done = self.calls + 1, done


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's teardown: a thread of torch's that outlives it aborts the process, once in many times.
    os._exit(0)
