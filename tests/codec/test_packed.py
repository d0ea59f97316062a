"""Float steps with packed weights: the layer's own numbers, and archives that say so."""

from __future__ import annotations

import pytest
import torch

from fastslow import CharLM, codec
from fastslow.codec.blocks import decode_block, encode_block
from fastslow.codec.floating import FloatPredictor, probe
from fastslow.codec.packed import FEWEST_LANES, PackedSteps, packs
from fastslow.data.alphabet import Alphabet
from fastslow.lm.config import LMConfig

from .tiny import ALPHABET, random_text


def model(**options: object) -> CharLM:
    torch.manual_seed(0)
    sizes = {"embedding_size": 7, "hidden_size": 19, "slow_size": 13}
    config = LMConfig(**{**sizes, "alphabet": Alphabet(ALPHABET), **options})  # type: ignore[arg-type]
    return CharLM(config).eval()


CASES = [
    {},
    {"zoneout_h": 0.1, "zoneout_c": 0.4, "dropout": 0.3},
    {"layer_norm": False},
    {"depth": 4},
    {"architecture": "stacked", "slow_size": None},
    {"architecture": "sequential", "slow_size": None, "depth": 3},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("lanes", [FEWEST_LANES, 35])
def test_they_are_the_layers_steps(options: dict[str, object], lanes: int) -> None:
    lm = model(**options)
    if not packs(lm, lanes):
        pytest.skip("there is no native engine here")
    with torch.inference_mode():
        packed = PackedSteps(lm, lanes)
        for _ in range(2):
            packed.begin()
            state = None
            for tokens in torch.randint(len(ALPHABET), (5, lanes), generator=torch.Generator().manual_seed(1)):
                expected, state = lm.step(tokens, state)
                torch.testing.assert_close(packed.step(tokens), expected, atol=2e-5, rtol=1e-5)


def test_what_they_cannot_run_is_left_to_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    assert not packs(lm, FEWEST_LANES - 1)
    lm.layer.backend = "reference"
    assert not packs(lm, 64)
    lm.layer.backend = "auto"
    assert not packs(lm.bfloat16(), 64)
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    assert not packs(lm.float(), 64)


def test_a_predictor_begins_anew() -> None:
    """Blocks and probes of one predictor do not depend on what it did before, with as many lanes or others."""
    predictor = FloatPredictor(model())
    text = random_text(600)
    first = encode_block(text, predictor, 16, 0, 1 << 20)
    mark = probe(predictor, 16)
    assert first is not None
    assert decode_block(first, 600, predictor, 16, 0) == text
    encode_block(text, predictor, 3, 0, 1 << 20)
    assert encode_block(text, predictor, 16, 0, 1 << 20) == first
    assert probe(predictor, 16) == mark == probe(FloatPredictor(model()), 16)


def test_archives() -> None:
    lm, text = model(), random_text(3000)
    archive = codec.compress(text, lm, mode="float", lanes=40, block_size=1100)
    assert codec.decompress(archive, lm) == text
