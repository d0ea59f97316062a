"""Checkpoints: one complete file, replaced atomically.

`checkpoint.safetensors` holds the weights (`model.*`), the optimizer state (`adam.*`), the weight average
(`average.*`), the carried state (`state.0`, ...) and the random generators (`rng.cpu`, `rng.cuda`); its metadata
hold the rest, as JSON.

The best weights are a separate file, `model.safetensors`, written *after* the checkpoint of the same training step: if
a process is killed between the two, they are restored from the checkpoint (`saving.Saver.mend_best`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastslow.lm.config import LMConfig
from fastslow.lm.files import WEIGHTS_FILE
from fastslow.lm.model import CharLM
from fastslow.state import map_state, state_tensors
from fastslow.storage import (
    ModelError,
    TensorSpec,
    check_fields,
    check_tensors,
    check_version,
    is_finite_number,
    parse_json,
    read_tensors,
    write_tensors,
)
from fastslow.training.folder import CHECKPOINT_FILE
from fastslow.training.updater import ADAM_TENSORS

FORMAT_VERSION = 1
COUNTS = ("update", "epoch", "window", "decays", "waited", "averaged", "elapsed", "sum_symbols", "metrics_bytes")
MAX_COUNT = 10**15
"""Limit for counts of steps, symbols and seconds: larger than in any run, and exact in a float."""
RESUME_REMEDY = "start the run again in another folder"


@dataclass
class Position:
    """The position of a run between two training steps: everything that is not a tensor.

    update: training steps done. epoch, window: epochs done, and windows done in the current one.
    validated: the step that was last validated, or -1.
    best_nats, best_update: the best validation loss in nats per symbol, and its step; None before the first.
    decays, waited: state of the plateau rule.
    averaged: number of steps in a tail average.
    elapsed: seconds of all processes so far.
    sum_nats, sum_symbols: since the last line of metrics. metrics_bytes: length of `metrics.jsonl`.
    """

    update: int = 0
    epoch: int = 0
    window: int = 0
    validated: int = -1
    best_nats: float | None = None
    best_update: int | None = None
    decays: int = 0
    waited: int = 0
    averaged: int = 0
    elapsed: float = 0.0
    sum_nats: float = 0.0
    sum_symbols: int = 0
    metrics_bytes: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Position:
        """The position that `asdict` stored. Raises ModelError for anything else."""
        value = {"averaged": 0, **value}  # missing in checkpoints of earlier versions
        check_fields(value, (field.name for field in fields(cls)), where, ModelError)
        for field in fields(cls):
            number = value[field.name]
            optional = field.name in ("best_nats", "best_update") and number is None
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not optional and not (is_finite_number(number) if "float" in str(field.type) else whole):
                raise ModelError(f"{where} is damaged: {field.name} is {str(number)[:40]!r}")
        position = cls(**value)
        for name in COUNTS:
            if not 0 <= value[name] <= MAX_COUNT:
                raise ModelError(f"{where} is damaged: {name} is {str(value[name])[:40]}")
        best = position.best_update
        known = -1 if best is None else best
        if (best is None) != (position.best_nats is None) or not -1 <= known <= position.validated <= position.update:
            raise ModelError(f"{where} is damaged: its best update was never validated")
        return position


@dataclass
class Checkpoint:
    """The content of a checkpoint: the position, and the tensors by group, without the group's prefix."""

    position: Position
    model: dict[str, Tensor]
    adam: dict[str, Tensor]
    average: dict[str, Tensor]
    state: Any
    rng: dict[str, Tensor]

    def write(self, folder: Path) -> Path:
        """Replace the checkpoint in `folder`. Raises StorageError, and then the previous checkpoint is kept."""
        groups: dict[str, dict[str, Tensor]] = {
            "model": self.model,
            "adam": self.adam,
            "average": self.average,
            "state": {} if self.state is None else {str(i): leaf for i, leaf in enumerate(state_tensors(self.state))},
            "rng": self.rng,
        }
        tensors = {f"{group}.{name}": value for group, part in groups.items() for name, value in part.items()}
        head = {
            "format_version": FORMAT_VERSION,
            "position": asdict(self.position),
            "has_adam": bool(self.adam),
            "has_average": bool(self.average),
            "has_state": self.state is not None,
            "rng": {name: len(value) for name, value in sorted(self.rng.items())},
        }
        path = folder / CHECKPOINT_FILE
        metadata = {"fastslow": json.dumps(head, allow_nan=False)}
        write_tensors(path, tensors, metadata, what=f"the checkpoint of step {self.position.update}")
        return path


def read_checkpoint(folder: Path, lm: CharLM, batch: int) -> Checkpoint | None:
    """The checkpoint in `folder`, validated against the model; None if there is none yet. Raises ModelError.

    A run has no weights before its first checkpoint. Weights without a checkpoint belong to a run that cannot be
    resumed, and are not overwritten.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        if (folder / WEIGHTS_FILE).exists():
            raise ModelError(
                f"the run {folder} cannot be resumed: it has its best weights but no {CHECKPOINT_FILE}; use them "
                f"directly, or {RESUME_REMEDY}"
            )
        return None
    where = f"the checkpoint {path}"
    like_state = lm.initial_state(batch)

    def expected(metadata: dict[str, str]) -> dict[str, TensorSpec]:
        return _specs(_head(metadata, where), lm, like_state, where)

    tensors, metadata = read_tensors(path, expected, what="the checkpoint", remedy=RESUME_REMEDY)
    head = _head(metadata, where)
    leaves = iter(tensors[f"state.{i}"] for i in range(len(state_tensors(like_state)))) if head["has_state"] else None
    device = lm.device

    def group(name: str) -> dict[str, Tensor]:
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

    return Checkpoint(
        position=Position.from_json(head["position"], where),
        model=group("model"),
        adam=group("adam"),
        average=group("average"),
        state=None if leaves is None else map_state(lambda leaf: next(leaves).to(device), like_state),
        rng=group("rng"),
    )


def check_checkpoint(folder: Path, config: LMConfig, batch: int) -> None:
    """Raise ModelError unless the checkpoint in `folder`, if there is one, belongs to this network."""
    path = folder / CHECKPOINT_FILE
    if path.exists():
        lm, where = CharLM(config, device="meta"), f"the checkpoint {path}"
        like_state = lm.initial_state(batch)

        def expected(metadata: dict[str, str]) -> dict[str, TensorSpec]:
            return _specs(_head(metadata, where), lm, like_state, where)

        check_tensors(path, expected, what="the checkpoint", remedy=RESUME_REMEDY)


def _head(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """The record in the metadata."""
    if "fastslow" not in metadata:
        raise ModelError(f"{where} was not written by fastslow: it has no record; {RESUME_REMEDY}")
    head = parse_json(metadata["fastslow"], where)
    check_version(head, FORMAT_VERSION, where)
    check_fields(head, ("format_version", "position", "has_adam", "has_average", "has_state", "rng"), where, ModelError)
    return head


_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def _specs(head: Mapping[str, Any], lm: CharLM, like_state: Any, where: str) -> dict[str, TensorSpec]:
    if not isinstance(head["position"], dict) or not isinstance(head["rng"], dict):
        raise ModelError(f"{where} is damaged: its record does not have the fields of a checkpoint; {RESUME_REMEDY}")
    floats = (_NAMES[lm.head.weight.dtype],)
    specs: dict[str, TensorSpec] = {}
    for name, value in lm.state_dict().items():
        shape = tuple(value.shape)
        specs[f"model.{name}"] = TensorSpec(shape, floats)
        if head["has_average"]:
            specs[f"average.{name}"] = TensorSpec(shape, floats)
        if head["has_adam"]:
            for what in ADAM_TENSORS:
                spec = TensorSpec((), ("F32",)) if what == "step" else TensorSpec(shape, floats)
                specs[f"adam.{name}.{what}"] = spec
    if head["has_state"]:
        for i, leaf in enumerate(state_tensors(like_state)):
            specs[f"state.{i}"] = TensorSpec(tuple(leaf.shape), floats)
    for name, length in head["rng"].items():
        if name not in ("cpu", "cuda") or not isinstance(length, int):
            raise ModelError(
                f"{where} is damaged: it has an unknown random generator, {str(name)[:40]!r}; {RESUME_REMEDY}"
            )
        specs[f"rng.{name}"] = TensorSpec((length,), ("U8",))
    return specs


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators that a run on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device, where: str) -> None:
    """Restore the states from `random_state`. Raises ModelError for an invalid state."""
    try:
        if "cpu" in states:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{where} is damaged: its random generator cannot be set; {RESUME_REMEDY}") from error
