"""Scores for other programs: JSON and tab-separated values, one record per character or line.

Texts in records use Python's ``surrogateescape``; a byte that is not UTF-8 is written as ``\\xe9``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from fastslow.printable import visible_text
from fastslow.scoring.lines import Line
from fastslow.scoring.regions import RegionSurprisal
from fastslow.scoring.statistics import LineMean, Place, Totals, expected
from fastslow.scoring.words import WordSurprisal

BLANK = "\\x20"
DIGITS = 4
"""The decimals of bits; probabilities have two more."""

Pairs = tuple[tuple[bytes, float], ...]


def character_records(line: Line) -> Iterator[dict[str, Any]]:
    """Each character of a line as a JSON object: see `place_record`."""
    for index, char in enumerate(line.text):
        offset = line.offset(index)
        bits, pairs = float(line.bits[index]), expected(line, index)
        yield _record(offset, line.number, line.column + index, char, bits, pairs)


def place_record(place: Place) -> dict[str, Any]:
    """A place as a JSON object:

    offset (bytes, from 0), line, column (characters, from 1), text, bits (null where nothing was scored), and expected:
    the likeliest symbols with their probabilities, most likely first.
    """
    return _record(place.offset, place.line, place.column, _bytes(place.raw), place.bits, place.expected)


def line_record(line: LineMean) -> dict[str, Any]:
    """A line as a JSON object: line, mean (bits per byte), bits, bytes, and the beginning of the text."""
    return {
        "line": line.number,
        "mean": _number(line.mean_bits),
        "bits": _number(line.bits),
        "bytes": line.symbols,
        "text": line.text,
    }


def word_record(word: WordSurprisal | RegionSurprisal) -> dict[str, Any]:
    """A word, or a region, as a JSON object: its fields, with bits rounded."""
    record = asdict(word)
    return record | {name: _number(record[name]) for name in ("surprisal", "entropy")}


def totals_record(totals: Totals) -> dict[str, Any]:
    """The sums over a text: bits_per_byte, scored and bytes (of the file), characters, lines, not_utf8 (bytes)."""
    return {
        "bits_per_byte": _number(totals.mean.bpc) if totals.mean.symbols else None,
        "scored": totals.mean.symbols,
        "bytes": totals.size,
        "characters": totals.characters,
        "lines": totals.lines,
        "not_utf8": totals.not_utf8,
    }


def json_document(
    head: dict[str, Any], key: str, records: Iterable[dict[str, Any]], totals: Callable[[], dict[str, Any]]
) -> Iterator[str]:
    """One JSON object, in pieces: `head`, `key` with one record per line, then `totals`, evaluated last."""
    yield json_line(head)[:-1] + f', "{key}": ['
    separator = "\n"
    for record in records:
        yield separator + json_line(record)
        separator = ",\n"
    yield '\n], "totals": ' + json_line(totals()) + "}\n"


def tsv(records: Iterable[dict[str, Any]], fields: Sequence[str] | None = None, keep: str = "") -> Iterator[str]:
    """A header with the fields' names, then one row per record; backslashes, tabs and control characters are escaped.

    fields: the field names, so that there is a header even without records.  keep: characters that are not escaped.
    """
    if fields is not None:
        yield "\t".join(fields) + "\n"
    for record in records:
        if fields is None:
            fields = list(record)
            yield "\t".join(fields) + "\n"
        yield "\t".join(_field(record[name], keep) for name in fields) + "\n"


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


def json_line(record: dict[str, Any]) -> str:
    """A record as JSON, on one line."""
    # JSON allows every character except a lone surrogate, which represents a byte that is not UTF-8. `dumps` leaves
    # surrogates as they are, so they can be escaped in its result.
    text = json.dumps(record, ensure_ascii=False)
    return _NOT_UTF8.sub(lambda match: f"\\\\x{ord(match.group()) - 0xDC00:02x}", text)


_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def _field(value: Any, keep: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        # Pairs are separated by spaces, so a space within one is escaped.
        return " ".join(f"{_field(text).replace(' ', BLANK)}:{chance:g}" for text, chance in value)
    return visible_text(_escaped(value), keep) if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")
