"""Training with an engine is training with the loop."""

from __future__ import annotations

import copy

import pytest
import torch

from fastslow import FSLSTM
from fastslow.state import map_state


@pytest.mark.parametrize("backend", ["native", "window"])
def test_training_follows_the_loop(backend: str) -> None:
    """Same seed, same losses: 200 updates in float32."""
    torch.manual_seed(1)
    words = torch.randint(0, 11, (37,)).repeat(20)
    text = torch.stack([words[5 * b : 5 * b + 321] for b in range(8)], 1)
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(11, 16),
            "layer": FSLSTM(16, 32, 24, dropout=0.2, zoneout_h=0.1, zoneout_c=0.3),
            "logits": torch.nn.Linear(32, 11),
        }
    )
    losses = {name: train_losses(copy.deepcopy(model), name, text) for name in ("reference", backend)}
    assert max(abs(a - b) for a, b in zip(losses["reference"], losses[backend], strict=True)) < 1e-4
    assert losses[backend][-1] < 0.6 * losses[backend][0]


def train_losses(model: torch.nn.ModuleDict, backend: str, text: torch.Tensor) -> list[float]:
    model["layer"].backend = backend
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.manual_seed(1)
    losses, state = [], None
    for update in range(200):
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
