from __future__ import annotations

import csv
import json
import math

from fastslow.scoring import SurprisingPlaces, Totals
from fastslow.scoring.records import character_records, json_document, line_record, place_record, totals_record, tsv
from fastslow.scoring.statistics import LineMean
from tests.scoring.scored import lines

RAW = 'a\té"\n'.encode() + b"\xff\\"
BITS = [math.nan, 1, 2, 3, 4, 5, 6, 7]


def records() -> list[dict[str, object]]:
    return [record for line in lines(RAW, BITS) for record in character_records(line)]


def test_a_record_of_each_character() -> None:
    found = records()
    assert [r["text"] for r in found] == ["a", "\t", "é", '"', "\n", "\udcff", "\\"]
    assert [r["bits"] for r in found] == [None, 1, 5, 4, 5, 6, 7]
    assert [(r["offset"], r["line"], r["column"]) for r in found][4:] == [(5, 1, 5), (6, 2, 1), (7, 2, 2)]
    assert found[0]["expected"] == []
    assert found[1]["expected"] == [["e", 0.5], [" ", 0.25], ["\udcc3", 0.0004]]


def test_json_is_one_document_of_plain_text() -> None:
    totals = Totals()
    for line in lines(RAW, BITS):
        totals.add(line)
    text = "".join(json_document({"file": "n"}, "characters", records(), lambda: totals_record(totals)))
    value = json.loads(text.encode())
    assert value["file"] == "n"
    assert [r["text"] for r in value["characters"]][5:] == ["\\xff", "\\"]
    assert value["characters"][1]["expected"][2] == ["\\xc3", 0.0004]
    assert value["characters"][0]["bits"] is None
    assert value["totals"] == {
        "bits_per_byte": 4.0,
        "scored": 7,
        "bytes": 8,
        "characters": 7,
        "lines": 2,
        "not_utf8": 1,
    }


def test_an_empty_document() -> None:
    document = "".join(json_document({"file": "n"}, "places", [], lambda: totals_record(Totals())))
    assert json.loads(document)["totals"]["bits_per_byte"] is None
    assert "".join(tsv([])) == ""


def test_tsv_has_a_row_each_and_no_stray_separators() -> None:
    rows = list(csv.reader("".join(tsv(records())).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["offset", "line", "column", "text", "bits", "expected"]
    assert [row[3] for row in rows[1:]] == ["a", "\\t", "é", '"', "\\n", "\\xff", "\\\\"]
    assert rows[1][4:] == ["", ""]
    assert rows[2][4:] == ["1.0", "e:0.5 \\x20:0.25 \\xc3:0.0004"]


def test_places_and_lines() -> None:
    places = SurprisingPlaces(1)
    for line in lines(RAW, BITS):
        places.add(line)
    assert place_record(places.best()[0]) == records()[-1]
    assert line_record(LineMean(2.34567, -3, 11.72835, 5, "x")) == {
        "line": 3,
        "mean": 2.3457,
        "bits": 11.7284,
        "bytes": 5,
        "text": "x",
    }
