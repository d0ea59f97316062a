from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow.dynamics.gradients import _norms, gradient_norms
from fastslow.dynamics.trace import Trace, trace, warmed_state
from fastslow.errors import DataError
from fastslow.lm import CharLM
from fastslow.state import LSTMState

from .linear import LETTERS, TEXT, forget_gates, linear_lm, output_gates, random_lm, tokens

LAGS = 30


def traced(lm: CharLM) -> tuple[Trace, Tensor, Tensor]:
    inputs, targets = torch.stack([tokens(60), tokens(60, 7)], 1), torch.stack([tokens(60, 1), tokens(60, 8)], 1)
    return trace(lm, inputs, targets, warmed_state(lm, inputs[:0]), history=True), inputs, targets


def loss_by_output(lm: CharLM, h: Tensor, target: Tensor) -> Tensor:
    """d L / d h = W^T (p - y), (B, H)."""
    p = F.linear(h, lm.head.weight, lm.head.bias).softmax(-1)
    return ((p - F.one_hot(target, len(LETTERS))) @ lm.head.weight).detach()


def loss_by_memory(lm: CharLM, found: Trace, target: Tensor, t: int) -> Tensor:
    """d L_t / d c_t of the output node of a linear network: o (1 - tanh^2 c) W^T (p - y)."""
    c, o = found.memory[-1][t].detach(), output_gates(lm)[-1]
    return o * (1 - c.tanh() ** 2) * loss_by_output(lm, o * c.tanh(), target)


# ---------------------------------------------------------------------- known in closed form


def test_a_leaky_memory() -> None:
    """One layer, c_t = f c_{t-1} + ...: d L_t / d c_{t-j} = f^j d L_t / d c_t."""
    lm = linear_lm(architecture="stacked", depth=1)
    found, _, targets = traced(lm)
    (f,) = forget_gates(lm)
    for t in (30, 44, 59):
        start = loss_by_memory(lm, found, targets[t], t)
        expected = torch.stack([(f**lag * start).norm(dim=1) for lag in range(LAGS + 1)])
        torch.testing.assert_close(_norms(found, t, LAGS)[0], expected, rtol=1e-9, atol=0)


def test_a_chain_of_leaky_memories() -> None:
    """Three cells on one slot, each forgetting by its own gate:

    d L_t / d c^i_{t-j} = (product of the gates of cells after i) (f1 f2 f3)^j d L_t / d c^3_t
    """
    lm = linear_lm(architecture="sequential", depth=3)
    found, _, targets = traced(lm)
    gates = forget_gates(lm)
    t = 50
    start = loss_by_memory(lm, found, targets[t], t)
    after = [gates[1] * gates[2], gates[2], torch.ones_like(gates[2])]
    norms = _norms(found, t, LAGS)
    for node in range(3):
        for lag in range(LAGS + 1):
            expected = after[node] * (gates[0] * gates[1] * gates[2]) ** lag * start
            torch.testing.assert_close(norms[node, lag], expected.norm(dim=1), rtol=1e-9, atol=0)


def test_the_slow_memory_is_reached_by_every_step_in_between() -> None:
    """FS-2 whose slow cell hears nothing, so that there is no way from fast to slow memory:

    c^F2_s = f2 c^F1_s + i tanh(z_s)      z_s = W h^S_s + b      h^S_s = o tanh(c^S_s)      c^S_s = fs c^S_{s-1} + const

    d L_t / d c^S_{t-j} = sum over s = t-j..t of
        fs^(s-t+j) o (1 - tanh^2 c^S_s) W^T i (1 - tanh^2 z_s) (f1 f2)^(t-s) d L_t / d c^F2_t
    """
    lm = linear_lm(depth=2)
    slow_cell, cell = lm.layer.node_cells()[1:]
    assert slow_cell.weight_ih is not None
    assert cell.weight_ih is not None
    assert cell.bias is not None
    slow_cell.weight_ih.detach().zero_()
    found, _, targets = traced(lm)
    (f1, fs, f2), (_, os, _) = forget_gates(lm), output_gates(lm)
    w, bias = cell.weight_ih.detach()[10:15], cell.bias.detach().view(4, -1)
    i = torch.sigmoid(bias[0])
    slow = [c.detach() for c in found.memory[1]]
    t = 55
    start = loss_by_memory(lm, found, targets[t], t)
    norms = _norms(found, t, LAGS)
    for lag in range(LAGS + 1):
        total = torch.zeros(2, 3, dtype=torch.float64)
        for s in range(t - lag, t + 1):
            z = (os * slow[s].tanh()) @ w.T + bias[2]
            back = (f1 * f2) ** (t - s) * start * i * (1 - z.tanh() ** 2)
            total += fs ** (s - t + lag) * os * (1 - slow[s].tanh() ** 2) * (back @ w)
        torch.testing.assert_close(norms[1, lag], total.norm(dim=1), rtol=1e-9, atol=0)
        fast = (f1 * f2) ** lag * start
        torch.testing.assert_close(norms[2, lag], fast.norm(dim=1), rtol=1e-9, atol=0)


def test_zoneout_keeps_a_part_of_the_memory() -> None:
    """c_t = (1 - p) c'_t + p c_{t-1}, h_t from c'_t: the memory carried counts from the next step on."""
    lm = linear_lm(architecture="stacked", depth=1, zoneout_c=0.3)
    found, _, targets = traced(lm)
    (f,), (o,) = forget_gates(lm), output_gates(lm)
    t = 40
    old, carried = found.memory[0][t - 1].detach(), found.memory[0][t].detach()
    fresh = (carried - 0.3 * old) / 0.7
    start = o * (1 - fresh.tanh() ** 2) * loss_by_output(lm, o * fresh.tanh(), targets[t])
    norms = _norms(found, t, LAGS)[0]
    assert not norms[0].any()
    for lag in range(1, LAGS + 1):
        expected = (0.7 * f + 0.3) ** (lag - 1) * f * start
        torch.testing.assert_close(norms[lag], expected.norm(dim=1), rtol=1e-9, atol=0)


# ---------------------------------------------------------------------- another way to the same


@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 4}, {"architecture": "sequential", "depth": 3}])
def test_the_carried_state_by_the_layer_itself(options: dict[str, Any]) -> None:
    """With norms: c of a slot's last cell acts through the carried c and through the h it makes.

    d L / d c = dL/dc_carried + (d h / d c)^T dL/dh_carried, and what the output and other cells of the same step
    read is left out here by looking at a slot whose last cell nothing reads but the next step (j >= 1).
    """
    lm = random_lm(**{**options, "layer_norm": True})
    found, inputs, targets = traced(lm)
    t, lag = 20, 6
    at = t - lag
    before = trace(lm, inputs[: at + 1], targets[: at + 1], warmed_state(lm, inputs[:0]))
    leaves = [LSTMState(*(leaf.clone().requires_grad_() for leaf in pair)) for pair in before.state]
    public: Any = tuple(leaves) if len(leaves) > 1 else leaves[0]
    logits, _ = lm(inputs[at + 1 : t + 1], public)
    loss = F.cross_entropy(logits[-1], targets[t], reduction="sum")
    gh, gc = torch.autograd.grad(loss, [leaves[0].h, leaves[0].c])
    cell = lm.layer.node_cells()[-1]
    assert cell.cell_norm is not None
    c = leaves[0].c.detach().requires_grad_()
    normed = F.layer_norm(c, (5,), cell.cell_norm.weight, cell.cell_norm.bias, 1e-3).tanh()
    gate = (leaves[0].h / normed).detach()
    (through_h,) = torch.autograd.grad((gate * normed * gh).sum(), c)
    torch.testing.assert_close(_norms(found, t, lag)[-1, lag], (gc + through_h).norm(dim=1), rtol=1e-8, atol=1e-14)


# ---------------------------------------------------------------------- over a text


def test_the_mean_over_targets_windows_and_streams() -> None:
    lm = linear_lm(architecture="stacked", depth=1)
    calls: list[tuple[int, int]] = []
    found = gradient_norms(
        lm, TEXT, lags=8, streams=3, windows=2, targets=4, span=6, warm=5, on_target=lambda *a: calls.append(a)
    )
    assert calls == [(i, 8) for i in range(1, 9)]
    assert (found.lags, found.samples, found.mean.shape) == (8, 24, (1, 9))

    # The same targets, each from a trace of its own that begins with the stream.
    distance = (len(TEXT) - 1) // 3
    each = []
    for stream in range(3):
        for window in range(2):
            norms = []
            for place in (8, 10, 11, 13):
                t = 5 + 14 * window + place
                inputs = tokens(t + 1, stream * distance).unsqueeze(1)
                targets = tokens(t + 1, stream * distance + 1).unsqueeze(1)
                norms.append(_norms(trace(lm, inputs, targets, warmed_state(lm, inputs[:0]), history=True), t, 8))
            each.append(torch.stack(norms).mean(0)[0, :, 0].numpy())
    np.testing.assert_allclose(found.mean[0], np.mean(each, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.error[0], np.std(each, axis=0, ddof=1) / np.sqrt(6), rtol=1e-7)


def test_a_short_text_has_fewer_streams() -> None:
    lm = random_lm()
    options: dict[str, int] = {"lags": 5, "windows": 1, "targets": 2, "span": 5, "warm": 10}
    assert gradient_norms(lm, TEXT[:50], streams=16, **options).samples == 4
    one = gradient_norms(lm, TEXT[:21], streams=16, **options)
    assert one.samples == 2
    assert not one.error.any()
    with pytest.raises(DataError, match="it has 20 symbols; at least 21 are needed"):
        gradient_norms(lm, TEXT[:20], **options)


def test_vanishing_gradients_are_not_lost() -> None:
    """In float32 the square of 1e-25 is zero; the norm is not."""
    lm = linear_lm(architecture="stacked", depth=1)
    with torch.no_grad():
        lm.layer.node_cells()[0].bias.view(4, -1)[1] = -1 - np.log(1 / 0.1 - 1)  # f = 0.1
    lm = lm.float()
    found = gradient_norms(lm, TEXT, lags=30, streams=2, windows=1, targets=2, span=10, warm=0)
    np.testing.assert_allclose(found.mean[0, 30] / found.mean[0, 0], 1e-30, rtol=1e-3)
