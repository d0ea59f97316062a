"""Properties of the layer at sizes, lengths, types and wirings that hypothesis draws: every engine is the reference,
every form of input is the same sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM, WiredLSTM
from fastslow.backends import ENGINES, engine
from fastslow.state import index_rows, map_state, reset_rows, state_tensors

DTYPES = {torch.float32: {"atol": 2e-2, "rtol": 1e-2}, torch.float64: {"atol": 1e-8, "rtol": 1e-7}}
"""Tolerances: a norm over few units magnifies single precision."""
drawn = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Case:
    """A layer to make, and the sizes of what it is given."""

    kind: str
    depth: int
    x: int
    h: int
    s: int
    steps: int
    rows: int
    dtype: torch.dtype
    options: dict[str, Any]
    lengths: list[int] | None
    training: bool
    seed: int

    def layer(self, **changes: Any) -> WiredLSTM:
        torch.manual_seed(self.seed)
        options = {**self.options, "dtype": self.dtype, **changes}
        if self.kind == "fast-slow":
            return FSLSTM(self.x, self.h, self.s, self.depth + 1, **options).train(self.training)
        make = StackedLSTM if self.kind == "stacked" else SequentialLSTM
        return make(self.x, self.h, self.depth, **options).train(self.training)

    def input(self) -> Tensor:
        return torch.randn(
            self.steps, self.rows, self.x, dtype=self.dtype, generator=torch.Generator().manual_seed(self.seed)
        )

    def run(self, layer: WiredLSTM, x: Tensor, **arguments: Any) -> Any:
        torch.manual_seed(self.seed + 1)  # of the masks
        return layer(x, **arguments)

    def close(self, got: Any, want: Any) -> None:
        torch.testing.assert_close(got, want, **DTYPES[self.dtype])


@st.composite
def cases(draw: st.DrawFn, *, training: bool | None = None) -> Case:
    steps, rows = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rate = st.sampled_from([0.0, 0.0, 0.3, 1.0])
    return Case(
        kind=draw(st.sampled_from(["fast-slow", "stacked", "sequential"])),
        depth=draw(st.integers(1, 3)),
        x=draw(st.integers(1, 9)),
        h=draw(st.integers(1, 17)),
        s=draw(st.integers(1, 9)),
        steps=steps,
        rows=rows,
        dtype=draw(st.sampled_from(list(DTYPES))),
        options={
            "bias": draw(st.booleans()),
            "layer_norm": draw(st.booleans()),
            "dropout": draw(rate),
            "zoneout_h": draw(rate),
            "zoneout_c": draw(rate),
            "forget_bias": draw(st.sampled_from([1.0, 0.0, -0.5])),
        },
        lengths=draw(st.none() | st.lists(st.integers(0, steps), min_size=rows, max_size=rows)),
        training=draw(st.booleans()) if training is None else training,
        seed=draw(st.integers(0, 99)),
    )


@drawn
@given(cases())
def test_every_engine_is_the_reference(case: Case) -> None:
    x = case.input()
    want = case.layer(backend="reference")
    y, state = case.run(want, x, lengths=case.lengths)
    assert y.shape == (case.steps, case.rows, case.h)
    assert {leaf.dtype for leaf in (y, *state_tensors(state))} == {case.dtype}
    y.square().sum().backward()
    for name in ENGINES:
        layer = case.layer()
        if name == "reference" or engine(name).refusal(layer._problem(x)) is not None:
            continue
        layer.backend = name
        got, end = case.run(layer, x, lengths=case.lengths)
        case.close(got, y)
        case.close(state_tensors(end), state_tensors(state))
        if case.dtype == torch.float64:
            got.square().sum().backward()
            for p, q in zip(layer.parameters(), want.parameters(), strict=True):
                case.close(p.grad, q.grad)


@drawn
@given(cases(training=False))
def test_every_form_of_input_is_the_same_sequence(case: Case) -> None:
    layer, x = case.layer(), case.input()
    y, state = layer(x, lengths=case.lengths)
    first = case.layer(batch_first=True)
    flipped, end = first(x.transpose(0, 1), lengths=case.lengths)
    case.close(flipped.transpose(0, 1), y)
    case.close(state_tensors(end), state_tensors(state))
    for row in range(case.rows):
        steps = case.steps if case.lengths is None else case.lengths[row]
        assert not y[steps:, row].any()
        if steps:
            alone, end = layer(x[:steps, row])
            case.close(alone, y[:steps, row])
            case.close(state_tensors(end), [leaf[row] for leaf in state_tensors(state)])
    if case.lengths is None or min(case.lengths) > 0:
        lengths = case.lengths or [case.steps] * case.rows
        packed, end = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        padded, _ = pad_packed_sequence(packed, total_length=case.steps)
        case.close(padded, y)
        case.close(state_tensors(end), state_tensors(state))


@drawn
@given(cases(training=False), st.data())
def test_a_sequence_in_parts_is_the_sequence(case: Case, data: st.DataObject) -> None:
    layer, x = case.layer(), case.input()
    y, state = layer(x)
    cut = data.draw(st.integers(1, case.steps))
    first, middle = layer(x[:cut])
    case.close(first, y[:cut])
    end = middle
    if cut < case.steps:
        rest, end = layer(x[cut:], middle)
        case.close(rest, y[cut:])
    case.close(state_tensors(end), state_tensors(state))
    part = None
    with torch.no_grad():
        for t in range(case.steps):
            out, part = layer.step(x[t], part)
            case.close(out, y[t])


@drawn
@given(cases(training=False), st.data())
def test_rows_do_not_see_each_other(case: Case, data: st.DataObject) -> None:
    layer, x = case.layer(), case.input()
    _, before = layer(x)
    y, state = layer(x, before)
    order = torch.tensor(data.draw(st.permutations(range(case.rows))))
    mixed, end = layer(x[:, order], index_rows(before, order))
    case.close(mixed, y[:, order])
    case.close(state_tensors(end), state_tensors(index_rows(state, order)))
    new = torch.tensor(data.draw(st.lists(st.booleans(), min_size=case.rows, max_size=case.rows)))
    fresh, _ = layer(x)
    begun, _ = layer(x, reset_rows(before, new))
    case.close(begun, torch.where(new.view(1, -1, 1), fresh, y))


@drawn
@given(cases(training=True))
def test_masks_follow_the_seed_alone(case: Case) -> None:
    layer, x = case.layer(), case.input()
    y, state = case.run(layer, x)
    again, end = case.run(layer, x)
    assert torch.equal(again, y)
    assert all(map(torch.equal, state_tensors(end), state_tensors(state)))
    half = case.rows // 2
    layer.first_row = half  # of a process that owns the later rows
    case.close(case.run(layer, x[:, half:])[0], y[:, half:])
    assert all(bool(leaf.isfinite().all()) for leaf in state_tensors(map_state(torch.detach, state)))
