"""Checks after a kill and at the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.soak.places import CHECKPOINT, WEIGHTS
from tests.stress.soak.processes import Ended, ask

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
FILES = {".lock", "run.json", "config.json", CHECKPOINT, WEIGHTS, "metrics.jsonl", "result.json", "tensorboard"}
TIMES = ("seconds", "characters_per_second", "elapsed", "metrics_bytes")
"""Fields that differ between equal runs: times, and the length of lines with times."""


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
    """The working folder and the uninterrupted run: its folder, and its seconds until it trains and until it ends."""

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


def differences(bench: Bench, folder: Path) -> list[str]:
    """The differences between a complete run and the uninterrupted one."""
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
    return found + [f"{path.name} was left behind" for path in other.iterdir() if path.name not in FILES]


def documents(path: Path) -> list[Any]:
    """The JSON documents in a file: one, or one per line."""
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
    """The lines of metrics after the checkpoint, and the run's seconds at the checkpoint."""
    from safetensors import safe_open

    from fastslow.training.folder import read_metrics

    position = {"update": 0, "elapsed": 0.0}
    if (folder / CHECKPOINT).exists():
        with safe_open(folder / CHECKPOINT, framework="np") as file:
            position = json.loads(file.metadata()["fastslow"])["position"]
    lines = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    return [x for x in lines if x["kind"] == "train" and x["update"] > position["update"]], position["elapsed"]


def check_loss(folder: Path, outcome: Outcome, every: int, seconds: float) -> None:
    """Only work since the last due checkpoint is lost: `every` updates, or `seconds` plus the current update."""
    lines, elapsed = lost(folder)
    if not lines:
        return
    outcome.lost_updates = max(outcome.lost_updates, len(lines))
    outcome.lost_seconds = max(outcome.lost_seconds, lines[-1]["seconds"] - elapsed)
    if every and len(lines) > every:
        outcome.fault(f"{len(lines)} updates lost, with checkpoints every {every}")
    # The first of them ended after the checkpoint, and none may start after the next checkpoint is due.
    if seconds and len(lines) > 1 and lines[-2]["seconds"] - lines[0]["seconds"] >= seconds:
        outcome.fault(
            f"{lines[-2]['seconds'] - lines[0]['seconds']:.2f} s lost, with checkpoints every {seconds:.2f} s"
        )


def check_folder(bench: Bench, folder: Path, outcome: Outcome) -> None:
    """Every command works on the folder or fails with a one-line error; all work once there are weights."""
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
            outcome.fault(f"{arguments[0]} exited with status {status}: {said.strip()[-200:]}")


def expect(outcome: Outcome, ended: Ended, *words: str) -> None:
    """Check that a process failed with a one-line error that contains these words."""
    error = ended.error()
    if ended.status != 2 or not all(word in error for word in words):
        outcome.fault(f"the error does not mention {' and '.join(words)}: status {ended.status}, {ended.said[-1:]}")
