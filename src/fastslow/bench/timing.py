"""Comparable times: all candidates take turns in one process; medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """The times of one function, in seconds. `first`: its first run, which may include compilation or loading."""

    first: float
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def p95(self) -> float:
        return sorted(self.runs)[min(len(self.runs) - 1, round(0.95 * len(self.runs)))]


def interleave(
    works: Mapping[str, Work],
    *,
    seconds: float,
    least: int = 3,
    most: int = 200,
    warmups: int = 1,
    device: torch.device | None = None,
) -> dict[str, Times]:
    """Time each function in turn, round after round, for about `seconds` in total, between `least` and `most` rounds.

    Varying load on the machine then affects all of them alike. The order rotates by one per round. On a CUDA device, a
    time is measured between two synchronisations.
    time is that of the work alone, between two synchronisations.
    """
    names = list(works)
    first = {name: _once(works[name], device) for name in names}
    for _ in range(warmups - 1):
        for name in names:
            _once(works[name], device)
    runs: dict[str, list[float]] = {name: [] for name in names}
    begin, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < most and time.perf_counter() - begin < seconds):
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            runs[name].append(_once(works[name], device))
        rounds += 1
    return {name: Times(first[name], tuple(runs[name])) for name in names}


def _once(work: Work, device: torch.device | None) -> float:
    _wait(device)
    begin = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
