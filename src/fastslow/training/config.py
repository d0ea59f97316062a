"""The training recipe: every field can be set from the command line and is stored exactly in JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fastslow.lm.config import ConfigError
from fastslow.storage import check_fields

Schedule = Literal["constant", "step", "plateau", "cosine"]
Precision = Literal["fp32", "bf16"]

CHANGEABLE = (
    "epochs",
    "max_updates",
    "max_time",
    "rate",
    "clip",
    "accumulate",
    "log_every",
    "checkpoint_every",
    "checkpoint_seconds",
    "valid_streams",
    "test_streams",
    "tensorboard",
)
"""Fields that may be changed when a run is resumed."""

ADDED = ("accumulate", "average_from", "jitter", "reset")
"""Fields missing in recipes of earlier versions, which used the default."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe of a run. The defaults are the paper's for Penn Treebank.

    The loss of a window is summed over time and averaged over streams, in nats; its gradient is clipped, and Adam
    takes a step. The state is carried from window to window, detached, and zero at the start of every epoch.

    batch: number of streams, B.
    window: steps of truncated backpropagation, T.
    accumulate: split the batch of each training step into this many parts and accumulate their gradients. The step
        equals that of the whole batch up to rounding; the memory is that of one part.
    epochs: passes over the training text.
    max_updates: stop after this many training steps in total (default: after the last epoch).
    max_time: save and stop this process after this time, in seconds or as in 90m or 1h30m; the run can be resumed.
    rate: Adam's initial learning rate.
    schedule: the learning rate schedule.
        constant: no change.
        step: multiplied by `decay` after `decay_epoch` epochs.
        plateau: multiplied by `decay` after each `patience` validations in a row that did not improve on the best.
        cosine: constant up to the fraction `anneal_from` of the run, then a half cosine down to `final_rate` times it.
    decay, decay_epoch, patience, anneal_from, final_rate: see `schedule`.
    anneal_by_time: with cosine, progress is the larger of the fraction of steps and the fraction of `max_time`, which
        ends the run. The rate is then annealed on a slow machine too, but the run is not reproducible.
    warmup: number of training steps over which the learning rate first rises linearly.
    clip: maximum global norm of the gradient; 0: no clipping.
    beta1, beta2: decay of Adam's moving averages of the gradient and of its square.
    epsilon: Adam's constant that is added to the denominator.
    average: decay of an exponential moving average of the weights; the average is validated, saved and tested. 0: none.
    average_from: instead of `average`, a uniform average of the weights from this fraction of the run on; before it,
        the latest weights are used. 0: none.
    random_offset: start each epoch at a random offset below `window`, so that windows begin at other places.
    jitter: move each boundary between two windows by a random number of steps, at most this many in either direction,
        so that windows differ in length. CPU only: on a GPU training steps are recorded for one length.
    reset: probability of zeroing the state of a stream before each training step.
    precision: "fp32", or "bf16" for autocast; on a GPU validations use it too, the test never does. A CPU without
        bfloat16 instructions (AMX or AVX-512 BF16) trains in float32.
    seed: seed of the initial weights and the masks.
    validate_every: training steps between validations; 0: only at the end of each epoch.
    valid_streams, test_streams: number of streams in validation and test; the paper's authors test with one.
    checkpoint_every: training steps between checkpoints; there is also one at each validation and at the end. 0: none.
    checkpoint_seconds: seconds between checkpoints; 0: none.
    log_every: training steps between lines of metrics.
    tensorboard: write curves for TensorBoard, if it is installed.
    """

    batch: int = 128
    window: int = 150
    accumulate: int = 1
    epochs: int = 200
    max_updates: int | None = None
    max_time: float | None = None
    rate: float = 2e-3
    schedule: Schedule = "step"
    decay: float = 0.1
    decay_epoch: int = 181
    patience: int = 2
    anneal_from: float = 0.0
    final_rate: float = 0.0
    anneal_by_time: bool = False
    warmup: int = 0
    clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    average: float = 0.0
    average_from: float = 0.0
    random_offset: bool = False
    jitter: int = 0
    reset: float = 0.0
    precision: Precision = "fp32"
    seed: int = 1
    validate_every: int = 0
    valid_streams: int = 32
    test_streams: int = 1
    checkpoint_every: int = 0
    checkpoint_seconds: float = 300.0
    log_every: int = 50
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, kinds in (("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ConfigError(f"{name} must be one of {known}; got {str(getattr(self, name))[:40]!r}")
        for name in ("batch", "window", "epochs", "patience", "valid_streams", "test_streams", "log_every"):
            self._check(name, int, 1, 10**9)
        self._check("accumulate", int, 1, self.batch)
        for name in ("decay_epoch", "warmup", "validate_every", "checkpoint_every"):
            self._check(name, int, 0, 10**12)
        self._check("seed", int, 0, 2**63 - 1)
        if self.max_updates is not None:
            self._check("max_updates", int, 1, 10**12)
        if self.max_time is not None:
            self._check("max_time", float, 0.0, 1e9)
        self._check("rate", float, 0.0, 1e3)
        for name in ("decay", "anneal_from", "final_rate"):
            self._check(name, float, 0.0, 1.0)
        self._check("reset", float, 0.0, 1.0)
        self._check("jitter", int, 0, (self.window - 1) // 2)
        for name in ("beta1", "beta2", "average", "average_from"):
            self._check(name, float, 0.0, 1.0, below=True)
        for name in ("clip", "epsilon", "checkpoint_seconds"):
            self._check(name, float, 0.0, 1e12)
        for name in ("anneal_by_time", "random_offset", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false; got {str(getattr(self, name))[:40]!r}")
        if self.average and self.average_from:
            raise ConfigError("average and average_from cannot be combined: set one of them to 0")
        if self.anneal_by_time and (self.schedule != "cosine" or self.max_time is None):
            raise ConfigError(
                f"anneal_by_time needs schedule cosine and a max_time; got schedule {self.schedule} and max_time "
                f"{self.max_time}: change them, or turn it off (--no-anneal-by-time)"
            )

    def _check(self, name: str, kind: type, low: float, high: float, *, below: bool = False) -> None:
        value = getattr(self, name)
        what = "a whole number" if kind is int else "a number"
        kinds = int if kind is int else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high or below * value == 1:
            end = f"at least {low:g} and below {high:g}" if below else f"from {int(low):,} to {int(high):,}"
            raise ConfigError(f"{name} must be {what} {end}; got {str(value)[:40]}")
        if kind is float:
            object.__setattr__(self, name, float(value))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the recipe") -> TrainConfig:
        """The recipe that `to_json` wrote. Raises ConfigError for anything else."""
        added = {field.name: field.default for field in fields(cls) if field.name in ADDED}
        check_fields(added | dict(value), (field.name for field in fields(cls)), where, ConfigError)
        return cls(**value)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds in "90m", "1h30m", "45s", "2d" or "90" (seconds). Raises ConfigError for anything else."""
    folded = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", folded):
        seconds = float(folded)
    elif re.fullmatch(r"(\d+(\.\d+)?[dhms])+", folded):
        seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)([dhms])", folded))
    else:
        raise ConfigError(f"a duration must be like 90m, 1h30m or 45s; got {text[:40]!r}")
    if not 0 < seconds <= 1e9 or not math.isfinite(seconds):
        raise ConfigError(f"a duration must be above zero and below 30 years; got {text[:40]!r}")
    return seconds
