from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fastslow import codec
from fastslow.codec import package
from fastslow.codec.models import as_model, exact_model
from fastslow.codec.package import Made, make, rounded
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, ModelError, packaged
from tests.codec.tiny import Draw
from tests.lm.models import TEXT, small_lm

WIRINGS: dict[str, dict[str, Any]] = {
    "fs-lstm-2": {},
    "fs-lstm-4": {"depth": 4},
    "stacked-2": {"architecture": "stacked", "slow_size": None},
    "sequential-3": {"architecture": "sequential", "slow_size": None, "depth": 3},
    "without norms": {"layer_norm": False},
    "zoneout": {"zoneout_h": 0.1, "zoneout_c": 0.5, "forget_bias": 0.3},
}


def drawn_lm(seed: int = 0, spread: float = 1.0, **options: Any) -> CharLM:
    """Weights, biases and norms of any size, each matrix at a scale of its own; the same on every machine."""
    lm = small_lm(**options)
    draw = Draw(seed)
    with torch.no_grad():
        for _, weight in sorted(lm.state_dict().items()):
            scale = 2.0 ** int(draw((), -6, 2)) * spread
            values = draw(tuple(weight.shape), -(1 << 20), 1 << 20) / (1 << 20)
            weight.copy_(torch.from_numpy(values * scale))
    return lm


@pytest.mark.parametrize("options", WIRINGS.values(), ids=WIRINGS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([2.0**-20, 2.0**-6, 1.0, 8.0]))
def test_rounding_the_rounded_weights_changes_nothing(options: dict[str, Any], seed: int, spread: float) -> None:
    lm = drawn_lm(seed, spread, **options)
    result, weights = rounded(lm)
    assert exact_model(result).to_bytes() == exact_model(lm).to_bytes()
    again, same = rounded(result)
    assert all(torch.equal(same[name].values, weight.values) for name, weight in weights.items())
    assert {name: weight.bits for name, weight in same.items()} == {n: w.bits for n, w in weights.items()}
    for (name, mine), theirs in zip(result.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("options", WIRINGS.values(), ids=WIRINGS)
def test_what_is_loaded_is_what_was_rounded(options: dict[str, Any], tmp_path: Path) -> None:
    lm = drawn_lm(3, **options)
    made = make(lm, tmp_path / "m")
    loaded = CharLM.from_pretrained(tmp_path / "m")
    assert loaded.config == lm.config
    assert made.parameters == loaded.num_parameters
    assert exact_model(loaded).id == exact_model(lm).id == made.id
    assert made.size == sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    largest = max(weight.abs().max() for weight in lm.state_dict().values())
    for (name, before), after in zip(lm.named_parameters(), loaded.parameters(), strict=True):
        assert (before - after).abs().max() <= largest / (1 << 15), name


def test_float_and_integer_models_give_the_same_text_the_same_bits(tmp_path: Path) -> None:
    """The two forms of one file agree as closely as the arithmetic of 15 bits lets them."""
    lm = small_lm(8)
    make(lm, tmp_path)
    loaded = CharLM.from_pretrained(tmp_path, backend="reference")
    with torch.inference_mode():
        tokens = torch.from_numpy(loaded.alphabet.encode(TEXT).astype(np.int64))
        floats = loaded(tokens)[0]
    model = exact_model(loaded)
    from fastslow.codec.exact.engine import ExactEngine

    engine = ExactEngine(model)
    steps = np.stack([engine.step(tokens[t : t + 1].numpy())[0] for t in range(100)])
    assert np.abs(steps / (1 << 15) - floats[:100].numpy()).max() < 0.005


def test_the_names_in_archives_never_change(tmp_path: Path) -> None:
    """Drawn by integer arithmetic: another name here means that archives of packaged models cannot be read."""
    made = make(drawn_lm(1, alphabet=Alphabet.bytes()), tmp_path / "m")
    assert made.id.hex() == GOLDEN
    model = as_model(tmp_path / "m")
    assert model.id() == made.id
    with safe_open(tmp_path / "m" / "model.safetensors", framework="pt") as file:
        assert file.metadata()[package.ID] == GOLDEN


GOLDEN = "e53415c2d942a0067c202b45e4563a332ddcf3fca67f4be63109fca2f8248eeb"


def test_archives_find_their_model_whatever_it_was_made_of(tmp_path: Path) -> None:
    """An archive made with the run decodes with the packaged model, and the other way round: they are one model."""
    lm = drawn_lm(2)
    make(lm, tmp_path / "m")
    archive = codec.compress(TEXT, lm)
    assert codec.decompress(archive, tmp_path / "m") == TEXT
    assert codec.decompress(codec.compress(TEXT, tmp_path / "m"), lm) == TEXT


def power_of_two_of_rows(matrix: np.ndarray) -> np.ndarray:
    """The largest power of two that divides all entries of each row, (N, 1)."""
    entries = np.bitwise_or.reduce(matrix.astype(np.int64), axis=1, keepdims=True)
    return np.maximum(entries & -entries, 1)


@pytest.mark.parametrize("options", WIRINGS.values(), ids=WIRINGS)
def test_8_bits_are_loaded_as_they_were_rounded(options: dict[str, Any], tmp_path: Path) -> None:
    lm = small_lm(**options)
    result, weights = rounded(lm, 8)
    made = make(lm, tmp_path / "m", 8)
    loaded = CharLM.from_pretrained(tmp_path / "m")
    for (name, mine), theirs in zip(result.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert {str(w.values.dtype) for w in weights.values() if w.values.dim() == 2} == {"torch.int8"}
    exact = exact_model(loaded)
    assert made.id == exact.id
    for matrix in (exact.head, *(cell.weight for cell in exact.cells)):
        assert np.abs(matrix // power_of_two_of_rows(matrix)).max() <= 128
    archive = codec.compress(TEXT, loaded)
    assert codec.decompress(archive, tmp_path / "m") == TEXT
    _, same = rounded(loaded, 8)
    assert all(torch.equal(same[name].values, weight.values) for name, weight in weights.items())


def test_a_model_too_large_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", {16: 1000, 8: 1000})
    with pytest.raises(ModelError, match=r"takes [\d,]+ bytes; a packaged model may take at most 1,000"):
        make(small_lm(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_too_large_for_fixed_point(tmp_path: Path) -> None:
    lm = small_lm()
    with torch.no_grad():
        lm.layer.slow.gate_norm.bias.fill_(300.0)
    with pytest.raises(ModelError, match=r"layer\.slow\.gate_norm\.bias has weights too large for fixed point"):
        make(lm, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_that_would_not_come_back_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inexact(weights: Any, bits: Any) -> Any:
        return {name: values * (2.0 ** -bits[name] * 1.01) for name, values in weights.items()}

    monkeypatch.setattr(package, "to_float", inexact)
    with pytest.raises(ModelError, match="the model cannot be packaged"):
        make(small_lm(), tmp_path / "m")


@pytest.mark.parametrize("name", packaged.packaged_models())
def test_the_packaged_models_are_whole(name: str) -> None:
    folder = packaged.packaged_models()[name]
    lm = CharLM.from_pretrained(folder)
    assert lm.alphabet.is_bytes or folder.parent == packaged.clone_folder()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        wanted = file.metadata()[package.ID]
    assert exact_model(lm).id.hex() == wanted
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert wanted in card
    assert f"{lm.num_parameters:,}" in card
    assert sum(path.stat().st_size for path in folder.iterdir()) <= max(package.MAX_BYTES.values())


def test_what_is_made_says_its_size(tmp_path: Path) -> None:
    made = make(small_lm(), tmp_path / "m")
    assert isinstance(made, Made)
    assert made.size < 2.5 * made.parameters + 4000
