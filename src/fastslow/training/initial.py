"""Runs that start from the weights of a trained model instead of random ones."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from fastslow.data.text import Splits
from fastslow.lm.config import ConfigError, LMConfig, ModelOptions
from fastslow.lm.model import CharLM
from fastslow.training.checkpoint import Checkpoint, Position, random_state
from fastslow.training.config import TrainConfig
from fastslow.training.widening import SIZES, widened

REGULARISATION = ("dropout", "zoneout_h", "zoneout_c")
"""Options of the network that do not affect its weights and may be changed by a run."""


def read_initial(name: str, model: ModelOptions, splits: Splits) -> CharLM:
    """The trained model called `name`, for further training with the options `model`; widened if they are larger.

    Raises ModelError if there is no such model, ConfigError for a network that does not come from it by widening,
    AlphabetError for a text with a symbol outside the model's alphabet.
    """
    found = CharLM.from_pretrained(name, device="cpu")
    options = found.config.options
    for field in fields(ModelOptions):
        has, wanted = getattr(options, field.name), getattr(model, field.name)
        grows = field.name in SIZES and has is not None and wanted is not None and wanted % has == 0
        if field.name not in REGULARISATION and has != wanted and not grows:
            sizes = ", or a whole multiple of this size" if field.name in SIZES else ""
            raise ConfigError(
                f"{name} has {field.name} {has}, not {wanted}: a run that starts from it must use the same "
                f"network{sizes}"
            )
    for part in (splits.train, splits.valid, splits.test):
        if part is not None:
            found.alphabet.check(part.data, name=part.name)
    return widened(found, model)


def configuration(initial: CharLM, model: ModelOptions) -> LMConfig:
    """The configuration of the run's model: the initial one's, with the regularisation of `model`."""
    return replace(initial.config, **{name: getattr(model, name) for name in REGULARISATION})


def write_initial(folder: Path, initial: CharLM, config: TrainConfig, device: torch.device) -> None:
    """Write the checkpoint from which the run's first update starts. Raises StorageError."""
    weights = {name: weight.detach().float() for name, weight in initial.state_dict().items()}
    averaged = config.average > 0 or config.average_from > 0
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(forked, device_type="cuda"):
        torch.manual_seed(config.seed)
        rng = random_state(device)
    Checkpoint(Position(), model=weights, adam={}, average=weights if averaged else {}, state=None, rng=rng).write(
        folder
    )
