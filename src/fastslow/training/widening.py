"""A wider network that computes the same function (Chen, Goodfellow, Shlens 2016, Net2Net), for training to go on from.

Each unit of the smaller network becomes `factor` units with the same incoming weights, so all of them have its value,
and a layer norm over them has the same mean and variance. What reads a unit shares its weight out over the copies, in
random shares that add up to one: the copies get different gradients and grow apart.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastslow.cells.module import CellModule
from fastslow.lm.config import ModelOptions
from fastslow.lm.model import CharLM

SIZES = ("embedding_size", "hidden_size", "slow_size")
"""Options of the network that can grow."""


def widened(lm: CharLM, options: ModelOptions) -> CharLM:
    """A model with the function of `lm` and the sizes of `options`, whole multiples of its own, on the CPU.

    It is `lm` itself if no size differs. Equal arguments give equal weights.
    """
    config = replace(lm.config, **{name: getattr(options, name) for name in SIZES})
    if config == lm.config:
        return lm
    shares = torch.Generator().manual_seed(0)
    wide = CharLM(config, dtype=lm.head.weight.dtype, device="cpu")
    with torch.no_grad():
        wide.embedding.weight.copy_(_copied(lm.embedding.weight.T, 1, wide.embedding.weight.shape[1]).T)
        wide.head.weight.copy_(_shared(lm.head.weight, wide.head.weight.shape[1], shares))
        wide.head.bias.copy_(lm.head.bias)
        for cell, to in zip(_cells(lm), _cells(wide), strict=True):
            for (name, weight), new in zip(cell.named_parameters(), to.parameters(), strict=True):
                blocks = weight.shape[0] // cell.hidden_size
                value = _copied(weight, blocks, to.hidden_size)
                new.copy_(_shared(value, new.shape[1], shares) if name in ("weight_ih", "weight_hh") else value)
    return wide


def _cells(lm: CharLM) -> list[CellModule]:
    return [module for module in lm.layer.modules() if isinstance(module, CellModule)]


def _copied(weight: Tensor, blocks: int, size: int) -> Tensor:
    """(blocks H, ...) -> (blocks size, ...): the H rows of each block, over and over."""
    each = weight.detach().cpu().reshape(blocks, -1, *weight.shape[1:])
    return each.repeat_interleave(size // each.shape[1], dim=1).flatten(0, 1)


def _shared(weight: Tensor, size: int, shares: torch.Generator) -> Tensor:
    """(rows, H) -> (rows, size): each weight shared out over the copies of the unit that it reads."""
    rows, units = weight.shape
    copies = size // units
    if copies == 1:
        return weight.detach().cpu()
    part = torch.rand(rows, units, copies, generator=shares, dtype=torch.float64) + 0.5
    part = part / part.sum(-1, keepdim=True)
    return (weight.detach().cpu().unsqueeze(-1) * part.to(weight.dtype)).flatten(1)
