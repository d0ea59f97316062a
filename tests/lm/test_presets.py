from __future__ import annotations

import pytest

from fastslow.data.alphabet import Alphabet
from fastslow.errors import UnknownNameError
from fastslow.lm import MODELS, CharLM, model_preset, parameter_count

PTB = Alphabet(bytes(range(50)))
ENWIK8 = Alphabet(bytes(range(205)))


def count(name: str) -> int:
    return parameter_count(model_preset(name).with_alphabet(PTB if name.startswith("ptb") else ENWIK8))


def test_penn_treebank_counts_are_the_authors() -> None:
    assert count("ptb-fs-lstm-2") == 7_225_050
    assert count("ptb-fs-lstm-4") == 6_565_050 - 4_000  # less the authors' dead weights


@pytest.mark.parametrize(
    ("name", "millions"), [("enwik8-fs-lstm-2", 27), ("enwik8-fs-lstm-4", 27), ("enwik8-fs-lstm-4-large", 48)]
)
def test_enwik8_counts_are_the_papers(name: str, millions: int) -> None:
    assert count(name) // 1_000_000 == millions


@pytest.mark.parametrize("corpus", ["ptb", "enwik8"])
@pytest.mark.parametrize("kind", ["stacked", "sequential"])
def test_baselines_have_as_many_weights(corpus: str, kind: str) -> None:
    ours = count(f"{corpus}-fs-lstm-2")
    assert abs(count(f"{corpus}-{kind}-lstm-2") - ours) < 0.003 * ours


@pytest.mark.parametrize("study", ["study", "study-small"])
def test_networks_of_the_study_cost_about_the_same(study: str) -> None:
    counts = [count(f"{study}-{kind}") for kind in ("fs-lstm-4", "stacked-lstm-5", "sequential-lstm-5")]
    assert max(counts) < 1.15 * min(counts)
    for kind in ("fs-lstm-4", "stacked-lstm-5", "sequential-lstm-5"):
        model = model_preset(f"{study}-{kind}")
        assert model.layer_norm
        assert model.dropout == model.zoneout_c == model.zoneout_h == 0.0


def test_counting_is_right() -> None:
    config = MODELS["demo"].with_alphabet(Alphabet.bytes())
    assert parameter_count(config) == sum(p.numel() for p in CharLM(config).parameters())


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ptb-fs-lstm-2'"):
        model_preset("ptb-fs-lstm2")
