from __future__ import annotations

import numpy as np
import pytest
import torch

from fastslow import LayerNormLSTMCell, LSTMState
from tests import restatement


def test_parameters() -> None:
    cell = LayerNormLSTMCell(3, 5)
    shapes = {name: tuple(p.shape) for name, p in cell.named_parameters()}
    assert shapes == {
        "weight_ih": (20, 3),
        "weight_hh": (20, 5),
        "bias": (20,),
        "gate_norm.weight": (20,),
        "gate_norm.bias": (20,),
        "cell_norm.weight": (5,),
        "cell_norm.bias": (5,),
    }
    bare = LayerNormLSTMCell(None, 5, bias=False, layer_norm=False)
    assert [name for name, _ in bare.named_parameters()] == ["weight_hh"]


def test_initial_values_are_orthogonal_as_a_whole() -> None:
    cell = LayerNormLSTMCell(7, 5)
    for weight in (cell.weight_ih, cell.weight_hh):
        torch.testing.assert_close(weight.T @ weight, torch.eye(weight.shape[1]), atol=1e-5, rtol=0)
    assert not cell.bias.any()
    assert bool((cell.gate_norm.weight == 1).all())


@pytest.mark.parametrize("options", [{}, {"layer_norm": False}, {"bias": False}, {"zoneout_h": 0.2, "zoneout_c": 0.6}])
def test_one_step_agrees_with_the_restatement(options: dict) -> None:
    torch.manual_seed(0)
    cell = LayerNormLSTMCell(3, 4, dtype=torch.float64, **options).eval()
    for p in cell.parameters():
        torch.nn.init.normal_(p)
    x, h, c = (torch.randn(2, n, dtype=torch.float64) for n in (3, 4, 4))
    new = cell(x, (h, c))
    assert isinstance(new, LSTMState)
    p = {name: value.detach().numpy() for name, value in cell.named_parameters()}
    for b in range(2):
        want = restatement.cell(
            p,
            x[b].numpy(),
            h[b].numpy(),
            c[b].numpy(),
            zone_h=options.get("zoneout_h", 0.0),
            zone_c=options.get("zoneout_c", 0.0),
        )
        for got, value in zip(new, want, strict=True):
            np.testing.assert_allclose(got[b].detach().numpy(), value, atol=1e-12)


def test_zoneout_in_training_takes_units_whole() -> None:
    torch.manual_seed(0)
    cell = LayerNormLSTMCell(3, 200, zoneout_h=0.25, zoneout_c=0.5)
    x, h, c = torch.randn(40, 3), torch.randn(40, 200), torch.randn(40, 200)
    zoned = cell(x, (h, c))
    plain = LayerNormLSTMCell(3, 200)
    plain.load_state_dict(cell.state_dict())
    full = plain(x, (h, c))
    for got, new, old, rate in ((zoned.h, full.h, h, 0.25), (zoned.c, full.c, c, 0.5)):
        assert bool(((got == new) | (got == old)).all())
        assert (got == old).float().mean().item() == pytest.approx(rate, abs=0.02)


def test_unbatched_and_default_state() -> None:
    cell = LayerNormLSTMCell(3, 4)
    x = torch.randn(3)
    one = cell(x)
    assert one.h.shape == (4,)
    torch.testing.assert_close(one.h, cell(x.unsqueeze(0)).h[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c(torch.randn(2, 5)), RuntimeError, r"x must be \(B, 3\); got \(2, 5\)"),
        (lambda c: c(torch.randn(1, 2, 3)), ValueError, "3 dimensions"),
        (lambda c: c(None), RuntimeError, "needs an input of size 3"),
        (
            lambda c: c(torch.randn(2, 3), (torch.zeros(2, 4), torch.zeros(2, 5))),
            RuntimeError,
            r"state.c must be \(2, 4\)",
        ),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(LayerNormLSTMCell(3, 4))


def test_a_cell_without_input() -> None:
    cell = LayerNormLSTMCell(None, 4)
    state = cell(None, (torch.randn(2, 4), torch.randn(2, 4)))
    assert state.h.shape == (2, 4)
    with pytest.raises(RuntimeError, match="takes no input"):
        cell(torch.randn(2, 3), state)
    with pytest.raises(ValueError, match="needs a state"):
        cell(None)


@pytest.mark.parametrize("options", [{"zoneout_h": 1.5}, {"zoneout_c": -0.1}, {"zoneout_h": "much"}])
def test_bad_rates(options: dict) -> None:
    with pytest.raises(ValueError, match="range"):
        LayerNormLSTMCell(3, 4, **options)
