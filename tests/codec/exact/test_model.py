"""The model in integers: one serial form, every bound checked, hostile bytes refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM, WiredLSTM
from fastslow.codec.errors import FormatError, ModelError
from fastslow.codec.exact.model import ExactModel, model_from_bytes
from fastslow.codec.exact.quantise import quantise, start_symbol
from fastslow.wiring import Node, Wiring

from ..tiny import tiny_model

SHARED = Wiring((Node("a", "s", "x"), Node("b", "s", "a", "mid"), Node("c", "s", "b", "mid")))


def layers() -> list[WiredLSTM]:
    torch.manual_seed(3)
    return [
        FSLSTM(4, 6, 5, num_fast=3, zoneout_h=0.1, zoneout_c=0.3),
        FSLSTM(4, 6, 5, layer_norm=False, bias=False),
        StackedLSTM(4, 6, 2),
        SequentialLSTM(4, 6, 3, forget_bias=0.0),
        WiredLSTM(SHARED, 4, 6),
    ]


def parts(layer: WiredLSTM, scale: float = 0.5) -> tuple[torch.Tensor, WiredLSTM, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    return normal(7, 4), layer, normal(7, layer.output_size), normal(7)


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("bits", [8, 11, 16])
def test_serial_form_reads_back_and_names_the_model(layer: WiredLSTM, bits: int) -> None:
    model = quantise(b"abcdefg", *parts(layer), weight_bits=bits)
    data = model.to_bytes()
    again = model_from_bytes(data)
    assert again.to_bytes() == data
    assert again.id == model.id == quantise(b"abcdefg", *parts(layer), weight_bits=bits).id
    assert model.width == (1 if bits == 8 else 2)
    weights = sum(p.numel() for p in layer.parameters()) + 7 * 4 + 7 * layer.output_size + 7
    biases = sum(4 * cell.hidden for cell in model.cells) if layer.weights()[0].bias is None else 0
    assert model.parameters == weights + biases  # a cell without bias stores zeros


def test_a_shared_cell_is_stored_once() -> None:
    model = quantise(b"abcdefg", *parts(layers()[-1]))
    assert [node.cell for node in model.nodes] == [0, 1, 1]
    assert len(model.cells) == 2


def test_the_start_symbol_is_a_line_feed_a_blank_or_the_first() -> None:
    assert start_symbol(b"\t\n z") == 1
    assert start_symbol(b"!z") == 0
    assert start_symbol(b" z") == 0
    assert start_symbol(b"\x00 z") == 1


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1e-12, 1e-4, 1.0, 30.0, 1e3, 1e5, 1e9]), st.booleans(), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_extreme_weights_are_within_every_bound_or_refused(seed: int, scale: float, norm: bool, spiked: bool) -> None:
    torch.manual_seed(seed % 1000)
    layer = FSLSTM(4, 6, 5, layer_norm=norm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if spiked:
                weight.view(-1)[0] = scale * 1e4
    try:
        model = quantise(b"abcdefg", *parts(layer, scale))
    except ModelError:
        if scale * (1e4 if spiked else 1) < 30:
            raise
    else:
        assert model_from_bytes(model.to_bytes()).id == model.id


def test_weights_that_are_no_numbers_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        layer = FSLSTM(4, 6)
        with torch.no_grad():
            layer.fast[0].weight_hh[0, 0] = value  # type: ignore[index,union-attr]
        with pytest.raises(ModelError, match=r"fast\.0.* not finite"):
            quantise(b"abcdefg", *parts(layer))
    with pytest.raises(ModelError, match="alphabet"):
        quantise(b"abc", *parts(FSLSTM(4, 6)))
    with pytest.raises(ValueError, match="weight_bits"):
        quantise(b"abcdefg", *parts(FSLSTM(4, 6)), weight_bits=17)


def rewritten(model: ExactModel, change: dict[str, object], cell: dict[str, object] | None = None) -> bytes:
    data = model.to_bytes()
    length = int.from_bytes(data[4:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.update(change)
    header["cells"][0].update(cell or {})
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return data[:4] + len(text).to_bytes(4, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    ("change", "cell"),
    [
        ({"format": 2}, {}),
        ({"symbols": ""}, {}),
        ({"symbols": "zz"}, {}),
        ({"symbols": "00" * 300}, {}),
        ({"symbols": 5}, {}),
        ({"start": 200}, {}),
        ({"start": True}, {}),
        ({"width": 4}, {}),
        ({"embedding": [2**40, 15]}, {}),
        ({"embedding": [5, 31]}, {}),
        ({"embedding": None}, {}),
        ({"cells": []}, None),
        ({"nodes": []}, {}),
        ({"nodes": [[0, 0, -1], [1, 1, 0], [2, 0, 5]]}, {}),
        ({"nodes": [[0, 0, -1], [1, 1, 0], [9, 0, 1]]}, {}),
        ({"nodes": [[0, 0, -1], [1, 0, 0], [2, 0, 1]]}, {}),
        ({"nodes": [[0, 0, -2], [1, 1, 0], [2, 0, 1]]}, {}),
        ({"slots": [12, 2**50]}, {}),
        ({"slots": [12]}, {}),
        ({"output": 1}, {}),
        ({"output": -1}, {}),
        ({"keep": [40000, 0]}, {}),
        ({"head_bits": 40}, {}),
        ({}, {"hidden": 2**60}),
        ({}, {"hidden": 13}),
        ({}, {"embedded": 2}),
        ({}, {"z_bits": 21}),
        ({}, {"bits": -8}),
        ({}, {"gate_bits": 1}),
        ({}, {"norm": 0}),
        ({"more": 1}, {}),
    ],
)
def test_hostile_headers_are_refused_in_one_line(change: dict[str, object], cell: dict[str, object] | None) -> None:
    model = tiny_model()
    if cell is None:
        data = model.to_bytes()
        length = int.from_bytes(data[4:8], "little")
        header = json.loads(data[8 : 8 + length]) | change
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        data = data[:4] + len(text).to_bytes(4, "little") + text + data[8 + length :]
    else:
        data = rewritten(model, change, cell)
    with pytest.raises(FormatError) as caught:
        model_from_bytes(data)
    assert "\n" not in str(caught.value)


def test_cut_and_continued_models_are_refused() -> None:
    data = tiny_model().to_bytes()
    for damaged in (b"", b"FSXM", data[:100], data[:-1], data + b"\0", b"FSXM\xff\xff\xff\xff" + data[8:]):
        with pytest.raises(FormatError):
            model_from_bytes(damaged)


@pytest.mark.parametrize("field", ["weight", "bias"])
def test_weights_that_could_overflow_are_refused(field: str) -> None:
    model = tiny_model()
    cell = model.cells[0]
    huge = np.full_like(getattr(cell, field), 32767 if field == "weight" else 2**31 - 1)
    bad = replace(model, cells=(replace(cell, **{field: huge}, z_bits=20), *model.cells[1:]))
    with pytest.raises(FormatError, match=r"2\^53"):
        model_from_bytes(bad.to_bytes())


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    good = bytearray(tiny_model().to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, 600))] ^= data.draw(st.integers(1, 255))
    with suppress(FormatError):
        model_from_bytes(bytes(good))
