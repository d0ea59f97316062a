"""Line ends and encodings: taken away only where they can be put back, with positions that stay the file's."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data import encodings
from fastslow.data.encodings import Form, NormalisingStream, normalise
from fastslow.data.text import open_splits, open_text
from fastslow.errors import DataError

TEXT = "One\nline é\n日 😀 more\n"
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}

any_text = st.text(st.sampled_from("ab\n é日😀"), max_size=40)
forms = st.tuples(st.sampled_from(list(MARKS)), st.booleans(), st.booleans())


def written(text: str, encoding: str, bom: bool, crlf: bool) -> bytes:
    text = text.replace("\n", "\r\n") if crlf else text
    return (MARKS[encoding] if bom else b"") + text.encode(encoding)


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("crlf", [False, True])
def test_text_is_the_same_however_it_is_written(encoding: str, crlf: bool) -> None:
    raw = written(TEXT, encoding, True, crlf)
    found = normalise(raw)
    assert found.text.tobytes() == TEXT.encode()
    assert found.form == Form(encoding, True, crlf)
    assert found.form.restore(found.text.tobytes()) == raw
    assert found.file_size == len(raw)
    assert not found.text.flags.writeable


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"a\nb",
        b"a\r\nb\n",  # mixed
        b"a\r\n\rb",
        b"a\r\nb\r",
        b"\r\r\n",
        b"a\n\r\n",
        codecs.BOM_UTF16_LE + b"a",  # half a unit
        codecs.BOM_UTF16_LE + b"\x00\xd8a\x00",  # half of a surrogate pair
        codecs.BOM_UTF32_LE + "ab".encode("utf-32-le"),
        "ab".encode("utf-16-le"),  # without its mark
        b"\xef\xbb",
        bytes(range(256)),
    ],
)
def test_what_cannot_be_put_back_or_needs_nothing_stays_as_it_is(raw: bytes) -> None:
    found = normalise(raw)
    assert found.text.tobytes() == raw
    assert found.form.is_plain
    assert found.offsets(0, len(raw) + 1).tolist() == list(range(len(raw) + 1))


def test_nothing_is_copied_where_nothing_changes() -> None:
    data = np.frombuffer(b"a\nb\n" * 10, dtype=np.uint8)
    assert normalise(data).text is data
    assert np.shares_memory(normalise(np.frombuffer(codecs.BOM_UTF8 + b"ab", dtype=np.uint8)).text, data) is False


def test_a_mark_alone_leaves_no_text() -> None:
    assert [len(normalise(mark)) for mark in MARKS.values()] == [0, 0, 0]
    assert [normalise(mark).offset(0) for mark in MARKS.values()] == [3, 2, 2]


def test_positions_of_crlf() -> None:
    found = normalise(b"ab\r\n\r\nc\r\n")
    assert found.text.tobytes() == b"ab\n\nc\n"
    # An LF lies where its CR lies; what follows it lies behind both.
    assert found.offsets(0, 7).tolist() == [0, 1, 2, 4, 6, 7, 9]
    assert found.offset(4) == 6


def test_positions_of_utf_16() -> None:
    found = normalise(written("aé\n😀b", "utf-16-le", True, True))
    assert found.offsets(0, 10).tolist() == [2, 4, 4, 6, 10, 10, 10, 10, 14, 16]


@given(any_text, forms, st.data())
def test_every_position_is_where_the_character_begins(
    text: str, form: tuple[str, bool, bool], data: st.DataObject
) -> None:
    encoding, bom, crlf = form
    raw = written(text, encoding, bom, crlf)
    found = normalise(raw)
    assert found.form.restore(found.text.tobytes()) == raw
    if encoding != "utf-8" and not bom:
        return  # not recognised as text
    unit = 1 if encoding == "utf-8" else 2
    places, at = [], len(MARKS[encoding]) if bom else 0
    for char in text:
        size = len(char.encode())
        places += [at + i if unit == 1 else at for i in range(size)]
        at += len(char.encode(encoding)) + (unit if crlf and char == "\n" else 0)
    places.append(at)
    start = data.draw(st.integers(0, len(places)))
    stop = data.draw(st.integers(start, len(places)))
    assert found.offsets(start, stop).tolist() == places[start:stop]


def test_long_texts_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(encodings, "_CHUNK", size)
        monkeypatch.setattr(encodings, "_BLOCK", size)
        for form in ((e, True, c) for e in MARKS for c in (False, True)):
            raw = written(TEXT, *form)
            found = normalise(raw)
            assert found.text.tobytes() == TEXT.encode()
            for start in range(len(found) + 1):
                rest = found.offsets(start, len(found) + 1)
                assert rest[-1] == len(raw)
                assert rest[0] == found.offset(start)
        assert normalise(b"a\r\nb\r\nc\n").form.is_plain
        assert normalise(b"a\r\nb\r\nc\r").form.is_plain


def test_positions_outside_the_text() -> None:
    with pytest.raises(IndexError, match=r"0\.\.3"):
        normalise(b"ab").offsets(0, 4)


def test_a_form_in_words() -> None:
    assert str(Form("utf-8", False, True)) == "CRLF line ends"
    assert str(Form("utf-8", True)) == "a byte-order mark"
    assert str(Form("utf-16-le", True, True)) == "UTF-16-LE with a byte-order mark and CRLF line ends"


# A stream


def streamed(raw: bytes, sizes: list[int]) -> tuple[bytes, list[int]]:
    stream, text, offsets, at = NormalisingStream(), b"", [], 0
    pieces = []
    for size in sizes:
        pieces.append(stream.feed(raw[at : at + size]))
        at += size
    pieces += [stream.feed(raw[at:]), stream.finish()]
    for piece in pieces:
        assert len(piece.offsets) == len(piece.text) + 1
        text += piece.text.tobytes()
        offsets += piece.offsets[:-1].tolist()
    return text, [*offsets, int(pieces[-1].offsets[-1])]


@given(any_text, forms, st.lists(st.integers(0, 5), max_size=20))
def test_a_stream_gives_what_the_whole_gives(text: str, form: tuple[str, bool, bool], sizes: list[int]) -> None:
    raw = written(text, *form)
    whole = normalise(raw)
    if whole.form.is_plain and b"\r\n" in raw:
        return  # a stream takes line by line
    assert streamed(raw, sizes) == (whole.text.tobytes(), whole.offsets(0, len(whole) + 1).tolist())


def test_a_stream_of_mixed_line_ends() -> None:
    assert streamed(b"a\r\nb\nc\rd\r", [2, 1, 3]) == (b"a\nb\nc\rd\r", [0, 1, 3, 4, 5, 6, 7, 8, 9])


def test_a_stream_of_damaged_utf_16() -> None:
    text, _ = streamed(codecs.BOM_UTF16_LE + b"a\x00\x00\xd8b\x00c", [3, 2])
    assert text.decode() == "a\ufffdb\ufffd"


# Files


def test_files_are_normalised_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfab\r\ncd\r\n")
    assert open_text(path).data.tobytes() == path.read_bytes()
    text = open_text(path, raw=False)
    assert text.data.tobytes() == b"ab\ncd\n"
    assert (len(text), text.file_size, str(text.form)) == (6, 11, "a byte-order mark with CRLF line ends")
    assert text.offsets(0, 7).tolist() == [3, 4, 5, 7, 8, 9, 11]
    plain = tmp_path / "b.txt"
    plain.write_bytes(b"ab\ncd\n")
    again = open_text(plain, raw=False)
    assert isinstance(again.data, np.memmap)
    assert again.normalised is None
    assert again.sha256 == text.sha256
    both = open_text([path, plain], raw=False)
    assert both.data.tobytes() == b"ab\ncd\nab\ncd\n"
    assert both.file_size == 12
    splits = open_splits(path, plain, raw=False)
    assert splits.train.data.tobytes() == b"ab\ncd\n"


def test_a_file_of_line_ends_only_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\n")
    with pytest.raises(DataError, match="too short"):
        open_text(path, raw=False)
