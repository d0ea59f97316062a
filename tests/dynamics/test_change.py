from __future__ import annotations

import numpy as np
import pytest
import torch

from fastslow.dynamics.change import memory_change, squared_changes
from fastslow.dynamics.trace import Trace, trace, warmed_state

from .linear import TEXT, random_lm, tokens


def test_changes_of_a_trace_made_by_hand() -> None:
    def steps(*rows: list[list[float]]) -> list[torch.Tensor]:
        return [torch.tensor(row) for row in rows]

    # Two nodes, two streams: units (H = 2 and 1) at three steps.
    made = Trace(
        memory=[
            steps([[0.0, 0.0], [1.0, 1.0]], [[1.0, 3.0], [1.0, 1.0]], [[1.0, 3.0], [0.0, -1.0]]),
            steps([[5.0], [0.0]], [[5.5], [0.0]], [[5.0], [2.0]]),
        ],
        nats=torch.zeros(3, 2),
        state=(),
    )
    expected = [[[5.0, 0.0], [0.0, 2.5]], [[0.25, 0.0], [0.25, 4.0]]]
    torch.testing.assert_close(squared_changes(made, None), torch.tensor(expected, dtype=torch.float64))
    before = [torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[4.0], [1.0]])]
    with_before = squared_changes(made, before)
    assert with_before.shape == (2, 3, 2)
    assert with_before[:, 0].tolist() == [[2.0, 0.0], [1.0, 1.0]]
    torch.testing.assert_close(with_before[:, 1:], squared_changes(made, None))


@pytest.mark.parametrize("steps", [1, 99, 100, 250])
def test_the_mean_over_steps_and_streams(steps: int) -> None:
    lm = random_lm(depth=3, layer_norm=True)
    found = memory_change(lm, TEXT, streams=2, steps=steps, warm=3)
    distance = (len(TEXT) - 1) // 2
    each = []
    for stream in range(2):
        inputs = tokens(3 + steps + 1, stream * distance).unsqueeze(1)
        whole = trace(lm, inputs, inputs, warmed_state(lm, inputs[:0]))
        each.append(squared_changes(whole, None)[:, 3:].mean((1, 2)).numpy())
    np.testing.assert_allclose(found.mean, np.mean(each, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.error, np.std(each, axis=0, ddof=1) / np.sqrt(2), rtol=1e-6)
    assert found.steps == 2 * steps
