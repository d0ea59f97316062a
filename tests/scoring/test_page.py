from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable
from html.parser import HTMLParser

import numpy as np

from fastslow.scoring import Totals
from fastslow.scoring.page import NOT_SCORED, write_page
from tests.scoring.scored import CHANCES, LIKELY, blocks

NASTY = "</script><script>alert(1)</script> & \"q\" 'x' é日😀\t\x1b\u202e]]>\n".encode() + b"\xff\r\n" + b"last"


class Page(HTMLParser):
    """The page as a browser sees it: elements, the text of each row, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.scripts: list[str] = []
        self.in_row = 0
        self.in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag == "script":
            self.in_script = True
            self.scripts.append("")
        if tag == "div" and named.get("class") == "c":
            self.in_row = 1
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_script = self.in_script and tag != "script"
        if tag == "div":
            self.in_row = 0

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts[-1] += data
        elif self.in_row:
            self.rows[-1] += data


def page(raw: bytes, bits: Iterable[float] | None = None, name: str = "notes.txt") -> tuple[Page, str, Totals]:
    out = io.StringIO()
    totals = write_page(out, blocks(raw, bits), name=name, model="runs/<demo>")
    return Page(out.getvalue()), out.getvalue(), totals


def test_the_text_stands_in_the_page_as_it_is() -> None:
    shown, text, totals = page(NASTY)
    assert shown.rows == [
        "</script><script>alert(1)</script> & \"q\" 'x' é日😀\t\\x1b\\u202e]]>",
        "\\xff\\r",
        "last",
    ]
    assert len(shown.scripts) == 2  # the data and the program, no guest
    assert "alert" not in shown.scripts[0] + shown.scripts[1]
    assert totals.lines == 3
    assert "runs/&lt;demo&gt;" in text


def test_it_loads_nothing() -> None:
    shown, text, _ = page(b"abc", name='<img src="x">')
    assert not [attrs for _, attrs in shown.tags if attrs.get("src")]
    assert {attrs["href"] for _, attrs in shown.tags if attrs.get("href")} <= {"data:,", "#text"}
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_every_place_of_the_template_is_filled() -> None:
    assert "{{" not in page(b"abc")[1]


def test_the_data_hold_bits_and_likeliest_of_every_byte() -> None:
    shown, _, _ = page(b"ab\ncd", [math.nan, 1.2346, 70, 0, 65.6])
    data = json.loads(shown.scripts[0])
    bits = np.frombuffer(base64.b64decode(data["bits"]), dtype="<u2")
    assert bits.tolist() == [NOT_SCORED, 1235, NOT_SCORED - 1, 0, NOT_SCORED - 1]
    assert base64.b64decode(data["values"]) == b"ab\ncd"
    assert base64.b64decode(data["likely"]) == bytes(LIKELY) * 5
    chance = np.frombuffer(base64.b64decode(data["chance"]), dtype="<u2").reshape(5, 3)
    np.testing.assert_allclose(chance[0] / 65535, CHANCES, atol=1e-5)
    assert data["k"] == 3


def test_rows_say_where_they_begin_and_what_they_cost() -> None:
    shown, text, _ = page("é\nxyz\n".encode(), [math.nan, 2, 2, 4, 5, 6, 1])
    rows = [attrs for tag, attrs in shown.tags if tag == "div" and attrs.get("class") == "r"]
    assert [(r["data-l"], r["data-o"]) for r in rows] == [("1", "0"), ("2", "3")]
    assert re.findall(r"<i>(.*?)</i>", text) == ["2.00", "4.00"]


def test_colours_and_marks() -> None:
    _, text, _ = page(b"abc d\tx\n", [math.nan, 0, 2, 2.5, 9, 12, 0, 4])
    assert 'ab<b class="k1">c </b><b class="k4">d</b><b class="t k5">\t</b>x<b class="n k2"></b>' in text


def test_escapes_say_how_many_bytes_they_stand_for() -> None:
    _, text, _ = page("a\x1b\u202eb".encode() + b"\xff")
    assert '<b class="x">\\x1b</b><b class="x k1" data-n="3">\\u202e</b>b<b class="x">\\xff</b>' in text


def test_the_lists_link_to_their_places() -> None:
    shown, text, _ = page(b"ab\n\ncd<\n", [math.nan, 1, 1, 1, 9, 1, 14, 1])
    links = [attrs["data-go"] for tag, attrs in shown.tags if tag == "a"]
    assert links[:2] == ["6", "4"]
    assert ">2:" not in text.split("places")[0]
    assert '<b class="k5">&lt;</b>' in text
    assert links[-1] in ("0", "4")


def test_a_text_with_nothing_to_score() -> None:
    shown, text, totals = page(b"a")
    assert shown.rows == ["a"]
    assert "nothing to score" in text
    assert totals.mean.symbols == 0
