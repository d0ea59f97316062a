from __future__ import annotations

from dataclasses import replace

import pytest

from fastslow.data.alphabet import Alphabet
from fastslow.errors import UnknownNameError
from fastslow.lm import CharLM, parameter_count
from fastslow.training import PRESETS, find_preset
from fastslow.training.sources import corpus_names

PTB_SYMBOLS = Alphabet(bytes(range(50)))
ENWIK8_SYMBOLS = Alphabet(bytes(range(205)))

# The paper's table of hyper-parameters:
# fast, slow, k, embedding, dropout, zoneout c, zoneout h, window, batch, rate, epochs
PAPER = {
    "ptb-fs-lstm-2": (700, 400, 2, 128, 0.35, 0.5, 0.1, 150, 128, 0.002, 200),
    "ptb-fs-lstm-4": (500, 400, 4, 128, 0.35, 0.5, 0.1, 150, 128, 0.002, 200),
    "enwik8-fs-lstm-2": (900, 1500, 2, 256, 0.2, 0.3, 0.05, 150, 128, 0.001, 35),
    "enwik8-fs-lstm-4": (730, 1500, 4, 256, 0.2, 0.3, 0.05, 150, 128, 0.001, 35),
    "enwik8-fs-lstm-4-large": (1200, 1500, 4, 256, 0.25, 0.3, 0.05, 100, 128, 0.001, 50),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_table(name: str) -> None:
    model, train = find_preset(name).model, find_preset(name).train
    assert PAPER[name] == (
        model.hidden_size,
        model.slow_size,
        model.depth,
        model.embedding_size,
        model.dropout,
        model.zoneout_c,
        model.zoneout_h,
        train.window,
        train.batch,
        train.rate,
        train.epochs,
    )
    assert model.architecture == "fs-lstm"
    assert model.layer_norm
    assert model.forget_bias == 1.0
    assert train.clip == 1.0
    assert train.max_updates is train.max_time is None


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset(name: str) -> None:
    preset = find_preset(name)
    assert preset.name == name
    assert preset.corpus in corpus_names()
    if name.startswith("ptb-cpu"):
        assert preset.train == find_preset("ptb-cpu").train
    elif name.startswith("ptb") and name.endswith("-cpu"):
        assert preset.train == find_preset("ptb-fs-lstm-2-cpu").train
        assert (preset.train.batch, preset.train.window, preset.train.max_updates) == (64, 100, 9_600)
    elif name.startswith("ptb"):
        assert (preset.train.schedule, preset.train.decay_epoch, preset.train.decay) == ("step", 181, 0.1)
    if name.startswith("enwik8"):
        assert (preset.train.schedule, preset.train.patience, preset.train.decay) == ("plateau", 2, 0.1)


def test_baselines_are_trained_as_their_fs_lstm() -> None:
    for corpus in ("ptb", "enwik8"):
        ours = find_preset(f"{corpus}-fs-lstm-2")
        for kind in ("stacked", "sequential"):
            assert find_preset(f"{corpus}-{kind}-lstm-2").train == ours.train


def test_the_cpus_networks_have_as_many_weights() -> None:
    alphabet = Alphabet(bytes(range(50)))
    ours = parameter_count(PRESETS["ptb-cpu"].model.with_alphabet(alphabet))
    assert 1_000_000 < ours < 1_100_000
    for kind in ("stacked", "sequential"):
        model = PRESETS[f"ptb-cpu-{kind}"].model
        counts = {
            size: parameter_count(replace(model, hidden_size=size).with_alphabet(alphabet))
            for size in range(model.hidden_size - 2, model.hidden_size + 3)
        }
        assert min(counts, key=lambda size: abs(counts[size] - ours)) == model.hidden_size


def count(name: str) -> int:
    return parameter_count(
        find_preset(name).model.with_alphabet(PTB_SYMBOLS if name.startswith("ptb") else ENWIK8_SYMBOLS)
    )


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
        model = find_preset(f"{study}-{kind}").model
        assert model.layer_norm
        assert model.dropout == model.zoneout_c == model.zoneout_h == 0.0


def test_counting_is_right() -> None:
    config = PRESETS["demo"].model.with_alphabet(Alphabet.bytes())
    assert parameter_count(config) == sum(p.numel() for p in CharLM(config).parameters())


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown preset 'demmo': did you mean 'demo'"):
        find_preset("demmo")
