from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fastslow.data.alphabet import Alphabet
from fastslow.evaluation import evaluate
from fastslow.lm.config import ModelOptions
from fastslow.lm.model import CharLM
from fastslow.training.accelerated import GraphedUpdater, RecordedScorer, make_scorer, make_updater
from fastslow.training.config import TrainConfig
from fastslow.training.updater import Updater
from tests.training.test_graphed import Strict

TEXT = b"the quick brown fox jumps over the lazy dog; " * 16
CONFIG = TrainConfig(batch=4, window=6, epochs=1, rate=5e-3)


def _lm(seed: int = 0, text: bytes = TEXT) -> CharLM:
    torch.manual_seed(seed)
    options = ModelOptions(embedding_size=5, hidden_size=8, slow_size=6, dropout=0.2, zoneout_h=0.1, zoneout_c=0.3)
    return CharLM(options.with_alphabet(Alphabet.of(text)), backend="reference")


def _train(updater: Updater, updates: int, start: int = 0, documents: bool = False) -> list[float]:
    generator = torch.Generator().manual_seed(start)
    losses, state = [], None
    for n in range(updates):
        T = 3 if n == 4 else 6
        tokens = torch.randint(len(updater.lm.alphabet), (T + 1, 4), generator=generator)
        resets = torch.rand(T, 4, generator=generator) < 0.2 if documents else None
        step = updater.step(tokens[:-1], tokens[1:], state, 5e-3 / (1 + n), resets)
        losses.append(step.loss_nats)
        state = None if n == 6 else step.state  # an epoch's end
    return [loss.item() for loss in losses]


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bf16"}, {"accumulate": 2}], ids=["plain", "bf16", "in two parts"]
)
@pytest.mark.parametrize("documents", [False, True])
def test_the_graphed_updater_is_the_updater(changes: dict[str, Any], documents: bool) -> None:
    config = replace(CONFIG, **changes)
    results = []
    for make in (Updater, lambda lm, config: GraphedUpdater(lm, config, recorder=Strict())):
        lm = _lm()
        updater = make(lm, config)
        torch.manual_seed(1)
        losses = _train(updater, 9, documents=documents)
        results.append((losses, [p.detach().clone() for p in lm.parameters()], updater.tensors()))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(a, b)
    assert results[0][2].keys() == results[1][2].keys()
    for name, value in results[0][2].items():
        assert torch.equal(value, results[1][2][name])


def test_the_graphed_updater_goes_on_from_a_checkpoint() -> None:
    lm = _lm()
    updater = GraphedUpdater(lm, CONFIG, recorder=Strict())
    torch.manual_seed(1)
    _train(updater, 6)
    weights = {name: value.clone() for name, value in lm.state_dict().items()}
    memory = {name: value.clone() for name, value in updater.tensors().items()}
    torch.manual_seed(2)
    expected = _train(updater, 5, start=9)
    other = _lm(seed=3)
    again = GraphedUpdater(other, CONFIG, recorder=Strict())
    _train(again, 5)  # it has recorded by now
    other.load_state_dict(weights)
    again.load_tensors(memory)
    torch.manual_seed(2)
    assert _train(again, 5, start=9) == expected


def test_a_cpu_gets_the_plain_updater() -> None:
    assert type(make_updater(_lm(), CONFIG)) is Updater


def test_recorded_scoring_changes_no_score() -> None:
    lm = _lm()
    strict = Strict()
    plain = evaluate(lm, TEXT, streams=2, window=20, per_symbol=True)
    scorer = RecordedScorer(lm, recorder=strict)
    recorded = evaluate(lm, TEXT, streams=2, window=20, per_symbol=True, scorers=[scorer])
    with torch.no_grad():
        lm.head.bias.add_(torch.randn_like(lm.head.bias))
    moved = evaluate(lm, TEXT, streams=2, window=20, scorers=[scorer])
    assert strict.replayed > 10
    assert recorded.nats == plain.nats
    assert plain.symbol_nats is not None
    assert recorded.symbol_nats is not None
    assert (recorded.symbol_nats == plain.symbol_nats).all()
    assert moved.nats == evaluate(lm, TEXT, streams=2, window=20).nats != plain.nats


def test_recorded_scoring_is_in_the_autocast_of_the_call() -> None:
    lm = _lm()
    strict = Strict()

    def score(kind: torch.dtype | None, scorer: Any = None) -> float:
        with torch.autocast("cpu", kind, enabled=kind is not None):
            return evaluate(lm, TEXT, streams=2, window=20, scorers=[scorer] if scorer else None).nats

    kinds = (None, torch.bfloat16, None, torch.bfloat16)
    plain = [score(kind) for kind in kinds]
    assert plain[0] != plain[1]
    scorer = RecordedScorer(lm, recorder=strict)
    assert [score(kind, scorer) for kind in kinds] == plain
    with torch.no_grad():  # the casts of before are not kept
        lm.head.weight.mul_(1.5)
    assert score(torch.bfloat16, scorer) == score(torch.bfloat16) != plain[1]
    assert strict.recorded == 2


def test_recorded_scoring_of_documents_changes_no_score() -> None:
    lines = TEXT.replace(b"dog; ", b"dog;\n")
    lm, strict = _lm(text=lines), Strict()
    given: dict[str, Any] = {"streams": 2, "window": 20, "documents": "lines"}
    plain = evaluate(lm, lines, **given)
    assert evaluate(lm, lines, **given, scorers=[RecordedScorer(lm, recorder=strict)]).nats == plain.nats
    assert plain.nats != evaluate(lm, lines, streams=2, window=20).nats
    assert strict.replayed > 10


def test_a_cpu_gets_the_models_own_scorer() -> None:
    lm = _lm()
    assert make_scorer(lm) == lm.token_nats
