from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastslow.data.alphabet import Alphabet
from fastslow.errors import AlphabetError
from fastslow.evaluation import evaluate
from fastslow.scoring import Surprisal, surprisals
from tests.lm.models import LETTERS, TEXT, small_lm

DATA = np.frombuffer(TEXT, dtype=np.uint8)


def whole(blocks: list[Surprisal]) -> Surprisal:
    first, *rest = blocks
    for block in rest:
        first = first.then(block)
    return first


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_each_byte_but_the_first_is_scored_as_the_model_sees_it(block: int) -> None:
    lm = small_lm(dtype=torch.float64)
    found = list(surprisals(lm, DATA[:100], block=block))
    starts = [part.start for part in found]
    assert starts == [0, *range(1, 100, block)]
    scored = whole(found)
    assert scored.values.tobytes() == TEXT[:100]
    assert math.isnan(scored.bits[0])
    symbols = torch.from_numpy(LETTERS.encode(DATA[:100]).astype(np.int64))
    with torch.no_grad():
        log_p = torch.log_softmax(lm(symbols[:-1])[0], -1)
    wanted = -log_p[torch.arange(99), symbols[1:]].numpy() / math.log(2)
    np.testing.assert_allclose(scored.bits[1:], wanted, rtol=1e-5)
    best = log_p.topk(5).indices.numpy()
    assert (scored.likeliest[1:] == np.frombuffer(LETTERS.symbols, np.uint8)[best]).all()
    np.testing.assert_allclose(scored.chances[1:], log_p.topk(5).values.exp().numpy(), rtol=1e-5)
    assert (np.diff(scored.chances[1:], axis=1) <= 0).all()


def test_the_mean_is_that_of_evaluation() -> None:
    lm = small_lm()
    scored = whole(list(surprisals(lm, DATA)))
    assert np.nanmean(scored.bits) == pytest.approx(evaluate(lm, TEXT).bpc, rel=1e-5)


def test_masks_do_not_play_and_the_mode_is_left() -> None:
    lm = small_lm(dropout=0.5, zoneout_h=0.5)
    lm.train()
    first = whole(list(surprisals(lm, DATA[:50]))).bits
    assert lm.training
    np.testing.assert_array_equal(first, whole(list(surprisals(lm, DATA[:50]))).bits)


def test_a_small_alphabet_has_fewer_likeliest() -> None:
    lm = small_lm(alphabet=Alphabet(b"ab"))
    scored = whole(list(surprisals(lm, np.frombuffer(b"abba", dtype=np.uint8))))
    assert scored.likeliest.shape == (4, 2)


def test_an_unknown_byte_is_named_before_anything_is_scored() -> None:
    with pytest.raises(AlphabetError, match=r"notes.txt has byte 0x58 'X' at offset 3"):
        next(surprisals(small_lm(), np.frombuffer(b"theX", dtype=np.uint8), name="notes.txt"))
