from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastslow.training.clip import clip_gradients


def parameters(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    made = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in ((3, 4), (5,), (2, 2))]
    for parameter in made[:2]:
        parameter.grad = torch.randn_like(parameter) * scale
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [0.1, 1.0, 100.0])
def test_as_torch_does(limit: float, dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    norm, expected = clip_gradients(ours, limit), torch.nn.utils.clip_grad_norm_(theirs, limit)
    assert float(norm) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_no_limit() -> None:
    ours = parameters(1e3)
    assert float(clip_gradients(ours, 0.0)) > 1e3
    assert ours[0].grad is not None
    torch.testing.assert_close(ours[0].grad, parameters(1e3)[0].grad)
    assert float(clip_gradients([torch.zeros(2)], 1.0)) == 0.0


def test_a_norm_whose_square_is_too_large_for_float32() -> None:
    ours = parameters(1e30)
    norm = float(clip_gradients(ours, 10.0))
    assert 1e30 < norm < 1e31
    left = torch.cat([p.grad.flatten() for p in ours if p.grad is not None])
    assert float(left.norm()) == pytest.approx(10.0, rel=1e-5)


def test_what_is_no_number_stays_none() -> None:
    ours = parameters()
    assert ours[1].grad is not None
    ours[1].grad[0] = float("inf")
    assert float(clip_gradients(ours, 1.0)) == float("inf")
