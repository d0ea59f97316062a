"""Scores for other programs: JSON and tab-separated values, a character or a line at a time.

Texts in records are in Python's ``surrogateescape``; written down, a byte that is not UTF-8 is ``\\xe9``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastslow.printable import visible_text
from fastslow.scoring.lines import Line
from fastslow.scoring.statistics import LineMean, Place, Totals, expected

BLANK = "\\x20"
DIGITS = 4
"""Of bits; probabilities have two more."""

Pairs = tuple[tuple[bytes, float], ...]


def character_records(line: Line) -> Iterator[dict[str, Any]]:
    """Each character of a line as a JSON object: see `place_record`."""
    for index, char in enumerate(line.text):
        offset = line.offset(index)
        bits, pairs = float(line.bits[index]), expected(line, index)
        yield _record(offset, line.number, line.column + index, char, bits, pairs)


def place_record(place: Place) -> dict[str, Any]:
    """A place as a JSON object.

    offset (bytes, from 0), line, column (characters, from 1), text, bits (null where nothing was scored), and expected:
    the likeliest symbols with their probabilities, best first.
    """
    return _record(place.offset, place.line, place.column, _bytes(place.raw), place.bits, place.expected)


def line_record(line: LineMean) -> dict[str, Any]:
    """A line as a JSON object: line, mean (bits per byte), bits, bytes, and the beginning of its text."""
    return {
        "line": line.number,
        "mean": _number(line.mean_bits),
        "bits": _number(line.bits),
        "bytes": line.symbols,
        "text": line.text,
    }


def totals_record(totals: Totals) -> dict[str, Any]:
    """What a text sums up to: bits_per_byte, scored (bytes), bytes, characters, lines, not_utf8 (bytes)."""
    return {
        "bits_per_byte": _number(totals.mean.bpc) if totals.mean.symbols else None,
        "scored": totals.mean.symbols,
        "bytes": totals.size,
        "characters": totals.characters,
        "lines": totals.lines,
        "not_utf8": totals.not_utf8,
    }


def json_document(head: dict[str, Any], key: str, records: Iterable[dict[str, Any]], totals: Totals) -> Iterator[str]:
    """One JSON object, in pieces: `head`, `key` with the records one a line, then `totals`."""
    yield _json(head)[:-1] + f', "{key}": ['
    separator = "\n"
    for record in records:
        yield separator + _json(record)
        separator = ",\n"
    # The totals are complete once the records have run out.
    yield '\n], "totals": ' + _json(totals_record(totals)) + "}\n"


def tsv(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A head with the fields' names, then a row a record; backslash, tab and controls in text are escaped."""
    fields: list[str] | None = None
    for record in records:
        if fields is None:
            fields = list(record)
            yield "\t".join(fields) + "\n"
        yield "\t".join(_field(record[name]) for name in fields) + "\n"


def _record(offset: int, line: int, column: int, text: str, bits: float, pairs: Pairs) -> dict[str, Any]:
    return {
        "offset": offset,
        "line": line,
        "column": column,
        "text": text,
        "bits": _number(bits),
        "expected": [[_bytes(byte), round(chance, DIGITS + 2)] for byte, chance in pairs],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)


def _bytes(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _json(record: dict[str, Any]) -> str:
    # Every character may stand in JSON but half of a surrogate pair, which is a byte that is none. In what `dumps`
    # returns they are as they were, so that its own escapes need no second look.
    text = json.dumps(record, ensure_ascii=False)
    return _NOT_UTF8.sub(lambda match: f"\\\\x{ord(match.group()) - 0xDC00:02x}", text)


_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        # A blank separates the pairs, so a blank in one is escaped.
        return " ".join(f"{_field(text).replace(' ', BLANK)}:{chance:g}" for text, chance in value)
    return visible_text(_escaped(value)) if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")
