from __future__ import annotations

import math

import pytest

from fastslow.training import TrainConfig
from fastslow.training.schedule import Plateau, learning_rate


def rate(config: TrainConfig, update: int = 1000, epoch: int = 0, decays: int = 0, done: float = 0.0) -> float:
    return learning_rate(config, update=update, epoch=epoch, decays=decays, done=done)


def test_penn_treebank_drops_to_a_tenth_after_epoch_181_of_200() -> None:
    config = TrainConfig()
    rates = [rate(config, epoch=epoch) for epoch in range(200)]
    assert rates[:181] == [2e-3] * 181  # epochs 1 to 181
    assert rates[181:] == pytest.approx([2e-4] * 19)


def test_enwik8_drops_after_two_validations_in_a_row_that_did_not_improve() -> None:
    config = TrainConfig(schedule="plateau", rate=1e-3)
    plateau = Plateau(config.patience)
    rates = []
    for improved in (True, False, True, False, False, True, False, False, False, False):
        plateau.observe(improved)
        rates.append(rate(config, decays=plateau.decays))
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-5] * 2 + [1e-6])


def test_a_plateau_goes_on_from_where_it_was() -> None:
    whole, first = Plateau(2), Plateau(2)
    pattern = [False, True, False, False, False]
    for improved in pattern:
        whole.observe(improved)
    for improved in pattern[:3]:
        first.observe(improved)
    second = Plateau(2, decays=first.decays, waited=first.waited)
    for improved in pattern[3:]:
        second.observe(improved)
    assert (second.decays, second.waited) == (whole.decays, whole.waited) == (1, 1)


def test_constant() -> None:
    assert rate(TrainConfig(schedule="constant"), epoch=500, decays=3, done=0.9) == 2e-3


def test_cosine() -> None:
    config = TrainConfig(schedule="cosine", rate=1.0)
    assert [rate(config, done=d) for d in (0.0, 1 / 3, 0.5, 1.0, 1.5)] == pytest.approx([1, 0.75, 0.5, 0, 0])
    later = TrainConfig(schedule="cosine", rate=1.0, anneal_from=0.6, final_rate=0.1)
    assert [rate(later, done=d) for d in (0.3, 0.6, 0.8, 1.0)] == pytest.approx([1, 1, 0.55, 0.1])
    assert rate(TrainConfig(schedule="cosine", anneal_from=1.0), done=1.0) == 2e-3


def test_warm_up_rises_in_equal_steps_and_then_is_over() -> None:
    config = TrainConfig(schedule="constant", rate=1.0, warmup=4)
    assert [rate(config, update=u) for u in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    annealed = TrainConfig(schedule="cosine", rate=1.0, warmup=4)
    assert rate(annealed, update=1, done=0.25) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi / 4)))
