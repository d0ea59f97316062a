from __future__ import annotations

import math

import pytest
import torch

from fastslow.data.alphabet import Alphabet
from fastslow.errors import DataError
from fastslow.evaluation import evaluate, temperature
from fastslow.evaluation.temperature import at_temperature, fit_temperature
from fastslow.lm import CharLM, ModelError

from ..lm import models
from ..lm.models import TEXT


def sure_lm(seed: int = 0) -> CharLM:
    """A model that knows how frequent each symbol is, and is twice as sure of it as it should be."""
    lm = models.small_lm(seed, dtype=torch.float64)
    counts = torch.tensor([TEXT.count(symbol) for symbol in lm.alphabet.symbols], dtype=torch.float64)
    with torch.no_grad():
        lm.head.weight.mul_(0.1)
        lm.head.bias.copy_(2.0 * (counts / len(TEXT)).log())
    return lm


def test_inside_the_logits_are_divided() -> None:
    lm, tokens = sure_lm().eval(), torch.arange(12).view(6, 2)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    with torch.no_grad():
        plain, _ = lm(tokens)
        with at_temperature(lm, 2.5):
            assert not torch.is_grad_enabled()
            divided, _ = lm(tokens)
    torch.testing.assert_close(divided, plain / 2.5)
    with pytest.raises(KeyboardInterrupt), at_temperature([lm], 3.0):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    for senseless in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be greater than 0"), at_temperature(lm, senseless):
            pass


@pytest.mark.parametrize("count", [1, 2])
def test_no_other_temperature_is_better(count: int) -> None:
    members = [sure_lm(seed) for seed in range(count)]
    text = TEXT[: 7 * TEXT.index(b"\n") + 7]
    fitted = fit_temperature(members, text, streams=1)
    assert 1.7 < fitted.temperature < 2.3
    assert fitted.symbols == len(text) - 1
    assert fitted.bpc_at_1 == pytest.approx(evaluate(members, text).bpc, rel=1e-5)

    def bpc(t: float) -> float:
        with at_temperature(members, t):
            return evaluate(members, text).bpc

    assert bpc(fitted.temperature) == pytest.approx(fitted.bpc, rel=1e-5)
    assert fitted.bpc < fitted.bpc_at_1 - 0.05
    for factor in (0.98, 1.02):
        assert bpc(fitted.temperature * factor) > fitted.bpc
    assert fitted.to_json()["temperature"] == fitted.temperature


def test_pieces_side_by_side_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, seen = sure_lm(), []
    fitted = fit_temperature(lm, TEXT, streams=7, on_window=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXT) - 1, len(TEXT) - 1)
    assert fitted.bpc_at_1 == pytest.approx(evaluate(lm, TEXT, streams=7).bpc, rel=1e-5)
    monkeypatch.setattr(temperature, "MAX_LOGITS", 100 * len(lm.alphabet))
    monkeypatch.setattr(temperature, "_ROWS", 33)
    short = fit_temperature(lm, TEXT, streams=1)
    assert short.symbols == 100
    assert short.bpc_at_1 == pytest.approx(evaluate(lm, TEXT[:101]).bpc, rel=1e-5)


def test_the_search_ends_at_the_least() -> None:
    for at in (-1.2, 0.0, 0.7):
        assert temperature._minimum(lambda x, at=at: (x - at) ** 2, -1.4, 1.4) == pytest.approx(at, abs=1e-4)  # type: ignore[misc]
    assert temperature._minimum(lambda x: x, -1.4, 1.4) == pytest.approx(-1.4, abs=1e-3)


def test_what_cannot_be_fitted() -> None:
    lm = sure_lm()
    with pytest.raises(DataError, match="too short"):
        fit_temperature(lm, b"a")
    with pytest.raises(ModelError, match="different alphabets"):
        fit_temperature([lm, models.small_lm(alphabet=Alphabet.bytes())], TEXT)
    with torch.no_grad():
        lm.head.bias.fill_(math.nan)
    with pytest.raises(ModelError, match=r"predictions on .* are NaN"):
        fit_temperature(lm, TEXT)
