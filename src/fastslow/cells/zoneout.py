"""Zoneout (Krueger et al. 2017): a unit of the state keeps its old value for a step."""

from __future__ import annotations

import torch
from torch import Tensor


def zoneout(new: Tensor, old: Tensor, update: Tensor | None, rate: float) -> Tensor:
    """`new` where the bool mask `update` says so, else `old`; with no mask, the expectation."""
    if rate == 0.0:
        return new
    if update is None:
        return (1.0 - rate) * new + rate * old
    return torch.where(update, new, old)
