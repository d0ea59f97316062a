"""Networks whose memories are leaky and linear, so that every gradient is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, ModelOptions

LETTERS = Alphabet.of(b"abcdef \n")
TEXT = b"bead cafe fab\ndeaf face bed cab dad\n" * 30
OPTIONS = ModelOptions(embedding_size=4, hidden_size=5, slow_size=3, layer_norm=False)


def random_lm(seed: int = 0, **options: Any) -> CharLM:
    """A small model with weights as they are drawn, in float64."""
    torch.manual_seed(seed)
    given = replace(OPTIONS, **options) if options.get("architecture", "fs-lstm") == "fs-lstm" else None
    given = given or replace(OPTIONS, slow_size=None, **options)
    return CharLM(given.with_alphabet(LETTERS), backend="reference", dtype=torch.float64).eval()


def linear_lm(seed: int = 0, **options: Any) -> CharLM:
    """The same with gates that are constants of each unit: f, i and o come from the biases alone, g from x alone.

    c_t = f c_{t-1} + i tanh(W_x x_t)        h_t = o tanh(c_t)
    """
    lm = random_lm(seed, **options)
    with torch.no_grad():
        for cell in lm.layer.node_cells():
            H = cell.hidden_size
            cell.weight_hh.zero_()
            if cell.weight_ih is not None:
                cell.weight_ih[: 2 * H].zero_()
                cell.weight_ih[3 * H :].zero_()
            cell.bias.normal_()
    return lm


def forget_gates(lm: CharLM) -> list[Tensor]:
    """(H,) of each node of a `linear_lm`."""
    return [torch.sigmoid(cell.bias.detach().view(4, -1)[1] + cell.forget_bias) for cell in lm.layer.node_cells()]


def output_gates(lm: CharLM) -> list[Tensor]:
    return [torch.sigmoid(cell.bias.detach().view(4, -1)[3]) for cell in lm.layer.node_cells()]


def tokens(length: int, start: int = 0) -> Tensor:
    """(length,) int64 of the text."""
    encoded = LETTERS.encode(TEXT[start : start + length])
    return torch.from_numpy(encoded.astype("int64"))
