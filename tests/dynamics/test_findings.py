from __future__ import annotations

from typing import Any

import pytest

from fastslow.dynamics.findings import (
    change_sentences,
    findings,
    gradient_sentences,
    number,
    word_sentences,
)
from fastslow.dynamics.study import group

from .made import everything, made


def test_everything_holds_where_everything_is_as_in_the_paper() -> None:
    found = findings(group(everything(seeds=3)))
    assert len(found) == 8
    assert all(f.holds and f.seeds == (3, 3) for f in found)
    assert found[0].verdict == "holds on the mean; in 3 of 3 seeds"
    by = {f.test: f.measured for f in found}
    assert (
        "0.0826 in the slow cell of FS-LSTM-2"
        in by["at the longest lag the slow cell's norm is the largest of all memories"]
    )
    assert (
        "0.0011 per step in the slow cell of FS-LSTM-2, 0.055 in layer 1 of stacked LSTM-2"
        in by["its mean squared change a step is the smallest of all memories"]
    )
    assert "0.800 to 0.867" in by["its loss is below the stack's at each of the positions 4 to 8"]


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"fs_lstm": {"decay": (0.8, 0.84, 0.8)}}, {0, 1}),
        ({"stacked": {"decay": (0.97, 0.85)}}, {2}),
        ({"stacked": {"decay": (0.75, 0.85)}}, {2}),
        ({"stacked": {"change": (0.0001, 0.1)}}, {3}),
        ({"sequential": {"change": (0.1, 0.1)}}, {4}),
        ({"stacked": {"change": (0.3, 0.35)}}, {4}),
        ({"fs_lstm": {"words": [0.6, 2.5, 2, 2, 1, 1, 1, 1, 0.9, 1, 1]}}, {5}),
        ({"fs_lstm": {"words": [0.6, 3, 2, 2, 1, 1, 1, 1.2, 0.9, 1, 1]}}, {6}),
        ({"fs_lstm": {"bpc": 1.6}}, {7}),
        ({"stacked": {"bpc": 1.5}}, {7}),
    ],
)
def test_a_claim_fails_where_the_numbers_contradict_it(changes: dict[str, Any], fails: set[int]) -> None:
    found = findings(group(everything(seeds=2, **changes)))
    assert {i for i, f in enumerate(found) if not f.holds} == fails
    for i in fails:
        assert found[i].seeds == (0, 2)
        assert found[i].verdict.startswith("does not hold")


def test_seeds_are_counted_one_by_one() -> None:
    models = everything(seeds=2)
    models[-1] = made("fs-lstm", 1, bpc=1.7)
    order = findings(group(models))[-1]
    assert not order.holds
    assert order.seeds == (1, 2)
    assert findings(group(models[:-1]))[-1].seeds is None


def test_claims_need_their_networks() -> None:
    assert [f.figure for f in findings(group([made("fs-lstm"), made("stacked")]))] == ["words", "words"]
    assert findings(group([made("sequential")])) == []
    assert findings(group(everything()))[0].verdict == "holds"


def test_sentences_say_what_the_numbers_are() -> None:
    groups = group(everything())
    gradients = gradient_sentences(groups)
    assert gradients[0] == (
        "FS-LSTM-2: at lag 20 the norm is largest in the slow cell (0.0818, after a fall by a factor of 1.21 since "
        "lag 1) and smallest in fast 2 (0.00115, a fall by a factor of 69.4)."
    )
    changes = change_sentences(groups)
    assert changes[0] == (
        "Of all memories the slow cell of FS-LSTM-2 changes least (0.001 per step, mean over its units) and cell 2 of "
        "sequential LSTM-2 most (0.5)."
    )
    assert changes[2] == "stacked LSTM-2: layer 1 0.05, layer 2 0.1."
    words = word_sentences(groups)
    assert words[0].startswith("stacked LSTM-2, to which the others are compared: 3.01 bits at the first character")
    assert words[1] == ("FS-LSTM-2: 0.997 of that loss at position 1; best at position 8 (0.800), worst at 1 (0.997).")
    assert len(words) == 3


def test_gradients_that_explode() -> None:
    (said,) = gradient_sentences(group([made("stacked", decay=(1.0, 2.0))]))
    assert "layer 2 (1.0 × 10⁵, after a rise by a factor of 5.2 × 10⁵ since lag 1)" in said


def test_gradients_that_vanish_altogether() -> None:
    groups = group([made("stacked", decay=(0.0, 0.5))])
    (said,) = gradient_sentences(groups)
    assert said.endswith("smallest in layer 1 (0, a fall by a factor of inf).")


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (1.23456, "1.23"), (0.001, "0.001"), (1234.5, "1230"), (3.21e-7, "3.2 × 10⁻⁷"), (1e5, "1.0 × 10⁵")],
)
def test_numbers(value: float, told: str) -> None:
    assert number(value) == told
