"""`fastslow score`: the surprisal of every character of a text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastslow.cli.common import (
    Backend,
    Count,
    Device,
    Flag,
    OptionError,
    OutFile,
    Run,
    load_model,
    model_for_files,
    output,
    use_few_threads,
)
from fastslow.data.text import Text, open_text
from fastslow.errors import FastslowError, os_reason
from fastslow.lm.packaged import shown_name

if TYPE_CHECKING:
    from fastslow.lm import CharLM
    from fastslow.scoring import Line, LineMean, Surprisal, Totals


def score(
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")],
    *,
    model: Run = None,
    html: OutFile = None,
    top: Count = None,
    lines: Flag = False,
    json: Flag = False,
    tsv: Flag = False,
    force: Flag = False,
    device: Device = None,
    backend: Backend = "auto",
) -> None:
    """Show how surprising each character of a text is to a model, in bits: typing errors, odd log lines, odd code.

    The characters are coloured by surprise on a terminal; in a pipe the bits stand below them.

    Args:
        text: the file to score; - reads standard input
        model: the run, or folder with a model, that judges
        html: write one self-contained page instead: hover over a character for its bits and what was expected
        top: list only the N most surprising places, or with --lines the N most surprising lines
        lines: the mean bits of each line, for logs
        json: as one JSON object
        tsv: as tab-separated values
        force: overwrite the file of --html
        device: where to compute, such as cpu or cuda:1
        backend: the engine, or auto
    """
    if json and tsv:
        raise OptionError("give --json or --tsv, not both")
    if html is not None and (json or tsv or lines or top is not None):
        raise OptionError("--html writes a page of its own: leave out --top, --lines, --json and --tsv")
    if top is not None and top < 1:
        raise OptionError(f"--top must be at least 1; got {top}")
    if html is not None:
        _check_target(html, force)
    source = open_text(text, stdin=True, min_bytes=2)
    model = model or model_for_files()
    lm = load_model(model, device, backend)
    use_few_threads(lm)
    lm.alphabet.check(source.data, name=source.name)
    if html is not None:
        _page(lm, source, html, shown_name(model))
    elif lines:
        _lines(lm, source, top, json, tsv)
    else:
        _characters(lm, source, top, json, tsv)


def _surprisals(lm: CharLM, source: Text) -> Iterator[Surprisal]:
    """The scores of the text, with progress where the results do not show it: on a terminal that they do not go to."""
    from fastslow.cli.progress import CountingView
    from fastslow.scoring import surprisals

    with ExitStack() as stack:
        view = None if sys.stdout.isatty() else stack.enter_context(CountingView("score", "bytes"))
        for block in surprisals(lm, source.data, name=source.name):
            yield block
            if view is not None:
                view(block.start + len(block), len(source))


def _scored(lm: CharLM, source: Text, totals: Totals) -> Iterator[Line]:
    from fastslow.scoring import scored_lines

    for line in scored_lines(_surprisals(lm, source)):
        totals.add(line)
        yield line


def _characters(lm: CharLM, source: Text, top: int | None, json: bool, tsv: bool) -> None:
    from fastslow.scoring import SurprisingPlaces, Totals
    from fastslow.scoring.records import character_records, place_record
    from fastslow.scoring.terminal import TerminalView, print_places

    totals = Totals()
    found = _scored(lm, source, totals)
    if top is None and (json or tsv):
        _records("characters", source, (r for line in found for r in character_records(line)), totals, json)
        return
    places = SurprisingPlaces(top or 1)
    console = output()
    view = TerminalView(console) if top is None else None
    if view is not None:
        view.legend()
    for line in found:
        places.add(line)
        if view is not None:
            view.line(line)
    best = places.best()
    if json or tsv:
        _records("places", source, map(place_record, best), totals, json)
        return
    if view is not None:
        console.print()
    if best:
        if view is not None:
            console.print("most surprising:")
        print_places(console, best)
    _summary(source, totals)


def _lines(lm: CharLM, source: Text, top: int | None, json: bool, tsv: bool) -> None:
    from fastslow.scoring import SurprisingLines, Totals
    from fastslow.scoring.records import line_record
    from fastslow.scoring.terminal import print_line_means

    totals = Totals()
    means: Iterable[LineMean] = _line_means(_scored(lm, source, totals))
    if top is not None:
        best = SurprisingLines(top)
        for mean in means:
            best.add(mean)
        means = best.best()
    if json or tsv:
        _records("per_line", source, map(line_record, means), totals, json)
        return
    console = output()
    best = SurprisingLines(5)
    for mean in means:
        best.add(mean)
        print_line_means(console, [mean])
    if top is None and totals.lines > 10:
        console.print("\nmost surprising:")
        print_line_means(console, best.best())
    _summary(source, totals)


def _line_means(found: Iterable[Line]) -> Iterator[LineMean]:
    from fastslow.scoring.statistics import LineMeans

    means = LineMeans()
    for line in found:
        mean = means.add(line)
        if mean is not None:
            yield mean
    last = means.last()
    if last is not None:
        yield last


def _records(key: str, source: Text, records: Iterable[dict[str, Any]], totals: Totals, json: bool) -> None:
    from fastslow.scoring.records import json_document, tsv

    sys.stdout.writelines(json_document({"file": source.name}, key, records, totals) if json else tsv(records))


def _summary(source: Text, totals: Totals) -> None:
    from fastslow.printable import visible_text
    from fastslow.scoring.terminal import summary_text

    output().print(f"{visible_text(source.name)}: {summary_text(totals)}", soft_wrap=True)


# The page


def _check_target(path: Path, force: bool) -> None:
    if path.is_dir():
        raise OptionError(f"cannot write the page to {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"cannot write the page to {path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise OptionError(f"{path} exists: name another file, or overwrite it with --force")


def _page(lm: CharLM, source: Text, path: Path, model: str) -> None:
    from fastslow.scoring.page import write_page
    from fastslow.scoring.terminal import summary_text

    name = "standard input" if source.name == "-" else os.path.basename(source.name)
    # A part first: an interrupted page leaves what was there before.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            totals = write_page(out, _surprisals(lm, source), name=name, model=model)
        os.replace(part, path)
    except OSError as error:
        raise FastslowError(f"cannot write the page to {path}: {os_reason(error)}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    print(f"{path}: {path.stat().st_size:,} bytes; {summary_text(totals)}")
