"""The learning rate of an update, as a pure function of the run's position."""

from __future__ import annotations

import math

from fastslow.training.config import TrainConfig


def learning_rate(config: TrainConfig, *, update: int, epoch: int, decays: int, done: float) -> float:
    """Adam's rate for one update.

    update: number of updates before this one. epoch: number of completed epochs. decays: how often the plateau rule has
    applied. done: the completed fraction of the run, 0 to 1 (cosine only).
    """
    rate = config.rate
    if config.schedule == "step" and epoch >= config.decay_epoch:
        rate *= config.decay
    elif config.schedule == "plateau":
        rate *= config.decay**decays
    elif config.schedule == "cosine":
        rate *= _annealing(config, done)
    if update < config.warmup:
        rate *= (update + 1) / config.warmup
    return rate


def _annealing(config: TrainConfig, done: float) -> float:
    """1 up to `anneal_from`, then half a cosine down to `final_rate` at 1."""
    if done <= config.anneal_from:
        return 1.0
    part = min(1.0, (done - config.anneal_from) / (1.0 - config.anneal_from))
    return config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + math.cos(math.pi * part))


class Plateau:
    """Counts validations in a row that did not improve on the best, like the authors' rule for enwik8.

    After `patience` of them the rate decays once and the count restarts; an improvement also restarts it.
    """

    def __init__(self, patience: int, *, decays: int = 0, waited: int = 0) -> None:
        self.patience, self.decays, self.waited = patience, decays, waited

    def observe(self, improved: bool) -> None:
        """Count one validation."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= self.patience:
            self.decays += 1
            self.waited = 0
