"""Surprisal: how many bits a model needs for each character of a text, and what it predicted instead.

- :mod:`~fastslow.scoring.surprisal`: the bytes of a text, or of a stream that is still growing
- :mod:`~fastslow.scoring.items`: items scored independently, each after the same context
- :mod:`~fastslow.scoring.lines`: characters of lines
- :mod:`~fastslow.scoring.words`, :mod:`~fastslow.scoring.regions`: words, and user-defined regions
- :mod:`~fastslow.scoring.statistics`: totals and the most surprising places and lines
- :mod:`~fastslow.scoring.following`: lines of a log as they are written
- :mod:`~fastslow.scoring.terminal`, :mod:`~fastslow.scoring.records`, :mod:`~fastslow.scoring.page`: output formats

Except for the page, memory does not grow with the length of the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.scoring.following import Threshold, follow
    from fastslow.scoring.items import Item
    from fastslow.scoring.lines import Line, scored_lines
    from fastslow.scoring.regions import Region, RegionSurprisal, region_surprisals
    from fastslow.scoring.statistics import LineMean, Place, SurprisingLines, SurprisingPlaces, Totals
    from fastslow.scoring.surprisal import Scorer, Surprisal, surprisals
    from fastslow.scoring.words import WordSurprisal, item_surprisals, word_surprisals

_HOMES = {
    "Item": "fastslow.scoring.items",
    "Line": "fastslow.scoring.lines",
    "LineMean": "fastslow.scoring.statistics",
    "Place": "fastslow.scoring.statistics",
    "Region": "fastslow.scoring.regions",
    "RegionSurprisal": "fastslow.scoring.regions",
    "Scorer": "fastslow.scoring.surprisal",
    "Surprisal": "fastslow.scoring.surprisal",
    "SurprisingLines": "fastslow.scoring.statistics",
    "SurprisingPlaces": "fastslow.scoring.statistics",
    "Threshold": "fastslow.scoring.following",
    "Totals": "fastslow.scoring.statistics",
    "WordSurprisal": "fastslow.scoring.words",
    "follow": "fastslow.scoring.following",
    "item_surprisals": "fastslow.scoring.words",
    "region_surprisals": "fastslow.scoring.regions",
    "scored_lines": "fastslow.scoring.lines",
    "surprisals": "fastslow.scoring.surprisal",
    "word_surprisals": "fastslow.scoring.words",
}

__all__ = [
    "Item",
    "Line",
    "LineMean",
    "Place",
    "Region",
    "RegionSurprisal",
    "Scorer",
    "Surprisal",
    "SurprisingLines",
    "SurprisingPlaces",
    "Threshold",
    "Totals",
    "WordSurprisal",
    "follow",
    "item_surprisals",
    "region_surprisals",
    "scored_lines",
    "surprisals",
    "word_surprisals",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
