from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastslow.data.alphabet import Alphabet
from fastslow.data.text import Text
from fastslow.errors import AlphabetError, DataError
from fastslow.evaluation import dynamic, evaluate
from fastslow.evaluation.dynamic import (
    DynamicEvaluation,
    DynamicSettings,
    GradientStatistics,
    SettingsError,
    Trial,
    Tuned,
    cached_statistics,
    cached_tuning,
    evaluate_dynamic,
    gradient_statistics,
    tune,
)
from fastslow.lm import CharLM, ModelError, ModelOptions

LETTERS = Alphabet.of(b"abcdef \n")
TRAIN = b"abc abd fed\ncab bad fade ace\n" * 12
TEXT = b"bead cafe fab\ndeaf face bed cab dad\n" * 4
OPTIONS = ModelOptions(embedding_size=4, hidden_size=6, slow_size=5)
SETTINGS = DynamicSettings(rate=3e-3, decay=0.02, segment=7)


def small_lm(seed: int = 0, *, backend: str = "reference", **options: Any) -> CharLM:
    torch.manual_seed(seed)
    return CharLM(replace(OPTIONS, **options).with_alphabet(LETTERS), backend=backend, dtype=torch.float64)


def statistics_of(lm: CharLM) -> GradientStatistics:
    return gradient_statistics(lm, TRAIN, streams=3, segment=7)


@cache
def prepared(
    seed: int = 0, architecture: Any = "fs-lstm", backend: str = "reference"
) -> tuple[CharLM, GradientStatistics]:
    """A model and its statistics, for tests that leave both as they are."""
    sizes = {} if architecture == "fs-lstm" else {"slow_size": None}
    lm = small_lm(seed, architecture=architecture, backend=backend, **sizes)
    return lm, statistics_of(lm)


def nats_of(lm: Any, text: bytes, statistics: Any = None, settings: Any = SETTINGS) -> NDArray[np.float32]:
    statistics = statistics or statistics_of(lm)
    result = evaluate_dynamic(lm, text, statistics, settings, per_symbol=True)
    assert result.symbol_nats is not None
    return result.symbol_nats


# ---------------------------------------------------------------------- the rule


def test_statistics_are_root_mean_squares_over_windows() -> None:
    lm = small_lm()
    found = statistics_of(lm)
    encoded = torch.from_numpy(LETTERS.encode(TRAIN).astype(np.int64))
    length = (len(encoded) - 1) // 3
    squares: dict[str, torch.Tensor] = {}
    state, windows = None, length // 7
    for w in range(windows):
        at = torch.arange(3) * length + w * 7 + torch.arange(7).unsqueeze(1)
        logits, state = lm(encoded[at], state)
        state = type(state)(*(type(s)(*(leaf.detach() for leaf in s)) for s in state))
        lm.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), encoded[at + 1].flatten()).backward()
        for name, p in lm.named_parameters():
            assert p.grad is not None
            squares[name] = squares.get(name, 0) + p.grad**2 / windows
    assert set(found.rms) == set(squares)
    for name, square in squares.items():
        torch.testing.assert_close(found.rms[name].double(), square.sqrt(), rtol=1e-5, atol=1e-9)


def test_the_update_is_the_formula() -> None:
    lm = small_lm()
    statistics = statistics_of(lm)
    found = nats_of(lm, TEXT, statistics)

    # Written once more, a weight at a time.
    weights = {name: p.detach().clone() for name, p in lm.named_parameters()}
    start = {name: w.clone() for name, w in weights.items()}
    mean = sum(float(v.sum()) for v in statistics.rms.values()) / sum(v.numel() for v in statistics.rms.values())
    encoded = torch.from_numpy(LETTERS.encode(TEXT).astype(np.int64))
    expected, state = [], None
    for a in range(0, len(encoded) - 1, 7):
        b = min(a + 7, len(encoded) - 1)
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        logits, new = torch.func.functional_call(lm, leaves, (encoded[a:b, None], state))
        nats = -logits[:, 0].log_softmax(-1).gather(1, encoded[a + 1 : b + 1, None])[:, 0]
        expected += nats.tolist()
        state = type(new)(*(type(s)(*(leaf.detach() for leaf in s)) for s in new))
        nats.mean().backward()
        for name, w in weights.items():
            ms, g = statistics.rms[name].double(), leaves[name].grad
            assert g is not None
            pull = torch.minimum(SETTINGS.decay * ms / mean, torch.ones_like(ms))
            weights[name] = w + pull * (start[name] - w) - SETTINGS.rate * g / (ms + SETTINGS.epsilon)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, segment=1), replace(SETTINGS, segment=1000)])
def test_without_steps_it_is_static(settings: DynamicSettings) -> None:
    lm, statistics = prepared()
    static = evaluate(lm, TEXT, per_symbol=True)
    result = evaluate_dynamic(lm, TEXT, statistics, replace(settings, rate=0.0), per_symbol=True)
    assert (result.symbols, result.nats) == (static.symbols, pytest.approx(static.nats, rel=1e-9))
    np.testing.assert_allclose(result.symbol_nats, static.symbol_nats, rtol=1e-5)


def test_learning_lowers_the_loss_of_a_text_that_repeats() -> None:
    lm, statistics = prepared()
    settings = replace(SETTINGS, rate=1e-2, segment=20)
    learned = evaluate_dynamic(lm, TEXT * 3, statistics, settings)
    assert learned.bpc < evaluate(lm, TEXT * 3).bpc - 0.1


def test_the_first_segment_is_scored_by_the_trained_weights() -> None:
    lm, statistics = prepared()
    static = evaluate(lm, TEXT, per_symbol=True).symbol_nats
    found = nats_of(lm, TEXT, statistics)
    assert static is not None
    np.testing.assert_allclose(found[:7], static[:7], rtol=1e-6)
    assert (np.abs(found[7:] - static[7:]) > 1e-6).all()


# ---------------------------------------------------------------------- no symbol sees itself


@cache
def scores_of(architecture: str, backend: str) -> NDArray[np.float32]:
    lm, statistics = prepared(0, architecture, backend)
    return nats_of(lm, TEXT[:60], statistics)


def quick(condition: bool) -> Any:
    """The marks of a case: only those of the condition are tested each time."""
    return () if condition else pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "backend", "place"),
    [
        # The last symbol of the first segment, the first one of the second and of a later one.
        pytest.param(kind, backend, place, marks=quick(place == 8 or (kind == "fs-lstm" and place in (7, 22))))
        for kind, backend, place in product(
            ("fs-lstm", "stacked", "sequential"), ("reference", "auto"), (1, 6, 7, 8, 20, 22, 40)
        )
    ],
)
def test_what_comes_changes_no_score_before(architecture: str, backend: str, place: int) -> None:
    lm, statistics = prepared(0, architecture, backend)
    text, scores = TEXT[:60], scores_of(architecture, backend)
    # Everything from `place` on is another text: symbol i has score i - 1, and those of symbols before it stay.
    other = text[:place] + b"f" * (60 - place)
    np.testing.assert_array_equal(nats_of(lm, other, statistics)[: place - 1], scores[: place - 1])
    # What follows does not change the score of the symbol at `place` itself either.
    other = text[: place + 1] + b"f" * (59 - place)
    np.testing.assert_array_equal(nats_of(lm, other, statistics)[:place], scores[:place])


@pytest.mark.parametrize(
    ("models", "place"),
    [
        pytest.param(models, place, marks=quick((models, place) in [(1, 7), (1, 22), (2, 1), (2, 8)]))
        for models, place in product((1, 2), (1, 7, 8, 20, 21, 22, 59))
    ],
)
def test_the_scores_of_all_symbols_that_might_come_are_one_distribution(models: int, place: int) -> None:
    """If the symbol at a place had any part in its own score, the probabilities would not add up to one."""
    members, statistics = zip(*(prepared(seed) for seed in range(models)), strict=True)
    total = 0.0
    for symbol in LETTERS.symbols:
        text = TEXT[:place] + bytes([symbol]) + TEXT[place + 1 : place + 9]  # more than a segment behind it
        total += math.exp(-float(nats_of(members, text, statistics)[place - 1]))
    assert total == pytest.approx(1.0, abs=1e-5)


# ---------------------------------------------------------------------- models


def test_the_models_are_afterwards_what_they_were() -> None:
    lm = small_lm(dropout=0.3, zoneout_c=0.2).train()
    statistics = statistics_of(lm)
    before = copy.deepcopy(lm.state_dict())
    result = evaluate_dynamic(lm, TEXT, statistics, SETTINGS)
    assert lm.training
    assert all(p.grad is None for p in lm.parameters())
    for name, value in lm.state_dict().items():
        assert torch.equal(value, before[name])
    assert evaluate_dynamic(lm, TEXT, statistics, SETTINGS).nats == result.nats

    def stop(done: int, total: int) -> None:
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_dynamic(lm, TEXT, statistics, SETTINGS, on_segment=stop)
    for name, value in lm.state_dict().items():
        assert torch.equal(value, before[name])


def test_models_of_an_ensemble_adapt_by_themselves() -> None:
    members = [small_lm(0), small_lm(1, hidden_size=8)]
    statistics = [statistics_of(lm) for lm in members]
    settings = [SETTINGS, replace(SETTINGS, rate=1e-3)]
    alone = [
        nats_of(lm, TEXT, s, how).astype(np.float64) for lm, s, how in zip(members, statistics, settings, strict=True)
    ]
    together = nats_of(members, TEXT, statistics, settings)
    np.testing.assert_allclose(together, -np.log((np.exp(-alone[0]) + np.exp(-alone[1])) / 2), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"depth": 4}, {"architecture": "stacked", "slow_size": None, "depth": 3}])
def test_engines_agree(options: Any) -> None:
    loop, fast = small_lm(**options), small_lm(backend="auto", **options)
    statistics = statistics_of(loop)
    np.testing.assert_allclose(nats_of(fast, TEXT, statistics), nats_of(loop, TEXT, statistics), rtol=1e-5)


def test_frozen_weights_stay() -> None:
    lm = small_lm()
    lm.embedding.weight.requires_grad_(False)
    statistics = statistics_of(lm)
    assert "embedding.weight" not in statistics.rms
    nats_of(lm, TEXT, statistics)
    for p in lm.parameters():
        p.requires_grad_(False)
    with pytest.raises(SettingsError, match="frozen"):
        statistics_of(lm)


def test_the_result_says_how_it_was_made() -> None:
    lm = small_lm()
    result = evaluate_dynamic(lm, b" abc \n fed \n", flat_statistics(lm), SETTINGS)
    assert result.protocol.startswith(
        "every symbol but the first, one continuous stream, dynamic evaluation: the weights are updated after each of"
    )
    assert result.char is not None
    assert (result.char.symbols, result.symbols) == (7, 11)
    again = DynamicEvaluation.from_json(json.loads(json.dumps(result.to_json())))
    assert again == result


def flat_statistics(lm: CharLM) -> GradientStatistics:
    return GradientStatistics({name: torch.ones_like(p, dtype=torch.float32) for name, p in lm.named_parameters()}, {})


def test_bad_input() -> None:
    lm = small_lm()
    good = flat_statistics(lm)
    with pytest.raises(DataError, match="too short"):
        evaluate_dynamic(lm, b"a", good, SETTINGS)
    with pytest.raises(AlphabetError, match="0x78 'x' at offset 1"):
        evaluate_dynamic(lm, b"axe", good, SETTINGS)
    with pytest.raises(ValueError, match="passed twice"):
        evaluate_dynamic([lm, lm], TEXT, [good, good], SETTINGS)
    with pytest.raises(SettingsError, match="2 models need as many statistics; got 1"):
        evaluate_dynamic([lm, small_lm(1)], TEXT, good, SETTINGS)
    with pytest.raises(SettingsError, match="same segment length"):
        evaluate_dynamic([lm, small_lm(1)], TEXT, [good, good], [SETTINGS, replace(SETTINGS, segment=8)])
    with pytest.raises(SettingsError, match="another model"):
        evaluate_dynamic(lm, TEXT, GradientStatistics({"head.bias": torch.ones(8)}, {}), SETTINGS)
    zeros = GradientStatistics({name: 0 * value for name, value in good.rms.items()}, {})
    with pytest.raises(SettingsError, match="all zero"):
        evaluate_dynamic(lm, TEXT, zeros, SETTINGS)
    with pytest.raises(ModelError, match="lower rate"):
        evaluate_dynamic(lm, TEXT, good, replace(SETTINGS, rate=1e200))
    with pytest.raises(DataError, match="too short"):
        gradient_statistics(lm, b"abc")


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", -1.0), ("rate", math.nan), ("decay", -0.1), ("epsilon", 0.0), ("segment", 0), ("segment", 2.5)],
)
def test_bad_settings(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=field):
        DynamicSettings(**{field: value})


# ---------------------------------------------------------------------- kept in the folder


def test_statistics_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_lm()
    text = Text.of(TRAIN, "train")
    first = cached_statistics(tmp_path, lm, text, streams=3, segment=7)
    made = []
    original = gradient_statistics

    def counted(*args: Any, **kwargs: Any) -> GradientStatistics:
        made.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(dynamic, "gradient_statistics", counted)
    again = cached_statistics(tmp_path, lm, text, streams=3, segment=7)
    assert not made
    assert again.identity == first.identity
    for name, value in first.rms.items():
        assert torch.equal(again.rms[name], value)

    cached_statistics(tmp_path, lm, Text.of(TRAIN + b"a", "more"), streams=3, segment=7)
    cached_statistics(tmp_path, lm, text, streams=3, segment=7)
    cached_statistics(tmp_path, lm, text, streams=4, segment=7)
    with torch.no_grad():
        lm.head.bias += 1
    cached_statistics(tmp_path, lm, text, streams=4, segment=7)
    assert len(made) == 4
    file = tmp_path / dynamic.STATISTICS_FILE
    file.write_bytes(file.read_bytes()[:-9])
    cached_statistics(tmp_path, lm, text, streams=4, segment=7)
    assert len(made) == 5
    cached_statistics(tmp_path, lm, text, streams=4, segment=7)
    assert len(made) == 5
    assert len(cached_statistics(tmp_path / "nowhere", lm, text, streams=4, segment=7).rms) == len(first.rms)


def test_tuning_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_lm()
    statistics = statistics_of(lm)
    first = cached_tuning(tmp_path, lm, TEXT, statistics, segment=7, max_symbols=15)
    monkeypatch.setattr(dynamic, "tune", None)
    assert cached_tuning(tmp_path, lm, TEXT, statistics, segment=7, max_symbols=15) == first
    with pytest.raises(TypeError):
        cached_tuning(tmp_path, lm, TEXT + b"a", statistics, segment=7, max_symbols=15)


# ---------------------------------------------------------------------- tuning


def test_tuning_finds_the_best_of_what_it_tries() -> None:
    lm = small_lm()
    statistics = statistics_of(lm)
    seen: list[Trial] = []
    tuned = tune(
        lm, TEXT, statistics, rates=(1e-3, 3e-3), decays=(0.0, 0.02), segment=7, max_symbols=80, on_trial=seen.append
    )
    assert tuple(seen) == tuned.trials
    assert tuned.symbols == 80
    assert tuned.static_bpc == pytest.approx(evaluate(lm, TEXT[:81]).bpc)
    best = min(tuned.trials, key=lambda trial: trial.bpc)
    assert tuned.settings == best.settings
    assert tuned.bpc == best.bpc == pytest.approx(evaluate_dynamic(lm, TEXT[:81], statistics, best.settings).bpc)
    # An untrained model wants the largest rates: the search went past the edge it was given.
    assert max(trial.settings.rate for trial in tuned.trials) > 3e-3
    assert {trial.settings.decay for trial in tuned.trials} == {0.0, 0.02}
    assert Tuned.from_json(json.loads(json.dumps(tuned.to_json()))) == tuned


def test_settings_that_lead_astray_lose() -> None:
    lm = small_lm()
    tuned = tune(lm, TEXT, statistics_of(lm), rates=(1e-3, 1e200), decays=(0.0,), segment=7, max_symbols=15)
    assert tuned.settings.rate == 1e-3 or math.isfinite(tuned.bpc)
    assert any(math.isinf(trial.bpc) for trial in tuned.trials)
    assert Tuned.from_json(json.loads(json.dumps(tuned.to_json()))) == tuned
