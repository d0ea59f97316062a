from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastslow.data.alphabet import Alphabet
from fastslow.errors import AlphabetError
from fastslow.lm.generation import SamplingError, draw, next_probabilities, start_of_text

from .models import LETTERS, small_lm

LOGITS = st.lists(st.floats(-50, 50), min_size=1, max_size=12)


@example([0.0, 9.9e-68], 1.0, None, 0.5, 0.0)
@given(LOGITS, st.floats(0.01, 5), st.none() | st.integers(1, 12), st.none() | st.floats(0.01, 1), st.floats(0, 1))
def test_only_allowed_symbols_are_drawn(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None, uniform: float
) -> None:
    p = next_probabilities(np.array(logits), temperature, top_k, top_p)
    assert np.isclose(p.sum(), 1)
    # Logits that differ by less than a probability can show are equally likely, and the first of equals wins.
    likeliest = int(np.argmax(next_probabilities(np.array(logits), temperature)))
    assert p[likeliest] == p.max() > 0
    if top_k is not None:
        assert np.count_nonzero(p) <= top_k
    assert p[draw(p, min(uniform, np.nextafter(1.0, 0.0)))] > 0


@given(LOGITS, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_that_add_up_to_p(logits: list[float], top_p: float) -> None:
    whole = next_probabilities(np.array(logits))
    kept = next_probabilities(np.array(logits), top_p=top_p) > 0
    assert whole[kept].sum() >= top_p - 1e-9
    least = whole[kept].min()
    assert whole[kept].sum() - least < top_p + 1e-9
    assert whole[~kept].max(initial=0.0) <= least


def test_the_filters_by_hand() -> None:
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    np.testing.assert_allclose(next_probabilities(logits), [0.1, 0.5, 0.15, 0.25])
    np.testing.assert_allclose(next_probabilities(logits, top_k=2), [0, 2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(next_probabilities(logits, top_p=0.8), [0, 5 / 9, 1.5 / 9, 2.5 / 9])
    np.testing.assert_allclose(next_probabilities(logits, top_p=0.5), [0, 1, 0, 0])
    np.testing.assert_allclose(next_probabilities(logits, top_k=3, top_p=0.8), [0, 2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(next_probabilities(logits, 0.5), np.square([0.1, 0.5, 0.15, 0.25]) / 0.345)
    np.testing.assert_allclose(next_probabilities(logits, 0.0), [0, 1, 0, 0])
    np.testing.assert_allclose(next_probabilities(logits, 1e-300), [0, 1, 0, 0])


def test_of_equals_the_first_is_likelier() -> None:
    np.testing.assert_allclose(next_probabilities(np.zeros(4), top_k=2), [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(next_probabilities(np.zeros(4), 0.0), [1, 0, 0, 0])


def test_draw_is_the_inverse_of_the_cumulated_probabilities() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    assert [draw(p, u) for u in (0.0, 0.2499, 0.25, 0.9999999999999999)] == [1, 1, 3, 3]
    counts = np.bincount([draw(p, (i + 0.5) / 1000) for i in range(1000)], minlength=5)
    assert counts.tolist() == [0, 250, 0, 750, 0]


def test_predictions_that_are_no_numbers() -> None:
    with pytest.raises(SamplingError, match="not finite numbers"):
        next_probabilities(np.array([0.0, np.nan]))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.5}, {"temperature": 0.0}])
def test_seeds_repeat(options: dict[str, Any]) -> None:
    lm = small_lm()
    first = lm.generate("the ", 30, seed=3, **options)
    assert first == lm.generate(b"the ", 30, seed=3, **options)
    assert len(first) == 30
    assert set(first) <= set(LETTERS.symbols)
    assert first == lm.generate("the ", 30, generator=torch.Generator().manual_seed(3), **options)
    if options.get("temperature") != 0.0:
        assert first != lm.generate("the ", 30, seed=4, **options)


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.none() | st.integers(1, 5),
    st.none() | st.floats(0.05, 1),
    st.integers(0, 5),
)
def test_what_is_drawn_was_possible_at_its_place(
    seed: int, temperature: float, top_k: int | None, top_p: float | None, prompt: int
) -> None:
    lm = small_lm(seed=seed % 3, dtype=torch.float64).eval()
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    start = b"the quick"[:prompt] or b"t"
    drawn = lm.generate(start, 12, seed=seed, **options)
    assert lm.generate(start, 12, seed=seed, **options) == drawn
    text = torch.from_numpy(LETTERS.encode(start + drawn).astype(np.int64))
    with torch.no_grad():
        logits, _ = lm(text)
        beside, _ = lm(torch.stack([text.flip(0), text, text.roll(3)], 1))  # other streams change nothing
    torch.testing.assert_close(beside[:, 1], logits)
    for place in range(len(start), len(text)):
        # A hair's breadth of room, for the sums of a window are not in the order of those of a step.
        possible = next_probabilities(logits[place - 1].numpy(), temperature, top_k, top_p)
        chosen = int(text[place])
        near = np.isclose(logits[place - 1].numpy()[possible > 0], float(logits[place - 1, chosen]), atol=1e-9)
        assert possible[chosen] > 0 or near.any()


def test_torchs_own_generator_by_default() -> None:
    lm = small_lm()
    torch.manual_seed(1)
    first = lm.generate("a", 20)
    torch.manual_seed(1)
    assert lm.generate("a", 20) == first


def test_temperature_zero_is_the_likeliest_symbol_of_each_step() -> None:
    lm = small_lm(2).eval()
    written = lm.generate("fox", 12, temperature=0.0)
    tokens = torch.from_numpy(LETTERS.encode(b"fox" + written).astype(np.int64))
    with torch.inference_mode():
        logits, _ = lm(tokens)
    assert LETTERS.decode(logits[2:-1].argmax(-1)) == written


def test_streaming_yields_the_same_bytes_and_leaves_the_model_as_it_was() -> None:
    lm = small_lm(dropout=0.5)
    parts = lm.stream("fox", 8, seed=1)
    first = next(parts)
    assert lm.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert first + b"".join(parts) == lm.generate("fox", 8, seed=1)
    assert lm.generate("fox", 0) == b""


def test_streaming_without_end() -> None:
    lm = small_lm()
    assert b"".join(itertools.islice(lm.stream("a", seed=1), 50)) == lm.generate("a", 50, seed=1)


def test_a_state_to_go_on_from() -> None:
    lm = small_lm().eval()
    with torch.no_grad():
        _, state = lm(torch.from_numpy(LETTERS.encode(b"the quick ").astype(np.int64)))
    assert lm.generate("fox", 9, seed=2, state=state) == lm.generate("the quick fox", 9, seed=2)


def test_long_prompts_run_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_lm()
    whole = lm.generate(b"the lazy dog " * 9, 9, seed=2)
    monkeypatch.setattr("fastslow.lm.generation.PROMPT_WINDOW", 10)
    assert lm.generate(b"the lazy dog " * 9, 9, seed=2) == whole


def test_empty_prompts_start_a_text() -> None:
    lm = small_lm()
    assert lm.generate("", 9, seed=1) == lm.generate("\n", 9, seed=1)
    assert start_of_text(Alphabet(b" ab")) == b" "
    assert start_of_text(Alphabet(b"ab")) == b"a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"top_p": 1.1}, "top_p must be"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
    ],
)
def test_senseless_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        small_lm().generate("a", 1, **options)
    with pytest.raises(SamplingError, match="length must be 0 or more"):
        small_lm().generate("a", -1)


def test_unknown_symbols_in_the_prompt() -> None:
    with pytest.raises(AlphabetError, match=r"the prompt has byte 0x41 'A' at offset 2"):
        small_lm().generate("aaA", 1)
