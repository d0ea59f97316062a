from __future__ import annotations

import itertools
import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastslow.data.alphabet import Alphabet
from fastslow.data.text import Text
from fastslow.errors import AlphabetError, DataError
from fastslow.evaluation import Evaluation, evaluate
from fastslow.lm import CharLM, ModelError

from ..lm import models
from ..lm.models import TEXT

PTB = b" no it was n't black monday \n but while the N did n't \n a \n but it \n" * 3


def small_lm(seed: int = 0, **options: Any) -> CharLM:
    """In float64: an untrained recurrent network blows up differences of rounding."""
    return models.small_lm(seed, dtype=torch.float64, **options)


@cache
def pieces_of(text: bytes, streams: int) -> list[NDArray[np.float64]]:
    """The losses of as many streams, each from a zero state."""
    count = len(text) - 1
    starts = np.cumsum([0, *(count // streams + (i < count % streams) for i in range(streams))])
    return [losses(small_lm(), text[a : b + 1]) for a, b in itertools.pairwise(starts)]


def losses(lm: CharLM, text: bytes, start: int = 1) -> NDArray[np.float64]:
    """Symbol by symbol, with nothing shared but the model's step: -ln p of text[start:], having read all before it."""
    lm = lm.eval()
    nats, state = [], None
    with torch.no_grad():
        for i, (symbol, following) in enumerate(itertools.pairwise(text)):
            logits, state = lm.step(torch.tensor([lm.alphabet.index(symbol)]), state)
            if i + 1 >= start:
                nats.append(-float(logits[0].double().log_softmax(0)[lm.alphabet.index(following)]))
    return np.array(nats)


def test_one_stream_scores_every_symbol_but_the_first() -> None:
    lm = small_lm()
    result = evaluate(lm, TEXT[:200], per_symbol=True)
    expected = losses(lm, TEXT[:200])
    assert result.symbols == 199
    assert result.nats == pytest.approx(expected.sum(), rel=1e-6)
    assert result.bpc == pytest.approx(expected.mean() / math.log(2), rel=1e-6)
    assert result.symbol_nats is not None
    np.testing.assert_allclose(result.symbol_nats, expected, rtol=1e-4, atol=1e-5)
    assert result.protocol == "every symbol but the first, one continuous stream"


@pytest.mark.parametrize("streams", [2, 3, 7, 198, 199])
@pytest.mark.parametrize("window", [1, 10, None])
def test_many_streams_score_each_symbol_once(streams: int, window: int | None) -> None:
    lm = small_lm()
    result = evaluate(lm, TEXT[:200], streams=streams, window=window, per_symbol=True)
    pieces = pieces_of(TEXT[:200], streams)
    assert result.symbols == 199
    assert result.symbol_nats is not None
    np.testing.assert_allclose(result.symbol_nats, np.concatenate(pieces), rtol=1e-4, atol=1e-5)
    assert result.nats == pytest.approx(np.concatenate(pieces).sum(), rel=1e-6)
    assert result.protocol == f"every symbol but the first, {streams} streams, each from a zero state"


def test_windows_change_nothing() -> None:
    lm = small_lm()
    text = TEXT[:300]
    assert evaluate(lm, text, window=1).nats == pytest.approx(evaluate(lm, text, window=1000).nats, rel=1e-12)


def test_warm_streams_have_read_what_comes_before_them() -> None:
    lm = small_lm()
    result = evaluate(lm, TEXT[:200], streams=4, warm=20, per_symbol=True)
    expected = [losses(lm, TEXT[:51])]
    for a, b in ((50, 100), (100, 150), (150, 199)):
        expected.append(losses(lm, TEXT[a - 20 : b + 1], start=21))
    assert result.symbol_nats is not None
    np.testing.assert_allclose(result.symbol_nats, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    assert result.protocol.endswith("4 streams, each after 20 symbols read unscored")
    assert evaluate(lm, TEXT[:200], streams=4, warm=10**6).warm == 49


def test_the_mode_is_given_back_and_no_mask_is_drawn() -> None:
    lm = small_lm(dropout=0.5, zoneout_h=0.5)
    before = torch.get_rng_state()
    first, second = evaluate(lm, TEXT[:300]), evaluate(lm, TEXT[:300])
    assert first.nats == second.nats
    assert lm.training
    assert torch.equal(torch.get_rng_state(), before)


def test_an_ensemble_averages_probabilities() -> None:
    members = [small_lm(seed) for seed in (1, 2, 3)]
    result = evaluate(members, TEXT[:99], per_symbol=True)
    each = np.stack([losses(lm, TEXT[:99]) for lm in members])
    expected = -np.log(np.exp(-each).mean(axis=0))
    assert result.symbol_nats is not None
    np.testing.assert_allclose(result.symbol_nats, expected, rtol=1e-4, atol=1e-5)
    assert result.models == 3
    assert result.protocol.endswith("probabilities of 3 models averaged")
    twice = evaluate([members[0], members[0]], TEXT[:300]).nats
    assert twice == pytest.approx(evaluate(members[0], TEXT[:300]).nats, rel=1e-6)


def test_an_ensemble_needs_one_alphabet() -> None:
    other = small_lm(alphabet=Alphabet.bytes())
    with pytest.raises(ModelError, match=r"models 1 and 2 have different alphabets, of 28 and 256 symbols"):
        evaluate([small_lm(), other], TEXT)
    with pytest.raises(ValueError, match="at least one model"):
        evaluate([], TEXT)


def test_both_protocols_of_penn_treebank_from_one_run() -> None:
    lm = small_lm(alphabet=Alphabet.of(PTB))
    result = evaluate(lm, PTB, streams=1)
    char = b"".join(line[1:-1] + b"\n" for line in PTB.splitlines())
    assert result.char is not None
    assert result.char.symbols == len(char) - 1  # every char symbol but the first
    nats = losses(lm, PTB)
    # All that comes after the first char symbol, the spaces of lines charged to their neighbours.
    assert result.char.nats == pytest.approx(nats[1:].sum(), rel=1e-6)
    assert result.symbols == len(PTB) - 1
    assert result.nats == pytest.approx(nats.sum(), rel=1e-6)
    assert result.char.bpc > result.bpc
    assert evaluate(lm, PTB, streams=3).char is not None


@pytest.mark.parametrize(
    "text",
    [TEXT, PTB[1:], PTB[:-1], PTB + b"no space at its ends\n", PTB + b" \n", PTB + b" none at the end\n"],
    ids=["other", "no first space", "no last line break", "no spaces", "one space for both", "no space at the end"],
)
def test_other_texts_have_no_char_protocol(text: bytes) -> None:
    assert evaluate(small_lm(alphabet=Alphabet.bytes()), text).char is None


def test_json() -> None:
    result = evaluate(small_lm(alphabet=Alphabet.bytes()), PTB, streams=2, warm=3, per_symbol=True)
    value = json.loads(json.dumps(result.to_json()))
    assert value["bpc"] == result.bpc
    assert value["char_protocol"]["symbols"] == result.char.symbols  # type: ignore[union-attr]
    assert Evaluation.from_json(value) == result


def test_progress_and_stopping() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(small_lm(), TEXT[:101], streams=3, window=10, on_window=lambda *told: seen.append(told))
    assert seen == [(30, 100), (60, 100), (90, 100), (100, 100)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    lm = small_lm()
    with pytest.raises(InterruptedError):
        evaluate(lm, TEXT, on_window=stop)
    assert lm.training


def test_what_cannot_be_scored() -> None:
    with pytest.raises(AlphabetError, match=r"poem\.txt has byte 0x58 'X' at offset 3"):
        evaluate(small_lm(), Text.of(b"theX", "poem.txt"))
    with pytest.raises(DataError, match="the text is too short: it has 1 bytes"):
        evaluate(small_lm(), b"t")
    with pytest.raises(DataError, match="too short: 3 symbols allow at most 2 streams"):
        evaluate(small_lm(), b"the", streams=5)
    lm = small_lm()
    torch.nn.init.constant_(lm.head.weight, math.nan)
    with pytest.raises(ModelError, match="predictions on the text are NaN"):
        evaluate(lm, TEXT)
