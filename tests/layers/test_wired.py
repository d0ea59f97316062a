"""What every layer does as `torch.nn.LSTM` does it: forms of input, states, errors, copies, export."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from fastslow import FSLSTM, FSState, LSTMState, Node, SequentialLSTM, StackedLSTM, WiredLSTM, Wiring
from fastslow.state import map_state, state_tensors

X, H = 3, 5
LAYERS = {
    "fast-slow": lambda **o: FSLSTM(X, H, 4, 3, **o),
    "stacked": lambda **o: StackedLSTM(X, H, 2, **o),
    "sequential": lambda **o: SequentialLSTM(X, H, 2, **o),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def equal_states(a, b) -> None:
    for left, right in zip(state_tensors(a), state_tensors(b), strict=True):
        torch.testing.assert_close(left, right)


@layers
def test_batch_first_and_unbatched(make) -> None:
    layer = make().eval()
    x = torch.randn(7, 2, X)
    y, state = layer(x)
    assert y.shape == (7, 2, H)
    first = make(batch_first=True).eval()
    first.load_state_dict(layer.state_dict())
    y2, state2 = first(x.transpose(0, 1))
    torch.testing.assert_close(y2, y.transpose(0, 1))
    equal_states(state2, state)
    single, end = layer(x[:, 1])
    torch.testing.assert_close(single, y[:, 1])
    for leaf, full in zip(state_tensors(end), state_tensors(state), strict=True):
        torch.testing.assert_close(leaf, full[1])
    again, _ = layer(x[:, 1], end)
    assert again.shape == (7, H)


@layers
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_state_carries_a_sequence_over_windows(make, cut: int) -> None:
    layer = make().eval()
    x = torch.randn(7, 2, X)
    y, state = layer(x)
    a, middle = layer(x[:cut])
    b, end = layer(x[cut:], middle)
    torch.testing.assert_close(torch.cat([a, b]), y)
    equal_states(end, state)


@layers
def test_step_is_a_window_of_one(make) -> None:
    layer = make().eval().double()
    x = torch.randn(6, 2, X, dtype=torch.float64)
    y, end = layer(x)
    state = None
    for t in range(6):
        out, state = layer.step(x[t], state)
        torch.testing.assert_close(out, y[t])
    equal_states(state, end)
    one, _ = layer.step(x[0, 0])
    assert one.shape == (H,)
    torch.testing.assert_close(one, y[0, 0])
    with torch.no_grad():
        state = None
        for t in range(6):
            out, state = layer.step(x[t], state)
            torch.testing.assert_close(out, y[t])


@layers
def test_packed_sequences(make) -> None:
    layer = make().eval()
    parts = [torch.randn(n, X) for n in (2, 5, 3)]
    packed = pack_sequence(parts, enforce_sorted=False)
    y, state = layer(packed)
    padded, lengths = pad_packed_sequence(y)
    assert lengths.tolist() == [2, 5, 3]
    for i, part in enumerate(parts):
        alone, end = layer(part)
        torch.testing.assert_close(padded[: len(part), i], alone)
        for leaf, full in zip(state_tensors(end), state_tensors(state), strict=True):
            torch.testing.assert_close(leaf, full[i])
    reference = torch.nn.LSTM(X, H)(packed)[0]
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(y, name), getattr(reference, name))
    in_order = pack_padded_sequence(torch.randn(5, 2, X), [5, 4])
    assert layer(in_order)[0].sorted_indices is None


@layers
def test_lengths_and_packing_agree(make) -> None:
    layer = make(batch_first=True).eval()
    x = torch.randn(3, 6, X)
    y, state = layer(x, lengths=[6, 2, 4])
    packed, end = layer(pack_padded_sequence(x, [6, 2, 4], batch_first=True, enforce_sorted=False))
    padded, _ = pad_packed_sequence(packed, batch_first=True)
    torch.testing.assert_close(padded, y)
    equal_states(end, state)
    assert not y[1, 2:].any()


def test_state_structures() -> None:
    x = torch.randn(2, 3, X)
    _, fs = FSLSTM(X, H, 4)(x)
    assert type(fs) is FSState
    assert type(fs.slow) is LSTMState
    assert fs.slow.c.shape == (3, 4)
    _, stack = StackedLSTM(X, H, 2)(x)
    assert type(stack) is tuple
    assert [type(s) for s in stack] == [LSTMState, LSTMState]
    _, chain = SequentialLSTM(X, H, 2)(x)
    assert type(chain) is LSTMState


def test_slow_size_defaults_to_the_fast_one() -> None:
    assert FSLSTM(X, H).slow_size == H


@pytest.mark.parametrize(
    ("size", "depth", "count"),
    [((128, 700, 400), 2, 7_225_050), ((128, 500, 400), 4, 6_561_050)],
)
def test_parameter_counts_of_the_paper(size: tuple[int, int, int], depth: int, count: int) -> None:
    layer = FSLSTM(*size, depth, device="meta")
    embedding, fast, _ = size
    assert sum(p.numel() for p in layer.parameters()) + 50 * embedding + 50 * fast + 50 == count


def test_parameter_names() -> None:
    names = dict(FSLSTM(X, H, 4, 3).named_parameters())
    assert names["fast.0.weight_ih"].shape == (4 * H, X)
    assert names["slow.weight_ih"].shape == (16, H)
    assert names["fast.1.weight_ih"].shape == (4 * H, 4)
    assert "fast.2.weight_ih" not in names
    assert names["fast.2.weight_hh"].shape == (4 * H, H)
    assert names["slow.gate_norm.weight"].shape == (16,)
    assert not any("norm" in name for name, _ in FSLSTM(X, H, layer_norm=False).named_parameters())
    assert not any(
        name.endswith(".bias") and "norm" not in name for name, _ in FSLSTM(X, H, bias=False).named_parameters()
    )


@layers
def test_randomness_follows_torchs_seed(make) -> None:
    layer = make(dropout=0.3, zoneout_h=0.2, zoneout_c=0.4)
    x = torch.randn(4, 3, X)
    torch.manual_seed(1)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(layer(x)[0], first, rtol=0, atol=0)
    assert not torch.equal(first, second)
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)


@layers
def test_a_rank_sees_the_masks_of_its_own_rows(make) -> None:
    layer = make(dropout=0.3, zoneout_h=0.2, zoneout_c=0.4)
    x = torch.randn(4, 6, X)
    torch.manual_seed(1)
    whole = layer(x)[0]
    torch.manual_seed(1)
    layer.first_row = 4
    torch.testing.assert_close(layer(x[:, 4:])[0], whole[:, 4:])


@layers
def test_copies(make) -> None:
    layer = make(zoneout_h=0.1, batch_first=True).eval()
    x = torch.randn(2, 4, X)
    y, _ = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)]
    fresh = make(zoneout_h=0.1, batch_first=True).eval()
    fresh.load_state_dict(layer.state_dict())
    for twin in (*twins, fresh):
        torch.testing.assert_close(twin(x)[0], y)
        assert repr(twin) == repr(layer)


@layers
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_arguments(make, dtype: torch.dtype) -> None:
    layer = make(dtype=dtype)
    y, state = layer(torch.randn(3, 2, X, dtype=dtype))
    assert y.dtype == dtype
    assert {leaf.dtype for leaf in state_tensors(state)} == {dtype}
    assert make().to(dtype)(torch.randn(3, 2, X, dtype=dtype))[0].dtype == dtype


@layers
def test_meta_device(make) -> None:
    layer = make(device="meta")
    y, _ = layer(torch.empty(3, 2, X, device="meta"))
    assert y.shape == (3, 2, H)
    assert y.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.isfinite(layer(torch.randn(3, 2, X))[0]).all()


@layers
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_autocast(make, backend: str) -> None:
    torch.manual_seed(0)
    layer = make(backend=backend)
    x = torch.randn(5, 8, X)
    y, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        low, state = layer(x)
        layer(x.bfloat16())
    assert low.dtype == torch.float32
    assert state_tensors(state)[1].dtype == torch.float32
    if backend == "reference":  # an engine may compute in more than it is asked for
        assert not torch.equal(low, y)
    assert (low - y).abs().median() < 0.02  # single units differ: a norm over five gates magnifies a small spread
    low.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@layers
def test_frozen_parameters_and_double_use(make) -> None:
    layer = make(dtype=torch.float64)
    x = torch.randn(3, 2, X, dtype=torch.float64)
    a, state = layer(x)
    b, _ = layer(x, state)
    (a.sum() + b.sum()).backward()
    whole = {name: p.grad.clone() for name, p in layer.named_parameters()}
    both, _ = layer(torch.cat([x, x]))
    layer.zero_grad()
    both.sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, whole[name])
        p.requires_grad_("weight_hh" in name)
    layer.zero_grad()
    layer(torch.cat([x, x]))[0].sum().backward()
    for name, p in layer.named_parameters():
        assert (p.grad is not None) == ("weight_hh" in name)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, whole[name])


@layers
def test_export_of_a_step(make) -> None:
    layer = make().eval()
    x = torch.randn(2, X)
    with torch.no_grad():
        _, state = layer.step(x)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x, state):
            return self.layer.step(x, state)

    program = torch.export.export(Step(), (x, state))
    new = torch.randn(2, X)
    got, end = program.module()(new, state)
    want, end_want = layer.step(new, state)
    torch.testing.assert_close(got, want)
    equal_states(end, end_want)


def test_a_batch_without_rows_has_no_lengths() -> None:
    assert FSLSTM(X, H)(torch.randn(2, 0, X), lengths=[])[0].shape == (2, 0, H)


def test_autocast_takes_a_state_in_its_own_type() -> None:
    """A first state that a Linear computed from a context, as decoders have it."""
    layer, x, h = FSLSTM(X, H), torch.randn(2, 3, X), torch.nn.Linear(2, H)(torch.randn(3, 2))
    state = FSState(LSTMState(h, h), LSTMState(h, h))
    rounded = map_state(torch.Tensor.bfloat16, state)
    with torch.autocast("cpu", torch.bfloat16):
        _, new = layer(x, rounded)
        layer.step(x[0], rounded)[0].sum().backward()
    assert new.slow.c.dtype == torch.float32
    with pytest.raises(ValueError, match=r"got torch\.bfloat16"):
        layer(x, rounded)


def bad(layer, *args, **kwargs):
    return lambda: layer(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            bad(FSLSTM(X, H), torch.randn(2, 3, 9)),
            RuntimeError,
            r"x must be \(T, B, 3\); got \(2, 3, 9\): input_size is 3",
        ),
        (bad(FSLSTM(X, H), [1.0]), TypeError, "x must be a tensor or a PackedSequence; got list"),
        (lambda: FSLSTM(X, H).step(None), TypeError, "x_t must be a tensor; got NoneType"),
        (bad(FSLSTM(X, H), torch.randn(2, 9)), RuntimeError, r"x must be \(B, 3\)|input_size is 3"),
        (bad(FSLSTM(X, H), torch.randn(2, 3, 4, X)), ValueError, "4D"),
        (bad(FSLSTM(X, H), torch.randn(0, 2, X)), RuntimeError, "no steps"),
        (bad(FSLSTM(X, H), torch.randn(2, 3, X).double()), ValueError, "does not match weight dtype"),
        (bad(FSLSTM(X, H), torch.randn(2, 3, X), torch.zeros(3, H)), TypeError, "FSState"),
        (bad(StackedLSTM(X, H, 3), torch.randn(2, 3, X), ()), TypeError, "a tuple of 3 LSTMState"),
        (bad(SequentialLSTM(X, H), torch.randn(2, 3, X), torch.zeros(3, H)), TypeError, r"LSTMState\(h, c\)"),
        (
            bad(SequentialLSTM(X, H), torch.randn(2, 3, X), (torch.zeros(3, H), torch.zeros(2, H))),
            RuntimeError,
            r"state state.c must be \(3, 5\), for 3 rows; got \(2, 5\)",
        ),
        (
            bad(SequentialLSTM(X, H), torch.randn(2, 3, X), (torch.zeros(3, H), torch.zeros(3, H).double())),
            ValueError,
            "got torch.float64",
        ),
        (bad(FSLSTM(X, H), torch.randn(2, 3, X), lengths=[1, 2]), ValueError, "lengths must be 3 ints"),
        (bad(FSLSTM(X, H), torch.randn(2, 3, X), lengths=[1, 2, 3]), ValueError, r"lengths must lie in 0\.\.2"),
        (bad(FSLSTM(X, H), torch.randn(2, 3, X), lengths=[1.0, 2.0, 2.0]), ValueError, "3 ints"),
        (
            bad(FSLSTM(X, H), pack_sequence([torch.randn(2, X)]), lengths=[2]),
            ValueError,
            "PackedSequence brings its own",
        ),
        (lambda: FSLSTM(X, H).step(torch.randn(1, 2, X)), ValueError, "x_t must be"),
        (lambda: FSLSTM(X, H, bidirectional=True), TypeError, "does not support bidirectional=True: it carries"),
        (lambda: StackedLSTM(X, H, proj_size=2), TypeError, "does not support proj_size=2: "),
        (lambda: FSLSTM(X, H, num_layers=2), TypeError, "StackedLSTM"),
        (lambda: FSLSTM(X, H, hidden=2), TypeError, "unexpected keyword argument 'hidden'"),
        (lambda: FSLSTM(X, H, num_fast=1), ValueError, "num_fast must be at least 2"),
        (lambda: FSLSTM(X, "5"), TypeError, "should be of type int"),
        (lambda: FSLSTM(0, H), ValueError, "greater than zero"),
        (lambda: FSLSTM(X, H, dropout=2), ValueError, "dropout should be a number in range"),
    ],
)
def test_errors_name_what_came_and_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_options_of_nn_lstm_at_their_defaults_pass() -> None:
    FSLSTM(X, H, bidirectional=False, proj_size=0, num_layers=1)


def test_extra_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(FSLSTM(X, H)).startswith("FSLSTM(\n  3, 5, slow_size=5, num_fast=2\n")
    text = FSLSTM(X, H, bias=False, batch_first=True, dropout=0.1, layer_norm=False, forget_bias=0.0).extra_repr()
    assert text == (
        "3, 5, slow_size=5, num_fast=2, bias=False, batch_first=True, dropout=0.1, layer_norm=False, forget_bias=0.0"
    )


def test_any_wiring_is_a_layer() -> None:
    three_tiers = Wiring(
        (
            Node("fast.0", "fast", "x"),
            Node("mid", "mid", "fast.0"),
            Node("slow", "slow", "mid"),
            Node("fast.1", "fast", "slow"),
        )
    )
    layer = WiredLSTM(three_tiers, X, {"fast": 4, "mid": 5, "slow": 6}).eval()
    y, state = layer(torch.randn(7, 2, X))
    assert y.shape == (7, 2, 4)
    assert [s.h.shape[1] for s in state] == [4, 5, 6]
    assert {"fast.0", "fast.1", "mid", "slow"} <= {name for name, _ in layer.named_modules()}
    with pytest.raises(ValueError, match="hidden_sizes must give the size of"):
        WiredLSTM(three_tiers, X, {"fast": 4})


def test_shared_weights() -> None:
    twice = Wiring((Node("a", "s", "x"), Node("b", "s", cell="again"), Node("c", "s", cell="again")))
    layer = WiredLSTM(twice, X, 4)
    assert len([n for n, _ in layer.named_modules() if n in ("a", "again")]) == 2
    layer(torch.randn(3, 2, X))[0].sum().backward()
    assert layer.again.weight_hh.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="shares cell 'a'"):
        WiredLSTM(Wiring((Node("a", "s", "x"), Node("b", "s", cell="a"))), X, 4)
    with pytest.raises(ValueError, match="already has an attribute"):
        WiredLSTM(Wiring((Node("forward", "s", "x"),)), X, 4)


def test_func_transforms_and_compile_see_plain_torch() -> None:
    layer = FSLSTM(X, H).eval().double()
    x = torch.randn(3, 2, X, dtype=torch.float64)
    values = dict(layer.named_parameters())
    y, _ = torch.func.functional_call(layer, values, (x,))
    torch.testing.assert_close(y, layer(x)[0])

    def total(values):
        return torch.func.functional_call(layer, values, (x,))[0].sum()

    grads = torch.func.grad(total)(values)
    layer(x)[0].sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(grads[name], p.grad)


@layers
def test_matrices_of_8_bits(make) -> None:
    torch.manual_seed(0)
    layer = make().eval()
    x, before = torch.randn(6, 2, X), {name: p.clone() for name, p in layer.named_parameters()}
    with torch.no_grad():
        exact, _ = layer(x)
        layer.step(x[0])  # prepares steps that the rounding must make stale
        layer.round_to_int8_()
        rounded, end = layer(x)
        state = None
        for t in range(6):
            y, state = layer.step(x[t], state)
            torch.testing.assert_close(y, rounded[t], atol=5e-3, rtol=0)  # a norm over five gates magnifies
        for got, want in zip(state_tensors(state), state_tensors(end), strict=True):
            torch.testing.assert_close(got, want, atol=5e-3, rtol=0)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().median() < 0.05
    for name, p in layer.named_parameters():
        if name.endswith(("weight_ih", "weight_hh")):
            step = before[name].abs().amax(1, keepdim=True) / 127
            assert bool(((p - before[name]).abs() <= step).all())
            assert not torch.equal(p, before[name])
        else:
            assert torch.equal(p, before[name])
