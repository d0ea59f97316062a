"""Lines of a log as they are written: growth, truncation, rotation, pipes, thresholds."""

from __future__ import annotations

import io
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fastslow.data.alphabet import Alphabet
from fastslow.errors import AlphabetError, DataError
from fastslow.lm import CharLM
from fastslow.scoring import Threshold, follow, scored_lines, surprisals
from fastslow.scoring.following import WARM_UP, GrowingFile, piped
from fastslow.scoring.statistics import LineMean, line_means
from tests.lm.models import small_lm


@pytest.fixture(scope="module")
def lm() -> CharLM:
    return small_lm(alphabet=Alphabet.bytes())


def means_of(lm: CharLM, raw: bytes) -> list[LineMean]:
    return list(line_means(scored_lines(surprisals(lm, np.frombuffer(raw, dtype=np.uint8)))))


class Steps:
    """Called when nothing new is there: does the next thing, and ends when there is none left."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)

    def __call__(self) -> bool:
        if not self._steps:
            return False
        self._steps.pop(0)()
        return True


def add(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def sessions(path: Path, *steps: Callable[[], object]) -> list[bytes]:
    return [b"".join(session) for session in GrowingFile(path, Steps(*steps)).sessions()]


def test_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    assert sessions(path, lambda: add(path, b"o\n"), lambda: None, lambda: add(path, b"three")) == [b"one\ntwo\nthree"]


def test_a_file_that_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    found = sessions(path, lambda: path.write_bytes(b"new\n"), lambda: add(path, b"more\n"))
    assert found == [b"one\ntwo\n", b"new\nmore\n"]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be renamed there")
def test_a_file_that_is_rotated(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    path.write_bytes(b"one\n")

    def late() -> None:
        add(old, b"late\n")
        path.write_bytes(b"new\n")

    found = sessions(path, lambda: path.rename(old), lambda: add(old, b"two\n"), late, lambda: add(path, b"more\n"))
    assert found == [b"one\ntwo\nlate\n", b"new\nmore\n"]


def test_files_that_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        GrowingFile(tmp_path / "gone")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_ends_with_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"one\ntwo"))
    writer.start()
    assert sessions(path, *[lambda: None] * 10_000) == [b"one\ntwo"]
    writer.join()


def test_a_pipe_is_read_as_it_comes(lm: CharLM) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb", buffering=0) as sink:
        sink.write(b"one\ntwo\nthr")
        found = follow(lm, [piped(source)])
        assert [next(found).text, next(found).text] == ["one", "two"]  # though the pipe is open
        sink.write(b"ee\n")
        assert next(found).text == "three"
        sink.write(b"rest")
        sink.close()
        assert [line.text for line in found] == ["rest"]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_lines_have_the_means_of_the_whole_text(lm: CharLM, size: int) -> None:
    raw = "The cat\nsat \udcff on\n\nthe mat".encode("utf-8", "surrogateescape")
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    found = list(follow(lm, [pieces]))
    wanted = means_of(lm, raw)
    assert [(x.number, x.text, x.symbols) for x in found] == [(x.number, x.text, x.symbols) for x in wanted]
    assert [x.bits for x in found] == pytest.approx([x.bits for x in wanted], rel=1e-5)


def test_line_ends_and_encodings(lm: CharLM) -> None:
    raw = b"one\ntwo\n"
    wide = raw.replace(b"\n", b"\r\n").decode().encode("utf-16")
    wanted = means_of(lm, raw)
    for changed in (raw.replace(b"\n", b"\r\n"), wide):
        found = list(follow(lm, [[changed[:5], changed[5:]]]))
        assert [x.bits for x in found] == pytest.approx([x.bits for x in wanted], rel=1e-5)
    assert sum(x.symbols for x in found) == len(wide) - 4
    kept = list(follow(lm, [[raw.replace(b"\n", b"\r\n")]], raw=True))
    assert [x.text for x in kept] == ["one\r", "two\r"]


def test_a_new_session_counts_anew_and_keeps_the_state(lm: CharLM) -> None:
    found = list(follow(lm, [[b"one\ntw"], [b"three\n"]]))
    assert [(x.number, x.text) for x in found] == [(1, "one"), (2, "tw"), (1, "three")]
    assert [x.bits for x in found] == pytest.approx([x.bits for x in means_of(lm, b"one\ntw")] + [found[2].bits])
    assert found[2].symbols == 6  # scored from its first byte on
    assert list(follow(lm, [[]])) == []


def test_an_unknown_byte() -> None:
    with pytest.raises(AlphabetError, match="0x58"):
        list(follow(small_lm(), [[b"the\nX"]]))


def test_memory_does_not_grow(lm: CharLM) -> None:
    def pieces(count: int) -> Iterator[bytes]:
        for i in range(count):
            yield b"line %d of a log\n" % (i % 7) * 10

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in follow(lm, [pieces(count)]):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(36) < 2 * peak(6)


# Thresholds


def line(mean: float) -> LineMean:
    return LineMean(mean, -1, mean, 1, "x")


def test_a_fixed_threshold() -> None:
    above = Threshold(above=2.0)
    assert [above(line(x)) for x in (1.0, 2.0, 2.1, math.nan, 9.0)] == [False, False, True, False, True]


def test_deviations_from_the_lines_before() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 0.5, 200)
    far = Threshold(deviations=4.0)
    assert math.isinf(far.value)
    for count, value in enumerate(values.tolist()):
        if count >= WARM_UP:
            assert far.value == pytest.approx(values[:count].mean() + 4 * values[:count].std(ddof=1))
        assert not far(line(value))
    assert far(line(math.nan)) is False
    assert far(line(6.0)) is True


def test_no_line_is_judged_by_too_few() -> None:
    far = Threshold(deviations=0.0)
    assert not any(far(line(x)) for x in range(WARM_UP))
    assert far(line(WARM_UP))


def test_one_kind_of_threshold() -> None:
    for given in ({}, {"above": 1.0, "deviations": 1.0}):
        with pytest.raises(ValueError, match="exactly one of above and deviations"):
            Threshold(**given)


def test_a_buffered_file_is_a_pipe_too() -> None:
    assert b"".join(piped(io.BytesIO(b"abc"))) == b"abc"
