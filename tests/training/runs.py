"""Runs of a second: a small text, network and recipe, and what to compare of two runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fastslow.data.text import Splits, Text, split_fractions
from fastslow.lm import ModelOptions
from fastslow.training import RunResult, TrainConfig, read_metrics, train
from fastslow.training.events import Event

TEXT = b"".join(b"%d times %d is %d\n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(120))
SPLITS = split_fractions(Text.of(TEXT, "tables"), 0.8, 0.1, 0.1)
# A validation text that training makes ever less likely: the best weights are the first.
AGAINST = Splits(SPLITS.train, Text.of(bytes(range(33, 48)) * 20, "signs"), SPLITS.test)
MODEL = ModelOptions(embedding_size=6, hidden_size=8, slow_size=5, dropout=0.1, zoneout_h=0.1, zoneout_c=0.2)
RECIPE = TrainConfig(
    batch=4,
    window=8,
    epochs=2,
    max_updates=30,
    rate=1e-2,
    schedule="cosine",
    warmup=3,
    validate_every=10,
    valid_streams=8,
    test_streams=8,
    log_every=4,
    checkpoint_every=7,
    checkpoint_seconds=0.0,
    tensorboard=False,
)
TIMES = ("seconds", "characters_per_second")


class Killed(BaseException):
    """Ends a process's work where it stands, as a signal that cannot be caught would."""


def run(
    out: Path,
    *,
    model: ModelOptions = MODEL,
    splits: Splits = SPLITS,
    resume: bool = False,
    progress: Callable[[Event], None] | None = None,
    **changes: Any,
) -> RunResult:
    return train(
        model,
        replace(RECIPE, **changes),
        splits,
        out,
        device="cpu",
        backend="reference",
        resume=resume,
        progress=progress,
    )


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics without the times."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(out)]


def tensors(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor in a file."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - it is no mapping


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit the same best weights, the same final checkpoint and the same metrics."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert tensors(one / "checkpoint.safetensors") == tensors(other / "checkpoint.safetensors")
    assert metrics(one) == metrics(other)
