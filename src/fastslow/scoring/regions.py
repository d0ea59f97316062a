"""Surprisal of regions: spans of a text, or of items, that the user has marked.

A region's bits are exactly those of its characters; a leading space counts if it is inside the region.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from fastslow.errors import DataError
from fastslow.lm import CharLM
from fastslow.scoring.items import Item, item_blocks
from fastslow.scoring.lines import scored_lines
from fastslow.scoring.segments import length
from fastslow.scoring.surprisal import Surprisal, surprisals
from fastslow.scoring.words import context_bytes, encoded


@dataclass(frozen=True)
class Region:
    """A span: code points `start` to `stop` of the text, or of the item `sentence_id`; `name` is only a label."""

    start: int
    stop: int
    name: str = ""
    sentence_id: int | None = None


@dataclass(frozen=True)
class RegionSurprisal:
    """A region, the bits of its characters, and the entropy in bits of the prediction of its first byte.

    The other fields are those of `WordSurprisal`; sentence_id is None for a text without items.
    """

    sentence_id: int | None
    region: str
    text: str
    surprisal: float
    entropy: float
    length: int
    start: int
    stop: int
    offset: int
    line: int
    column: int


def region_surprisals(
    model: CharLM, text: str | bytes, regions: Sequence[Region], *, context: str | bytes | None = None
) -> list[RegionSurprisal]:
    """The surprisals of regions of a text, in the order given; they may overlap.

    context: as in `word_surprisals`.  Raises DataError for a region that is empty or outside the text, AlphabetError
    for a character outside the model's alphabet.
    """
    data = np.frombuffer(encoded(text), dtype=np.uint8)
    return regions_of(surprisals(model, data, context=context_bytes(model, context), likeliest=1), regions)


def regions_of_items(
    model: CharLM, items: Iterable[Item], regions: Sequence[Region], *, context: str | bytes | None = None
) -> Iterator[RegionSurprisal]:
    """The surprisals of regions of items, item by item.  Items without regions are not scored.

    Raises DataError for a region of an item that does not exist.
    """
    of_item: dict[int | None, list[Region]] = {}
    for region in regions:
        of_item.setdefault(region.sentence_id, []).append(region)
    wanted = (item for item in items if item.number in of_item)
    for scored in item_blocks(model, wanted, start=context_bytes(model, context), has_start=bool(context)):
        yield from regions_of([scored.surprisal], of_item.pop(scored.item.number), scored.item)
    if of_item:
        raise DataError(f"{_named(next(iter(of_item.values()))[0])} belongs to an item that does not exist or is empty")


def regions_of(
    blocks: Iterable[Surprisal], regions: Sequence[Region], item: Item | None = None
) -> list[RegionSurprisal]:
    """The surprisals of regions of a text or an item, from its scored `blocks`."""
    waiting = [_Sum(order, region) for order, region in enumerate(regions)]
    for each in waiting:
        if not 0 <= each.region.start < each.region.stop:
            raise DataError(f"{_named(each.region)} is empty or begins before the text: expected 0 <= start < stop")
    waiting.sort(key=lambda each: each.region.start, reverse=True)
    active: list[_Sum] = []
    done: list[_Sum] = []
    start = 0
    for line in scored_lines(blocks):
        stop = start + len(line)
        while waiting and waiting[-1].region.start < stop:
            one = waiting.pop()
            at = one.region.start - start
            one.entropy = float(line.scored.entropy[line.starts[at]])
            one.offset = line.offset(at)
            down, right = (0, 0) if item is None else (item.line - 1, item.column - 1)
            one.line, one.column = line.number + down, line.column + at + right * (line.number == 1)
            active.append(one)
        for one in active:
            cut = slice(max(0, one.region.start - start), one.region.stop - start)
            one.bits += np.nan_to_num(line.bits[cut]).tolist()
            one.text += line.text[cut]
        done += [one for one in active if one.region.stop <= stop]
        active = [one for one in active if one.region.stop > stop]
        start = stop
    for one in (*active, *waiting):
        what = "the text" if one.region.sentence_id is None else "its item"
        raise DataError(f"{_named(one.region)} ends after the end of {what}, which has {start:,} characters")
    return [one.result() for one in sorted(done, key=attrgetter("order"))]


@dataclass
class _Sum:
    order: int
    region: Region
    bits: list[float] = field(default_factory=list)
    text: str = ""
    entropy: float = math.nan
    offset: int = 0
    line: int = 1
    column: int = 1

    def result(self) -> RegionSurprisal:
        region = self.region
        return RegionSurprisal(
            region.sentence_id,
            region.name,
            self.text,
            math.fsum(self.bits),
            self.entropy,
            length(self.text),
            region.start,
            region.stop,
            self.offset,
            self.line,
            self.column,
        )


def _named(region: Region) -> str:
    name = f" {region.name!r}" if region.name else ""
    item = f" of item {region.sentence_id}" if region.sentence_id is not None else ""
    return f"region{name} ({region.start} to {region.stop}{item})"
