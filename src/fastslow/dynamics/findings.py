"""Sentences that describe the measurements, and tests of the paper's findings on them.

Only the paper's claims and their tests are fixed; all sentences are generated from the results. Each `Finding` names
its test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from fastslow.dynamics.study import Cell, Group, baseline_of

POSITION_ONE_BAND = 0.02
"""The relative difference up to which two losses at position 1 count as equal."""


@dataclass(frozen=True)
class Finding:
    """One claim of the paper and the result of its test.

    figure: "gradients", "change", "words" or "loss". claim: the paper's. test: the condition on the results.
    measured: the measured values. holds: whether the means pass. seeds: in how many of how many seeds it holds, if all
    networks have equally many models.
    """

    figure: str
    claim: str
    test: str
    measured: str
    holds: bool
    seeds: tuple[int, int] | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        word = "holds" if self.holds else "does not hold"
        if self.seeds is None or self.seeds[1] < 2:
            return word
        return f"{word} on the mean; in {self.seeds[0]} of {self.seeds[1]} seeds"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seeds": None if self.seeds is None else list(self.seeds)}


class _Claim(NamedTuple):
    figure: str
    claim: str
    test: str
    needs: frozenset[str]
    check: Callable[[_Trio], tuple[bool, str]]


class _Trio(NamedTuple):
    """The first group of each architecture, and all groups."""

    every: Sequence[Group]
    by: dict[str, Group]


class _Place(NamedTuple):
    group: Group
    cell: Cell
    row: int

    @property
    def name(self) -> str:
        return f"{_called(self.cell)} of {self.group.label}"


def _called(cell: Cell) -> str:
    return "the slow cell" if cell.slot == "slow" else cell.name


def _places(groups: Sequence[Group]) -> list[_Place]:
    return [_Place(g, cell, row) for g in groups for row, cell in enumerate(g.cells)]


def _slow(trio: _Trio) -> _Place:
    fs = trio.by["fs-lstm"]
    return next(place for place in _places([fs]) if place.cell.slot == "slow")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """The value with three significant digits, as text."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e4:
        return np.format_float_positional(value, precision=3, fractional=False, trim="-")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}"


def _last(place: _Place) -> float:
    return float(place.group.gradients[place.row, -1])


def _fall(place: _Place) -> float:
    """The ratio of the norm at lag 1 to that at the longest lag."""
    norms = place.group.gradients[place.row]
    return float(norms[1] / norms[-1]) if norms[-1] > 0 else float("inf")


def _course(place: _Place) -> str:
    fall = _fall(place)
    return f"fall by a factor of {number(fall)}" if fall >= 1 else f"rise by a factor of {number(1 / fall)}"


def _change(place: _Place) -> float:
    return float(place.group.change[place.row])


def _slow_is_largest(trio: _Trio) -> tuple[bool, str]:
    slow = _slow(trio)
    others = [p for p in _places(trio.every) if p != slow]
    best = max(others, key=_last)
    lags = slow.group.gradients.shape[1] - 1
    text = f"at lag {lags}: {number(_last(slow))} in {slow.name}, {number(_last(best))} in {best.name}, "
    return _last(slow) > _last(best), text + "the largest of the others"


def _slow_falls_least(trio: _Trio) -> tuple[bool, str]:
    slow = _slow(trio)
    others = [p for p in _places(trio.every) if p != slow]
    best = min(others, key=_fall)
    lags = slow.group.gradients.shape[1] - 1
    text = f"from lag 1 to {lags} a {_course(slow)} in {slow.name}, a {_course(best)} in {best.name}"
    return _fall(slow) < _fall(best), f"{text}, the least of the others"


def _bottom_vanishes(trio: _Trio) -> tuple[bool, str]:
    bottom = _places([trio.by["stacked"]])[0]
    others = [p for p in _places(trio.every) if p != bottom]
    least = min(others, key=_last)
    lags = bottom.group.gradients.shape[1] - 1
    text = f"at lag {lags}: {number(_last(bottom))} in {bottom.name}, {number(_last(least))} in {least.name}, "
    return _last(bottom) < _last(least), text + "the smallest of the others"


def _slow_changes_least(trio: _Trio) -> tuple[bool, str]:
    slow = _slow(trio)
    least = min((p for p in _places(trio.every) if p != slow), key=_change)
    text = f"{number(_change(slow))} per step in {slow.name}, {number(_change(least))} in {least.name}, "
    return _change(slow) < _change(least), text + "the least of the others"


def _kind_means(trio: _Trio) -> tuple[float, float, float]:
    """The mean change of the fast cells, of the stacked layers, and of the sequential cells."""
    fs = trio.by["fs-lstm"]
    fast = [_change(p) for p in _places([fs]) if p.cell.slot == "fast"]
    stack, sequence = (trio.by[kind].change for kind in ("stacked", "sequential"))
    return float(np.mean(fast)), float(stack.mean()), float(sequence.mean())


def _order_of_change(trio: _Trio) -> tuple[bool, str]:
    fast, stack, sequence = _kind_means(trio)
    text = f"mean over cells: {number(sequence)} sequential, {number(fast)} fast, {number(stack)} stacked"
    return sequence > fast > stack, text


def _position_one(trio: _Trio) -> tuple[bool, str]:
    ratio = float(trio.by["fs-lstm"].words[1] / trio.by["stacked"].words[1])
    return abs(ratio - 1) <= POSITION_ONE_BAND, f"{ratio:.3f} times the stack's loss at position 1"


def _later_positions(trio: _Trio) -> tuple[bool, str]:
    ratios = (trio.by["fs-lstm"].words / trio.by["stacked"].words)[4:9]
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return False, "the text has no word of four characters"
    return bool((ratios < 1).all()), f"{ratios.min():.3f} to {ratios.max():.3f} times the stack's loss"


def _order_of_losses(trio: _Trio) -> tuple[bool, str]:
    fs, sequence, stack = (trio.by[kind].bpc for kind in ("fs-lstm", "sequential", "stacked"))
    text = f"{fs:.3f} bits per character FS-LSTM, {sequence:.3f} sequential, {stack:.3f} stacked"
    return fs < sequence < stack, text


_ALL = frozenset({"fs-lstm", "stacked", "sequential"})
_PAIR = frozenset({"fs-lstm", "stacked"})

_CLAIMS = (
    _Claim(
        "gradients",
        "Long-term dependencies are learned by the slow cell: its gradients are the largest.",
        "at the longest lag the slow cell's norm is the largest of all memories",
        _ALL,
        _slow_is_largest,
    ),
    _Claim(
        "gradients",
        "The slow cell's gradients decay slowly, those of fast and sequential cells steeply.",
        "from lag 1 to the longest, the slow cell's norm falls by the smallest factor of all memories",
        _ALL,
        _slow_falls_least,
    ),
    _Claim(
        "gradients",
        "In the bottom layer of the stack they vanish.",
        "at the longest lag the bottom layer's norm is the smallest of all memories",
        _ALL,
        _bottom_vanishes,
    ),
    _Claim(
        "change",
        "The slow cell changes slowest.",
        "its mean squared change a step is the smallest of all memories",
        _ALL,
        _slow_changes_least,
    ),
    _Claim(
        "change",
        "Sequential cells change fastest, fast cells next.",
        "mean squared change, averaged over cells: sequential above fast above stacked",
        _ALL,
        _order_of_change,
    ),
    _Claim(
        "words",
        "At the first character of a word the networks are equal.",
        f"the FS-LSTM's loss at position 1 is within {POSITION_ONE_BAND:.0%} of the stack's",
        _PAIR,
        _position_one,
    ),
    _Claim(
        "words",
        "After a surprise the FS-LSTM adapts faster: 0.86 to 0.88 of the stack's loss at positions 4 to 8.",
        "its loss is below the stack's at each of the positions 4 to 8",
        _PAIR,
        _later_positions,
    ),
    _Claim(
        "loss",
        "FS-LSTM predicts best, sequential next, stacked worst (1.49, 1.58, 1.61 on enwik8).",
        "the mean losses are in that order",
        _ALL,
        _order_of_losses,
    ),
)


def findings(groups: Sequence[Group]) -> list[Finding]:
    """The paper's claims that can be tested on these networks; the first network of each architecture is used."""
    trio = _trio(groups)
    counts = {len(g.members) for g in groups}
    single: list[_Trio] = []
    if len(counts) == 1:
        single = [_trio([Group(g.label, (g.members[i],)) for g in groups]) for i in range(counts.pop())]
    found = []
    for claim in _CLAIMS:
        if not claim.needs <= trio.by.keys():
            continue
        holds, measured = claim.check(trio)
        seeds = (sum(claim.check(one)[0] for one in single), len(single)) if single else None
        found.append(Finding(claim.figure, claim.claim, claim.test, measured, holds, seeds))
    return found


def _trio(groups: Sequence[Group]) -> _Trio:
    by: dict[str, Group] = {}
    for g in groups:
        by.setdefault(g.architecture, g)
    return _Trio(groups, by)


# ---------------------------------------------------------------------- sentences


def gradient_sentences(groups: Sequence[Group]) -> list[str]:
    """Sentences that describe figure 3, generated from its data."""
    said = []
    for g in groups:
        places = _places([g])
        lags = g.gradients.shape[1] - 1
        ordered = sorted(places, key=_last, reverse=True)
        top, low = ordered[0], ordered[-1]
        text = (
            f"{g.label}: at lag {lags} the norm is largest in {_called(top.cell)} ({number(_last(top))}, "
            f"after a {_course(top)} since lag 1)"
        )
        if low is not top:
            text += f" and smallest in {_called(low.cell)} ({number(_last(low))}, a {_course(low)})"
        said.append(text + ".")
    return said


def change_sentences(groups: Sequence[Group]) -> list[str]:
    """Sentences that describe figure 4, generated from its data."""
    places = sorted(_places(groups), key=_change)
    least, most = places[0], places[-1]
    said = [
        f"Of all memories {least.name} changes least ({number(_change(least))} per step, mean over its units) and "
        f"{most.name} most ({number(_change(most))})."
    ]
    return said + [
        f"{g.label}: {', '.join(f'{p.cell.name} {number(_change(p))}' for p in _places([g]))}." for g in groups
    ]


def word_sentences(groups: Sequence[Group]) -> list[str]:
    """Sentences that describe figure 5, generated from its data."""
    base = baseline_of(groups)
    said = [
        f"{base.label}, to which the others are compared: {base.words[1]:.2f} bits at the first character of a word, "
        f"{_at(base.words, 4)} at the fourth, {_at(base.words, 0)} for white space."
    ]
    for g in groups:
        if g is base:
            continue
        ratios = g.words / base.words
        inner = [(p, r) for p, r in enumerate(ratios) if p >= 1 and np.isfinite(r)]
        best, worst = min(inner, key=lambda x: x[1]), max(inner, key=lambda x: x[1])
        said.append(
            f"{g.label}: {ratios[1]:.3f} of that loss at position 1; best at position {best[0]} ({best[1]:.3f}), worst "
            f"at {worst[0]} ({worst[1]:.3f})."
        )
    return said


def _at(values: Any, position: int) -> str:
    there = position < len(values) and np.isfinite(values[position])
    return f"{values[position]:.2f} bits" if there else "none"
