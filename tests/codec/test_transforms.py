"""What a block goes through before it is coded, and back: any bytes come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.codec.errors import FormatError
from fastslow.codec.transforms import LINES, MARK, UTF16, prepare, restore
from fastslow.codec.varints import read_varint, varint

PARTS = st.sampled_from([b"\r\n", b"\n", b"\r", b"a", b"word ", b"\xef\xbb\xbf", b"\x00", b"\xff\xfe", b"a\x00"])


@given(st.lists(PARTS, max_size=60), st.integers(1, 90))
@settings(max_examples=300, deadline=None)
def test_everything_comes_back(parts: list[bytes], times: int) -> None:
    data = b"".join(parts) * times
    done, text, note = prepare(data)
    assert restore(done, text, note, len(data)) == data
    assert len(text) + len(note) <= len(data)


@pytest.mark.parametrize(
    ("data", "done", "text", "note"),
    [
        (b"one\r\ntwo\r\n", LINES, b"one\ntwo\n", b""),
        (b"x\r\n" * 70 + b"y\n" + b"z\r\n", LINES, b"x\n" * 70 + b"y\nz\n", b"\x46"),
        (b"one\r\ntwo\n", 0, b"one\r\ntwo\n", b""),
        (b"one\r\ntwo\r", LINES, b"one\ntwo\r", b""),
        (b"one\r\r\n", LINES, b"one\r\n", b""),
        (b"\xef\xbb\xbftext", MARK, b"text", b""),
        ("\ufeffcaf\xe9 \r\n".encode("utf-16-le"), UTF16 | MARK | LINES, "caf\xe9 \n".encode(), b""),
        (b"a\x00b\x00c\x00\x01\xd8" * 4, UTF16, b"abc\xed\xa0\x81" * 4, b""),
        ("не было ни ".encode("utf-16-le"), UTF16, "не было ни ".encode(), b""),
        ("\u65e5\u672c\u8a9e \u65e5".encode("utf-16-le"), 0, "\u65e5\u672c\u8a9e \u65e5".encode("utf-16-le"), b""),
        (b"\x01\x04\x02\x05" * 9, 0, b"\x01\x04\x02\x05" * 9, b""),
        (b"a\x00b", 0, b"a\x00b", b""),
        (b"", 0, b"", b""),
        (b"\xef\xbb\xbf", 0, b"\xef\xbb\xbf", b""),
    ],
)
def test_what_is_done(data: bytes, done: int, text: bytes, note: bytes) -> None:
    assert prepare(data) == (done, text, note)


def test_what_nothing_became_is_refused() -> None:
    for done, text, note, length in (
        (LINES, b"a\n", b"\x01", 2),
        (LINES, b"a\n", b"\x80", 3),
        (LINES, b"a\n", b"", 2),
        (LINES, b"\n" * 1000, b"", 10),
        (0, b"a", b"\x00", 1),
        (MARK, b"a", b"", 1),
        (UTF16, b"\xff", b"", 2),
    ):
        with pytest.raises(FormatError):
            restore(done, text, note, length)


@given(st.integers(0, 2**63 - 1))
def test_numbers(value: int) -> None:
    assert read_varint(b"x" + varint(value) + b"y", 1) == (value, 1 + len(varint(value)))


def test_padded_and_cut_numbers_are_refused() -> None:
    for data in (b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01"):
        with pytest.raises(FormatError, match="number"):
            read_varint(data, 0)
