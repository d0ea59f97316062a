"""The mixed predictor in scoring: honest bits, chosen where the network alone is worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastslow.mixing")

from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM
from fastslow.mixing import Mixer
from fastslow.mixing.mixer import TOTAL
from fastslow.scoring import Surprisal, follow, surprisals
from fastslow.scoring.mixed import EndlessMixer, NetworkMixer, choose, frequencies
from tests.lm.models import small_lm

LOG = b"".join(b"node %d: all is well\n" % (i % 3) for i in range(60))
DATA = np.frombuffer(LOG, dtype=np.uint8)


@pytest.fixture(scope="module")
def lm() -> CharLM:
    return small_lm(alphabet=Alphabet.bytes())


def bits_of(blocks: list[Surprisal]) -> np.ndarray:
    return np.concatenate([block.bits for block in blocks])


@given(st.lists(st.floats(-60, 0), min_size=2, max_size=256), st.integers(1, 3))
def test_frequencies_are_whole_and_add_up(row: list[float], rows: int) -> None:
    log_p = np.array([row] * rows)
    found = frequencies(log_p)
    assert (found.sum(axis=1) == TOTAL).all()
    assert found.min() >= 1
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert np.abs(found / TOTAL - p).max() <= len(row) / TOTAL


def test_no_rows_and_symbols_without_any_probability() -> None:
    assert frequencies(np.zeros((0, 5))).shape == (0, 5)
    assert frequencies(np.array([[-math.inf, 0.0]])).tolist() == [[1, TOTAL - 1]]


def test_bits_are_the_mixers_with_the_networks_predictions(lm: CharLM) -> None:
    found = list(choose(lm, DATA[:200], "mixed", block=7).blocks)
    with torch.no_grad():
        log_p = torch.log_softmax(lm(torch.from_numpy(DATA[:199].astype(np.int64)))[0], -1).numpy()
    rows = frequencies(np.concatenate((np.zeros((1, 256)), log_p)))
    wanted = Mixer(200, network=True).bits(DATA[:200], rows)
    bits = bits_of(found)
    assert math.isnan(bits[0])
    np.testing.assert_allclose(bits[1:], wanted[1:], atol=1e-2)
    assert b"".join(block.values.tobytes() for block in found) == LOG[:200]
    best = np.concatenate([block.likeliest[:, 0] for block in found])
    chances = np.concatenate([block.chances for block in found])
    assert found[0].likeliest.shape[1] == 5
    # Where the likeliest byte came, its bits are about those of its probability.
    hit = best[1:] == DATA[1:200]
    assert hit[100:].mean() > 0.8
    np.testing.assert_allclose(-np.log2(chances[100:, 0][hit[99:]]), bits[100:][hit[99:]], atol=0.3)
    assert (np.diff(chances, axis=1) <= 0).all()


def test_what_comes_again_is_no_surprise(lm: CharLM) -> None:
    alone, mixed = (bits_of(list(choose(lm, DATA, name).blocks)) for name in ("network", "mixed"))  # type: ignore[arg-type]
    assert np.nanmean(mixed) < np.nanmean(alone) / 2
    assert np.nanmean(mixed[-200:]) < np.nanmean(mixed[:200]) / 4


def test_the_better_is_chosen(lm: CharLM, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(lm, DATA)
    assert chosen.predictor == "mixed"
    assert "mixed with contexts" in str(chosen)
    np.testing.assert_array_equal(bits_of(list(chosen.blocks)), bits_of(list(choose(lm, DATA, "mixed").blocks)))

    class Hopeless(Mixer):
        def bits(self, *arguments: object) -> np.ndarray:  # type: ignore[override]
            return np.full(len(arguments[0]), 99.0)  # type: ignore[arg-type]

    monkeypatch.setattr("fastslow.scoring.mixed.Mixer", Hopeless)
    monkeypatch.setattr("fastslow.scoring.mixed.SAMPLE", 100)
    chosen = choose(lm, DATA, block=30)
    assert (chosen.predictor, str(chosen)) == ("network", "the network alone")
    np.testing.assert_allclose(bits_of(list(chosen.blocks)), bits_of(list(surprisals(lm, DATA, block=30))))


@pytest.mark.parametrize("predictor", ["auto", "network", "mixed"])
def test_short_texts(lm: CharLM, predictor: str) -> None:
    for size in (0, 1, 2):
        blocks = list(choose(lm, DATA[:size], predictor).blocks)  # type: ignore[arg-type]
        assert sum(map(len, blocks)) == size


def test_a_stream_without_end(lm: CharLM) -> None:
    plain = NetworkMixer(1000, bytes(range(256)))
    endless = EndlessMixer(bytes(range(256)), length=500, kept=100)
    rows = np.random.default_rng(0).normal(size=(1000, 256))
    found = np.concatenate([endless.mix(rows[a : a + 90], DATA[a : a + 90]).bits for a in range(0, 990, 90)])
    wanted = np.concatenate([plain.mix(rows[a : a + 90], DATA[a : a + 90]).bits for a in range(0, 990, 90)])
    np.testing.assert_array_equal(found[:450], wanted[:450])
    # Begun anew with the last hundred bytes: what it has learned of the lines is still there.
    assert (found[450:] != wanted[450:]).any()
    assert found[450:].mean() < 1.5 * wanted[450:].mean() + 0.1
    endless.read(DATA[:7])
    assert endless.mix(rows[:0], DATA[:0], 2).likeliest.shape == (0, 2)
    assert len(endless.mix(rows[:900], DATA[:900]).bits) == 900
    with pytest.raises(ValueError, match="kept must be at least 0 and less than length"):
        EndlessMixer(b"ab", length=10, kept=10)


def test_a_log_is_followed_by_the_mixed_predictor(lm: CharLM) -> None:
    pieces = [LOG[at : at + 50] for at in range(0, len(LOG), 50)]
    lines = list(follow(lm, [pieces], mixer=EndlessMixer(bytes(range(256)))))
    bits = bits_of(list(choose(lm, DATA, "mixed").blocks))
    assert len(lines) == 60
    assert sum(line.bits for line in lines) == pytest.approx(np.nansum(bits), rel=1e-2)


def test_a_small_alphabet() -> None:
    small = small_lm(alphabet=Alphabet(bytes(sorted(set(LOG)))))
    assert np.isfinite(bits_of(list(choose(small, DATA[:300], "mixed").blocks))[1:]).all()


def test_a_context_has_no_place_in_a_mixer(lm: CharLM) -> None:
    with pytest.raises(ValueError, match="use either mixer or context"):
        next(choose(lm, DATA, "mixed", context=b"a").blocks)
