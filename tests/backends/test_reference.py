"""The loop against the NumPy restatement, and its gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM
from fastslow.backends import reference
from fastslow.backends.base import Rates
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise, dropout_keep, zoneout_update
from fastslow.state import FSState, LSTMState, state_tensors
from tests import restatement

T, B, X, F, S = 7, 3, 4, 5, 6


def make(k: int, **options) -> FSLSTM:
    torch.manual_seed(k)
    layer = FSLSTM(X, F, S, k, dtype=torch.float64, backend="reference", **options)
    with torch.no_grad():
        for p in layer.parameters():  # away from the special values 0 and 1 of the initialisation
            p.add_(0.3 * torch.randn_like(p))
    return layer


def arrays(layer: FSLSTM) -> tuple[list[dict], dict]:
    def of(cell: torch.nn.Module) -> dict:
        return {name: p.detach().numpy() for name, p in cell.named_parameters()}

    return [of(cell) for cell in layer.fast], of(layer.slow)


def states() -> FSState:
    def new(size: int) -> torch.Tensor:
        return torch.randn(B, size, dtype=torch.float64)

    return FSState(LSTMState(new(F), new(F)), LSTMState(new(S), new(S)))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_evaluation_agrees_with_the_restatement(k: int, layer_norm: bool, bias: bool) -> None:
    layer = make(k, layer_norm=layer_norm, bias=bias, zoneout_h=0.1, zoneout_c=0.5, dropout=0.3, forget_bias=0.7).eval()
    x, state = torch.randn(T, B, X, dtype=torch.float64), states()
    y, new = layer(x, state)
    fast, slow = arrays(layer)
    # The restatement's forget bias is fixed at 1: move the difference into the gate's own shift.
    for p in (*fast, slow):
        name = "gate_norm.bias" if layer_norm else "bias"
        size = p["weight_hh"].shape[1]
        shift = p[name].copy() if name in p else np.zeros(4 * size)
        shift[size : 2 * size] -= 0.3
        p[name] = shift
    for b in range(B):
        start = tuple(leaf[b].numpy() for leaf in state_tensors(state))
        want, end = restatement.fast_slow(fast, slow, x[:, b].numpy(), start, zoneout_h=0.1, zoneout_c=0.5)
        np.testing.assert_allclose(y[:, b].detach().numpy(), want, atol=1e-12)
        for leaf, value in zip(state_tensors(new), end, strict=True):
            np.testing.assert_allclose(leaf[b].detach().numpy(), value, atol=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_training_agrees_with_the_restatement(k: int) -> None:
    layer = make(k)
    rates = Rates(dropout=0.35, zoneout_h=0.1, zoneout_c=0.5)
    noise = Noise(torch.tensor(99))
    x, state = torch.randn(T, B, X, dtype=torch.float64), states()
    y, new = reference.run(layer.wiring, layer.weights(), x, (state.fast, state.slow), noise, rates)
    fast, slow = arrays(layer)
    names = [node.name for node in layer.wiring.nodes]
    sizes = {"x": (0, X), "fs": (2, F), "sf": (4, S), "y": (2 * len(names), F)}
    drop = {n: dropout_keep(noise, T, site, B, units, 0.35).numpy() / 0.65 for n, (site, units) in sizes.items()}
    kept = {}
    for i, name in enumerate(names):
        masks = zoneout_update(noise, T, 2 * i + 1, B, S if name == "slow" else F, 0.1, 0.5)
        for t in range(T):
            kept[name, t] = tuple(1.0 - mask[t].numpy() for mask in masks)
    for b in range(B):
        start = tuple(leaf[b].numpy() for leaf in state_tensors(state))
        want, end = restatement.fast_slow(
            fast,
            slow,
            x[:, b].numpy(),
            start,
            zones={key: (h[b], c[b]) for key, (h, c) in kept.items()},
            drops={name: factor[:, b] for name, factor in drop.items()},
        )
        np.testing.assert_allclose(y[:, b].detach().numpy(), want, atol=1e-12)
        for leaf, value in zip(state_tensors(new), end, strict=True):
            np.testing.assert_allclose(leaf[b].detach().numpy(), value, atol=1e-12)


@pytest.mark.parametrize(
    ("layer_norm", "training"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_gradients(training: bool, layer_norm: bool) -> None:
    torch.manual_seed(1)
    layer = FSLSTM(2, 3, 2, 3, dtype=torch.float64, layer_norm=layer_norm, backend="reference")
    rates = Rates(0.3, 0.2, 0.4)
    noise = Noise(torch.tensor(5)) if training else None
    x = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    leaves = [torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (3, 3, 2, 2)]
    template = layer.weights()
    parameters = [
        (p.detach() + 0.2 * torch.randn_like(p)).requires_grad_() for w in template for p in w if p is not None
    ]

    def run(x, fh, fc, sh, sc, *values):
        given = iter(values)
        weights = [CellWeights(*(None if p is None else next(given) for p in w)) for w in template]
        state = (LSTMState(fh, fc), LSTMState(sh, sc))
        y, new = reference.run(layer.wiring, weights, x, state, noise, rates, torch.tensor([2, 1]))
        return (y, *state_tensors(new))

    assert torch.autograd.gradcheck(run, (x, *leaves, *parameters))


def test_a_stopped_row_keeps_its_state() -> None:
    layer = make(3, zoneout_h=0.1).eval()
    x, state = torch.randn(T, B, X, dtype=torch.float64), states()
    lengths = [T, 0, 4]
    y, new = layer(x, state, lengths=lengths)
    for b, n in enumerate(lengths):
        assert torch.equal(y[n:, b], torch.zeros_like(y[n:, b]))
        if n:
            row = FSState(*(LSTMState(*(leaf[b : b + 1] for leaf in part)) for part in state))
            alone, end = layer(x[:n, b : b + 1], row)
            torch.testing.assert_close(y[:n, b : b + 1], alone)
        else:
            end = FSState(*(LSTMState(*(leaf[b : b + 1] for leaf in part)) for part in state))
        for leaf, want in zip(state_tensors(new), state_tensors(end), strict=True):
            torch.testing.assert_close(leaf[b : b + 1], want)


def test_zoneout_of_certainty_freezes_the_state_in_training_and_evaluation() -> None:
    layer = make(2, zoneout_h=1.0, zoneout_c=1.0)
    x, state = torch.randn(T, B, X, dtype=torch.float64), states()
    for mode in (True, False):
        _, new = layer.train(mode)(x, state)
        for leaf, old in zip(state_tensors(new), state_tensors(state), strict=True):
            torch.testing.assert_close(leaf, old)


def test_dropout_acts_at_four_sites_and_never_on_the_state() -> None:
    layer = make(4, dropout=1.0)  # everything dropped: only the recurrent chain is left
    x, state = torch.randn(T, B, X, dtype=torch.float64), states()
    y, new = layer(x, state)
    assert torch.equal(y, torch.zeros_like(y))
    fast, slow = arrays(layer)
    nothing = {"x": np.zeros((T, X)), "fs": np.zeros((T, F)), "sf": np.zeros((T, S)), "y": np.zeros((T, F))}
    start = tuple(leaf[0].numpy() for leaf in state_tensors(state))
    _, end = restatement.fast_slow(fast, slow, x[:, 0].numpy(), start, drops=nothing)
    for leaf, value in zip(state_tensors(new), end, strict=True):
        np.testing.assert_allclose(leaf[0].detach().numpy(), value, atol=1e-12)


def test_the_baselines_are_the_same_cells_in_other_wirings() -> None:
    torch.manual_seed(2)
    x = torch.randn(T, B, X, dtype=torch.float64)
    stack = StackedLSTM(X, F, 2, dtype=torch.float64, backend="reference").eval()
    y, states_ = stack(x)
    first, state = [], None
    for t in range(T):
        state = stack.layers[0](x[t], state)
        first.append(state.h)
    state = None
    for t in range(T):
        state = stack.layers[1](first[t], state)
    torch.testing.assert_close(y[-1], state.h)
    torch.testing.assert_close(states_[1].c, state.c)

    chain = SequentialLSTM(X, F, 3, dtype=torch.float64, backend="reference").eval()
    y, end = chain(x)
    state = None
    for t in range(T):
        state = chain.cells[0](x[t], state)
        state = chain.cells[1](None, state)
        state = chain.cells[2](None, state)
        torch.testing.assert_close(y[t], state.h)
    torch.testing.assert_close(end.c, state.c)
