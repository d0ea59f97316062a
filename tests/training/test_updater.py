from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastslow.state import state_tensors
from fastslow.training import TrainConfig, precision
from fastslow.training.updater import TailAverage, Updater, WeightAverage

from ..lm.models import LETTERS, small_lm

CONFIG = TrainConfig(batch=3, window=9)


def window(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(len(LETTERS), (10, 3), generator=torch.Generator().manual_seed(seed))
    return tokens[:-1], tokens[1:]


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e6, 0.0])
def test_one_update_is_the_authors(clip: float) -> None:
    """Loss summed over time and averaged over streams, clipped at a global norm, Adam: written out in NumPy."""
    lm, twin = small_lm(dtype=torch.float64), small_lm(dtype=torch.float64)
    config = replace(CONFIG, clip=clip)
    updater = Updater(lm, config)
    first_moment = [np.zeros(p.shape) for p in twin.parameters()]
    second_moment = [np.zeros(p.shape) for p in twin.parameters()]
    state = other = None
    for count in range(1, 4):
        inputs, targets = window(count)
        step = updater.step(inputs, targets, state, rate=0.01 * count)
        logits, other = twin(inputs, other)
        other = type(other)(*(type(pair)(*(leaf.detach() for leaf in pair)) for pair in other))
        nats = -F.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1))
        gradients = torch.autograd.grad(nats.sum(0).mean(), list(twin.parameters()))
        norm = float(torch.sqrt(sum((g**2).sum() for g in gradients)))  # type: ignore[arg-type]
        assert float(step.loss_nats) == pytest.approx(float(nats.detach().sum()))
        assert float(step.gradient_norm) == pytest.approx(norm)
        scale = 1.0 if clip == 0.0 else min(1.0, clip / norm)
        for i, (parameter, gradient) in enumerate(zip(twin.parameters(), gradients, strict=True)):
            g = gradient.numpy() * scale
            first_moment[i] = 0.9 * first_moment[i] + 0.1 * g
            second_moment[i] = 0.999 * second_moment[i] + 0.001 * g * g
            m, v = first_moment[i] / (1 - 0.9**count), second_moment[i] / (1 - 0.999**count)
            with torch.no_grad():
                parameter -= torch.from_numpy(0.01 * count * m / (np.sqrt(v) + 1e-8))
        for (name, mine), theirs in zip(lm.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7, msg=name)
        state = step.state
        for leaf, expected in zip(state_tensors(state), state_tensors(other), strict=True):
            assert not leaf.requires_grad
            torch.testing.assert_close(leaf, expected)


def test_a_mean_over_time_with_the_same_clip_would_be_another_recipe() -> None:
    lm = small_lm()
    step = Updater(lm, CONFIG).step(*window(), None, 0.0)
    with torch.no_grad():
        logits, _ = small_lm()(window()[0])
        mean = F.cross_entropy(logits.flatten(0, 1), window()[1].flatten())
    assert float(step.loss_nats) == pytest.approx(float(mean) * 27, rel=1e-5)


def test_the_optimisers_memory_round_trips_bit_for_bit() -> None:
    lm, twin = small_lm(), small_lm()
    one, other = Updater(lm, CONFIG), Updater(twin, CONFIG)
    assert one.tensors() == {}
    for seed in range(3):
        one.step(*window(seed), None, 0.01)
        other.step(*window(seed), None, 0.01)
    fresh = Updater(twin, CONFIG)
    fresh.load_tensors({name: value.clone() for name, value in other.tensors().items()})
    for seed in range(3, 6):
        one.step(*window(seed), None, 0.02)
        fresh.step(*window(seed), None, 0.02)
    for (name, mine), theirs in zip(lm.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert one.tensors().keys() == fresh.tensors().keys()


def test_the_average_of_the_weights() -> None:
    lm = small_lm(dtype=torch.float64)
    average = WeightAverage(lm, 0.5)
    expected = lm.head.weight.detach().clone()
    for update in range(1, 8):
        with torch.no_grad():
            lm.head.weight.add_(update)
        average.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * lm.head.weight.detach()
    torch.testing.assert_close(average.tensors()["head.weight"], expected)
    latest = lm.head.weight.detach().clone()
    average.swap()
    torch.testing.assert_close(lm.head.weight.detach(), expected)
    average.swap()
    assert torch.equal(lm.head.weight, latest)
    assert average.tensors().keys() == dict(lm.named_parameters()).keys()


def test_the_mean_of_the_last_weights() -> None:
    lm = small_lm(dtype=torch.float64)
    average = TailAverage(lm)
    seen = []
    for count in (0, 0, 1, 2, 3):
        with torch.no_grad():
            lm.head.weight.mul_(-1.5)
        average.update(count)
        seen.append(lm.head.weight.detach().clone())
        if count < 2:
            assert torch.equal(average.tensors()["head.weight"], seen[-1])
    torch.testing.assert_close(average.tensors()["head.weight"], sum(seen[-3:]) / 3)


def test_gradients_of_parts_in_float64() -> None:
    kept = []
    for parts in (1, 3):
        lm = small_lm(dtype=torch.float64, dropout=0.2, zoneout_c=0.3)
        updater = Updater(lm, TrainConfig(batch=3, accumulate=parts, clip=0.0))
        torch.manual_seed(1)
        step = updater.step(*window(), None, 0.01)
        step = updater.step(*window(1), step.state, 0.01)
        kept.append([step.loss_nats, step.gradient_norm, *state_tensors(step.state), *lm.parameters()])
        assert (lm.layer.first_row, lm.layer.noise_key) == (0, None)
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_bf16_is_autocast_around_float32_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    lm = small_lm()
    step = Updater(lm, replace(CONFIG, precision="bf16")).step(*window(), None, 0.01)
    full = Updater(small_lm(), CONFIG).step(*window(), None, 0.01)
    assert step.loss_nats.dtype == torch.float32
    assert lm.head.weight.dtype == torch.float32
    assert float(step.loss_nats) == pytest.approx(float(full.loss_nats), rel=0.02)
    assert float(step.loss_nats) != float(full.loss_nats)
