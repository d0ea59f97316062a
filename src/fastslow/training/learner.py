"""The trained objects: the model, its optimizer and weight average, the carried state, and the position."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastslow.data.streams import Window, random_resets
from fastslow.lm.config import LMConfig
from fastslow.lm.model import CharLM
from fastslow.state import map_state, reset_rows
from fastslow.storage import ModelError
from fastslow.training.accelerated import make_updater
from fastslow.training.checkpoint import Checkpoint, Position, random_state, set_random_state
from fastslow.training.config import TrainConfig
from fastslow.training.distributed import Ranks
from fastslow.training.schedule import Plateau
from fastslow.training.updater import Step, TailAverage, Updating, WeightAverage


class Learner:
    """Everything that an update changes and a checkpoint stores.

    `state` is the state of this rank's `columns` of the batch after the last window, or None at the start of an epoch;
    `average` is the average of the weights, or None. Creating a learner sets torch's seed to that of the recipe.
    """

    def __init__(
        self, lm_config: LMConfig, config: TrainConfig, backend: str, ranks: Ranks, device: torch.device
    ) -> None:
        self.config, self.ranks, self.device = config, ranks, device
        columns = ranks.columns(config.batch)
        assert columns is not None  # a batch has a stream for every rank
        self.columns = columns
        torch.manual_seed(config.seed)
        # Created on the CPU, so that a seed gives the same weights on all devices.
        self.lm = CharLM(lm_config, backend=backend).to(device)
        self.updater: Updating = make_updater(self.lm, config, ranks)
        self.average = _average(self.lm, config)
        self.position = Position()
        self.plateau = Plateau(config.patience)
        self.state: Any = None

    def restore(self, stored: Checkpoint, out: Path) -> None:
        """Restore the checkpoint of the run in `out`. Raises ModelError if it is damaged."""
        self.position = stored.position
        self.state = None if stored.state is None else map_state(itemgetter(self.columns), stored.state)
        self.lm.load_state_dict(stored.model)
        if stored.adam:
            self.updater.load_tensors(stored.adam)
        if self.average is not None:
            if not stored.average:
                raise ModelError(f"the checkpoint in {out} is damaged: it lacks the weight average")
            self.average.load_tensors(stored.average)
        set_random_state(stored.rng, self.device, f"the checkpoint in {out}")
        p = self.position
        self.plateau = Plateau(self.config.patience, decays=p.decays, waited=p.waited)

    def checkpoint(self, whole_state: Any) -> Checkpoint:
        """The checkpoint of the current position; whole_state: the state of all columns."""
        return Checkpoint(
            position=self.position,
            model=self.lm.state_dict(),
            adam=self.updater.tensors(),
            average={} if self.average is None else self.average.tensors(),
            state=whole_state,
            rng=random_state(self.device),
        )

    def best_weights(self) -> dict[str, Tensor]:
        """The weights that are validated and saved: their average, if there is one."""
        return self.lm.state_dict() if self.average is None else self.average.tensors()

    def update(self, window: Window, rate: float, done: float) -> Step:
        """One update on a window; `done` is the completed fraction of the run."""
        p, config = self.position, self.config
        if config.reset and self.state is not None:
            rows = random_resets(config.seed, p.update, config.batch, config.reset)
            self.state = reset_rows(self.state, torch.from_numpy(rows)[self.columns])
        resets = None if window.resets is None else self._sent(window.resets)
        step = self.updater.step(self._sent(window.inputs), self._sent(window.targets), self.state, rate, resets)
        self.state = step.state
        p.update += 1
        p.window += 1
        p.averaged = p.averaged + 1 if config.average_from and done >= config.average_from else 0
        if self.average is not None:
            self.average.update(p.averaged if config.average_from else p.update)
        return step

    def _sent(self, tokens: Tensor) -> Tensor:
        """Tokens on the device, without waiting for the previous update."""
        if self.device.type != "cuda":
            return tokens.to(self.device)
        return tokens.pin_memory().to(self.device, non_blocking=True)


def _average(lm: CharLM, config: TrainConfig) -> WeightAverage | None:
    if config.average_from > 0:
        return TailAverage(lm)
    return WeightAverage(lm, config.average) if config.average > 0 else None
