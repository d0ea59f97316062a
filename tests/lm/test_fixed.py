from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fastslow.errors import FastslowError
from fastslow.lm import CharLM, ModelError, fixed
from fastslow.lm.files import write_config, write_fixed_weights
from fastslow.lm.fixed import Fixed

from .models import small_lm


def integers(seed: int = 0) -> dict[str, Fixed]:
    """A whole model's weights, drawn as integers."""
    torch.manual_seed(seed)
    weights = {}
    for number, (name, weight) in enumerate(sorted(small_lm().state_dict().items())):
        kind, top = (torch.int16, 32767) if weight.dim() == 2 else (torch.int32, 1 << 24)
        values = torch.randint(-top, top + 1, weight.shape, dtype=kind)
        weights[name] = Fixed(values, 12 + number % 9)
    return weights


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write_config(tmp_path, small_lm().config)
    write_fixed_weights(tmp_path, integers(), {"made": "here"})
    return tmp_path


def message(folder: Path) -> str:
    with pytest.raises(FastslowError) as caught:
        CharLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_weight_is_its_integer_exactly(saved: Path) -> None:
    lm = CharLM.from_pretrained(saved)
    for name, weight in lm.state_dict().items():
        values, bits = integers()[name]
        assert weight.dtype == torch.float32
        assert torch.equal(weight.double() * 2.0**bits, values.double()), name
    assert not lm.training
    assert all(p.requires_grad for p in lm.parameters())
    assert {p.dtype for p in CharLM.from_pretrained(saved, dtype=torch.float64).parameters()} == {torch.float64}


def test_the_file_is_the_librarys_format_and_always_the_same(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"torch.int16", "torch.int32"}
    before = (saved / "model.safetensors").read_bytes()
    write_fixed_weights(saved, dict(reversed(integers().items())), {"made": "here"})
    assert (saved / "model.safetensors").read_bytes() == before


def test_weights_that_float32_cannot_hold_are_not_written(tmp_path: Path) -> None:
    for values, bits in ((torch.tensor([(1 << 24) + 1], dtype=torch.int32), 0), (torch.tensor([1]), 31)):
        with pytest.raises(ModelError, match="a has weights too large for fixed point"):
            write_fixed_weights(tmp_path, {"a": Fixed(values, bits)})
    assert not list(tmp_path.iterdir())


def test_floats_in_a_file_of_fixed_point_are_refused(saved: Path) -> None:
    tensors, metadata = fixed.stored(integers())
    tensors["head.bias"] = tensors["head.bias"].float()
    save_file(tensors, saved / "model.safetensors", metadata)
    assert "head.bias must be I16 or I32 (28,); got F32 (28,)" in message(saved)


def test_integers_in_a_file_of_floats_are_refused(saved: Path) -> None:
    tensors, _ = fixed.stored(integers())
    save_file(tensors, saved / "model.safetensors")
    assert "does not fit its configuration" in message(saved)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-12, 6))
def test_rows_of_8_bits_use_their_range_and_come_back(seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randint(-4, 5, (5, 1), generator=generator)
    weight = torch.randn(5, 9, generator=generator) * torch.exp2(spread + exponent)
    weight[3] = 0
    (found,) = fixed.rows_of_8_bits(weight)
    floats = fixed.to_float({"w": found.values}, {"w": found.bits})["w"]
    assert found.values.dtype == torch.int8
    largest = found.values.abs().amax(1)
    assert bool((largest[[0, 1, 2, 4]] >= 63).all())
    step = torch.tensor([[2.0**-bits] for bits in found.bits])  # type: ignore[union-attr]
    assert bool(((floats - weight).abs() <= step / 2).all())
    (again,) = fixed.rows_of_8_bits(floats)
    assert torch.equal(again.values, found.values)
    assert again.bits == found.bits


def test_matrices_that_share_rows_share_their_power_of_two() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(6, 4, generator=generator), 9 * torch.randn(6, 7, generator=generator)
    right[2] = 0
    found = fixed.rows_of_8_bits(left, right)
    (whole,) = fixed.rows_of_8_bits(torch.cat([left, right], 1))
    assert found[0].bits == found[1].bits == whole.bits
    assert torch.equal(torch.cat([one.values for one in found], 1), whole.values)


def test_a_file_of_8_bits(tmp_path: Path) -> None:
    weights = integers()
    matrix = torch.randn(*weights["head.weight"].values.shape)
    (weights["head.weight"],) = fixed.rows_of_8_bits(matrix)
    write_config(tmp_path, small_lm().config)
    write_fixed_weights(tmp_path, weights)
    lm = CharLM.from_pretrained(tmp_path)
    assert float((lm.head.weight.detach() - matrix).abs().max()) <= float(matrix.abs().max()) / 127
    tensors, metadata = fixed.stored(weights)
    for bits, said in (([3] * 27, "has 27 rows"), ([3] * 27 + [31], "must be from -8 to 30; got 31")):
        changed = json.loads(metadata["fixed_point"]) | {"head.weight": bits}
        save_file(tensors, tmp_path / "model.safetensors", {"fixed_point": json.dumps(changed)})
        assert said in message(tmp_path)


def test_weights_that_no_8_bits_hold_are_refused() -> None:
    for value in (float("nan"), float("inf"), 1e9):
        with pytest.raises(ModelError, match="not finite, or too large"):
            fixed.rows_of_8_bits(torch.full((2, 3), value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bits: {}, "its entry fixed_point has other names than the weights"),
        (lambda bits: bits | {"x": 3}, "its entry fixed_point has other names than the weights"),
        (lambda bits: bits | {"head.bias": 31}, "fixed_point of head.bias must be from -8 to 30; got 31"),
        (lambda bits: bits | {"head.bias": 1.5}, "fixed_point of head.bias must be from -8 to 30; got 1.5"),
        (lambda bits: bits | {"head.bias": True}, "fixed_point of head.bias must be from -8 to 30; got True"),
        (lambda bits: [1], "it must be a JSON object; got list"),
    ],
)
def test_bits_that_are_none(saved: Path, change: object, said: str) -> None:
    tensors, metadata = fixed.stored(integers())
    assert callable(change)
    changed = {"fixed_point": json.dumps(change(json.loads(metadata["fixed_point"])))}
    save_file(tensors, saved / "model.safetensors", changed)
    assert said in message(saved)


def test_a_changed_weight_is_seen(saved: Path) -> None:
    file = saved / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    assert "the checksum of its tensors does not match" in message(saved)


def test_sizes_are_checked_before_memory_is_taken(saved: Path) -> None:
    value = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**value, "hidden_size": 65536}))
    assert "does not fit its configuration" in message(saved)
