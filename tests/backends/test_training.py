"""Training with an engine is training with the loop."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fastslow import FSLSTM
from fastslow.state import map_state


@pytest.mark.parametrize("backend", ["native", "window"])
def test_training_follows_the_loop(backend: str) -> None:
    """Same seed, same losses: 80 updates in float32, two readings of the text."""
    expected, losses = losses_of("reference"), losses_of(backend)
    assert max(abs(a - b) for a, b in zip(expected, losses, strict=True)) < 1e-4
    assert losses[-1] < 0.6 * losses[0]


@cache
def losses_of(backend: str) -> list[float]:
    torch.manual_seed(1)
    words = torch.randint(0, 11, (37,)).repeat(20)
    text = torch.stack([words[5 * b : 5 * b + 321] for b in range(8)], 1)
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(11, 16),
            "layer": FSLSTM(16, 32, 24, dropout=0.2, zoneout_h=0.1, zoneout_c=0.3, backend=backend),
            "logits": torch.nn.Linear(32, 11),
        }
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(1)
    losses, state = [], None
    for update in range(80):
        begin = 8 * (update % 40)
        state = None if begin == 0 or state is None else map_state(torch.Tensor.detach, state)
        y, state = model["layer"](model["embedding"](text[begin : begin + 8]), state)
        logits = model["logits"](y).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, text[begin + 1 : begin + 9].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses
