"""`fastslow score --words`, `--items` and `--regions`: tables of words and of regions."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fastslow.cli.common import note, plural
from fastslow.cli.score_blocks import surprisals_of
from fastslow.data.text import Text, open_text
from fastslow.errors import DataError
from fastslow.scoring.items import Item
from fastslow.scoring.options import Space, Split
from fastslow.scoring.records import json_document, tsv, word_record
from fastslow.scoring.regions import Region, RegionSurprisal, regions_of, regions_of_items
from fastslow.scoring.words import WordSurprisal, context_bytes, words_of, words_of_items

if TYPE_CHECKING:
    from fastslow.lm import CharLM

_JOINERS = "\u200c\u200d"
"""Invisible characters that words need; they are not escaped."""


def print_table(
    lm: CharLM,
    source: Text,
    *,
    items: bool,
    regions: str | None,
    context: str | None,
    space: Space,
    split: Split,
    json: bool,
) -> None:
    """Print a row for each word, or for each region, as TSV or JSON; totals go to stderr."""
    rows: Iterable[WordSurprisal | RegionSurprisal]
    spans = None if regions is None else read_regions(regions, items)
    if spans is not None and items:
        rows = regions_of_items(lm, items_of(source), spans, context=context)
    elif spans is not None:
        rows = regions_of(surprisals_of(lm, source, context=context_bytes(lm, context)), spans)
    elif items:
        rows = words_of_items(lm, items_of(source), context=context, space=space, split=split)
    else:
        blocks = surprisals_of(lm, source, context=context_bytes(lm, context))
        rows = words_of(blocks, space=space, split=split)
    total: list[float] = []
    count = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in rows:
            total.append(row.surprisal)
            count += row.length > 0
            yield word_record(row)

    noun = "word" if spans is None else "region"
    if json:
        head: dict[str, Any] = {"file": source.name, "items": items, "context": context}
        if spans is None:
            head |= {"space": space, "split": split}
        tail = {f"{noun}s": 0, "bits": 0.0}
        sys.stdout.writelines(
            json_document(
                head, f"{noun}s", records(), lambda: tail | {f"{noun}s": count, "bits": round(math.fsum(total), 4)}
            )
        )
    else:
        kind = WordSurprisal if spans is None else RegionSurprisal
        names = [field.name for field in fields(kind) if items or spans is None or field.name != "sentence_id"]
        sys.stdout.writelines(tsv(records(), names, keep=_JOINERS))
    how = f"; a word's bits include the white space {space} it" if spans is None else ""
    note(f"{plural(count, noun)}, {math.fsum(total):,.2f} bits{how}")


def items_of(source: Text) -> Iterator[Item]:
    """The lines of a text as items, numbered by line; the text before the last tab of a line is its context."""
    start = 0
    stops = [*np.flatnonzero(source.data == 0x0A).tolist(), len(source)]
    for number, stop in enumerate(stops, start=1):
        before, tab, text = source.data[start:stop].tobytes().rpartition(b"\t")
        at = start + len(before) + len(tab)
        if text:
            column = 1 + len(before.decode("utf-8", "surrogateescape")) + len(tab)
            yield Item(number, text, before or None, source.offsets(at, stop + 1), number, column)
        start = stop + 1


def read_regions(path: str, items: bool) -> list[Region]:
    """The regions in a tab-separated file with a header. Raises DataError with the line number."""
    text = open_text(path, raw=False, min_bytes=1).data.tobytes().decode("utf-8", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(rows, [])
    needed = ["start", "stop", *(["sentence_id"] if items else [])]
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]}: its first line must name the columns {', '.join(needed)} and "
            "optionally region, separated by tabs"
        )
    found = []
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: expected {len(header)} columns as in its first line; got {len(row)}"
            )
        values = dict(zip(header, row, strict=True))
        whole: dict[str, int] = {}
        for name in needed:
            try:
                whole[name] = int(values[name])
            except ValueError:
                raise DataError(
                    f"{path}, line {number}: {name} must be a whole number; got {values[name][:40]!r}"
                ) from None
        found.append(
            Region(whole["start"], whole["stop"], values.get("region", ""), whole["sentence_id"] if items else None)
        )
    if not found:
        raise DataError(f"{path} has no regions")
    return found
