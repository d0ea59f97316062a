"""`fastslow score --lines --follow`: the surprising lines of a log while it is written."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fastslow.cli.common import note, output, plural
from fastslow.data.text import STDIN
from fastslow.errors import DataError
from fastslow.scoring.following import GrowingFile, Threshold, follow, piped
from fastslow.scoring.options import Predictor
from fastslow.scoring.records import json_line, line_record, tsv
from fastslow.scoring.terminal import print_line_means

if TYPE_CHECKING:
    from fastslow.lm import CharLM
    from fastslow.scoring import LineMean

FOUND, NONE_FOUND = 0, 1
"""Exit statuses, as in grep."""


def follow_lines(
    lm: CharLM,
    name: str,
    threshold: Threshold,
    json: bool,
    tsv: bool,
    raw: bool,
    predictor: Predictor,
    stretch: int | None,
) -> int:
    """Print the lines of a growing file or a pipe that are above the threshold, each when it is complete.

    Ends with the pipe, or on Ctrl-C or SIGTERM, which are not errors here. Returns the exit status.
    """
    sessions: Iterable[Iterable[bytes]]
    if name == STDIN:
        sessions = [piped(sys.stdin.buffer)]
    else:
        if Path(name).is_dir():
            raise DataError(f"{name} is a directory: name a file in it")
        sessions = GrowingFile(name).sessions()
    mixer = None
    if predictor == "mixed":
        from fastslow.scoring.mixed import EndlessMixer

        mixer = EndlessMixer(lm.alphabet.symbols)
    show = _shower(json, tsv)
    lines = found = 0
    with _ending_quietly():
        for line in follow(lm, sessions, raw=raw, mixer=mixer, stretch=stretch):
            lines += 1
            if threshold(line):
                found += 1
                show(line)
                sys.stdout.flush()
    note(f"{name}: {plural(lines, 'line')}, {found:,} of them above the threshold")
    return FOUND if found else NONE_FOUND


def _shower(json: bool, tabs: bool) -> Callable[[LineMean], None]:
    if json:
        return lambda line: print(json_line(line_record(line)))
    if tabs:
        header = True

        def row(line: LineMean) -> None:
            nonlocal header
            rows = list(tsv([line_record(line)]))
            sys.stdout.writelines(rows if header else rows[1:])
            header = False

        return row
    console = output()
    return lambda line: print_line_means(console, [line])


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C end the block without an error."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = None
    with suppress(ValueError):  # in a thread that is not the main one
        before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
