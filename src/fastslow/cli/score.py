"""`fastslow score`: the surprisal of every character, word or line of a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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
    note,
    note_form,
    output,
    use_few_threads,
)
from fastslow.cli.score_blocks import with_progress
from fastslow.cli.score_page import check_target, write_page_file
from fastslow.data.text import Text, open_text
from fastslow.lm.packaged import shown_name
from fastslow.scoring.options import Predictor, Space, Split

if TYPE_CHECKING:
    from fastslow.lm import CharLM
    from fastslow.scoring import Line, LineMean, Totals
    from fastslow.scoring.following import Threshold
    from fastslow.scoring.mixed import Chosen

_Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
_File = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
_Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]


def score(
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")],
    *,
    model: Run = None,
    html: OutFile = None,
    top: Count = None,
    lines: Flag = False,
    stretch: Count = None,
    follow: Flag = False,
    above: _Number = None,
    deviations: _Number = None,
    words: Flag = False,
    items: Flag = False,
    regions: _File = None,
    context: _Text = None,
    space: Space = "before",
    split: Split = "unicode",
    predictor: Predictor = "auto",
    json: Flag = False,
    tsv: Flag = False,
    raw: Flag = False,
    force: Flag = False,
    device: Device = None,
    backend: Backend = "auto",
) -> int:
    """Show how surprising each character of a text is to a model, in bits: typing errors, odd log lines, odd code.

    On a terminal the characters are coloured by their surprisal; otherwise the bits are printed below them. A file
    with CRLF, a byte-order mark or UTF-16 is read as the same text in UTF-8 with LF; positions and bits per byte refer
    to the original file. --words, --items and --regions write a table for other programs. With --above or --deviations
    the exit status is 0 if such lines were found and 1 if not.

    Args:
        text: the file to score; - reads standard input
        model: a run, or a folder with a model
        html: write a self-contained HTML page instead: hover over a character for its bits and the expected characters
        top: list only the N most surprising places, or with --lines the N most surprising lines
        lines: print the mean bits per byte of each line, for logs
        stretch: with --lines, score a line by the mean of its N most surprising consecutive bytes
        follow: with --lines, keep reading as the file grows or from the pipe, and print only the surprising lines
        above: with --lines, print only lines with a mean above X bits per byte
        deviations: with --lines, print only lines with a mean more than X standard deviations above that of the
            preceding lines (default with --follow: 3, unless --above is given)
        words: print a table with the bits of each word
        items: score each line independently as an item; the text before its last tab is context and is not scored
        regions: print the bits of the regions in a tab-separated file with the columns start and stop (characters) and
            optionally region; with --items also sentence_id, the line
        context: text that the model reads first, or before each item, without scoring it
        space: count white space with the word before or after it
        split: divide words by Unicode's rules, with punctuation separate, or at white space only
        predictor: use the network alone, or mix it with contexts that learn from the text as it is read; auto mixes if
            the contexts alone predict better than the network, but never with --words, --items, --regions and --follow
        json: print one JSON object; with --follow, one per line
        tsv: print tab-separated values
        raw: use the bytes of the file unchanged: keep CRs, byte-order marks and UTF-16
        force: overwrite the file of --html
        device: the device, such as cpu or cuda:1
        backend: the engine, or auto
    """
    by_word = words or items or regions is not None
    if json and tsv:
        raise OptionError("give --json or --tsv, not both")
    if html is not None and (json or tsv or lines or by_word or top is not None):
        raise OptionError("--html writes a page: leave out --top, --lines, --words, --json and --tsv")
    if by_word and (lines or top is not None):
        raise OptionError("--words, --items and --regions write a table: leave out --lines and --top")
    if words and regions is not None:
        raise OptionError("give --words or --regions, not both")
    if not by_word and (context is not None or space != "before" or split != "unicode"):
        raise OptionError("--context, --space and --split need --words, --items or --regions")
    if predictor == "mixed" and by_word:
        raise OptionError("--predictor mixed is for characters and lines: leave out --words, --items and --regions")
    selects = above is not None or deviations is not None
    if not lines and (follow or selects or stretch is not None):
        raise OptionError("--follow, --above, --deviations and --stretch need --lines: add it")
    if stretch is not None and stretch < 1:
        raise OptionError(f"--stretch must be at least 1; got {stretch}")
    if above is not None and deviations is not None:
        raise OptionError("give --above or --deviations, not both")
    if (follow or selects) and top is not None:
        raise OptionError("--top needs the whole text: leave out --follow, --above and --deviations")
    if deviations is not None and not deviations >= 0:
        raise OptionError(f"--deviations must be at least 0; got {deviations:g}")
    if top is not None and top < 1:
        raise OptionError(f"--top must be at least 1; got {top}")
    if html is not None:
        check_target(html, force)

    # A followed log may be empty now. It is never memory-mapped, because it may be truncated.
    source = None if follow else open_text(text, stdin=True, min_bytes=1 if by_word else 2, raw=raw)
    if source is not None:
        note_form(source)
    model = model or model_for_files()
    lm = load_model(model, device, backend)
    use_few_threads(lm)
    threshold = None
    if follow or selects:
        from fastslow.scoring.following import Threshold

        threshold = Threshold(above=above, deviations=3.0 if above is deviations is None else deviations)
    if source is None:
        assert threshold is not None
        from fastslow.cli.score_lines import follow_lines

        return follow_lines(lm, text, threshold, json, tsv, raw, predictor, stretch)
    lm.alphabet.check(source.data, name=source.name)
    if by_word:
        from fastslow.cli.score_words import print_table

        print_table(lm, source, items=items, regions=regions, context=context, space=space, split=split, json=json)
    elif html is not None:
        write_page_file(_chosen(lm, source, predictor), source, html, shown_name(model))
    elif lines:
        return _lines(_chosen(lm, source, predictor), source, top, stretch, threshold, json, tsv)
    else:
        _characters(_chosen(lm, source, predictor), source, top, json, tsv)
    return 0


def _chosen(lm: CharLM, source: Text, predictor: Predictor) -> Chosen:
    """The scores of the text by the requested predictor, with progress; a note if auto selects the mixed one."""
    from fastslow.scoring.mixed import Chosen, choose

    chosen = choose(lm, source.data, predictor, name=source.name, offsets=source.offsets)
    if predictor == "auto" and chosen.predictor == "mixed":
        note("contexts of the text predict it better than the network: mixing both (--predictor network disables this)")
    return Chosen(chosen.predictor, with_progress(chosen.blocks, len(source)))


def _scored(chosen: Chosen, totals: Totals) -> Iterator[Line]:
    """The lines of the text, which are added to `totals`."""
    from fastslow.scoring import scored_lines

    for line in scored_lines(chosen.blocks):
        totals.add(line)
        yield line


def _characters(chosen: Chosen, source: Text, top: int | None, json: bool, tsv: bool) -> None:
    from fastslow.scoring import SurprisingPlaces, Totals
    from fastslow.scoring.records import character_records, place_record
    from fastslow.scoring.terminal import TerminalView, print_places

    totals = Totals()
    found = _scored(chosen, totals)
    if top is None and (json or tsv):
        _records("characters", source, (r for line in found for r in character_records(line)), chosen, totals, json)
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
        _records("places", source, map(place_record, best), chosen, totals, json)
        return
    if view is not None:
        console.print()
    if best:
        if view is not None:
            console.print("most surprising:")
        print_places(console, best)
    _summary(source, chosen, totals)


def _lines(
    chosen: Chosen,
    source: Text,
    top: int | None,
    stretch: int | None,
    threshold: Threshold | None,
    json: bool,
    tsv: bool,
) -> int:
    """Print the requested lines; the exit status is 1 if there is a threshold and no line is above it."""
    from fastslow.scoring import SurprisingLines, Totals
    from fastslow.scoring.records import line_record
    from fastslow.scoring.statistics import line_means
    from fastslow.scoring.terminal import print_line_means

    totals = Totals()
    means: Iterable[LineMean] = line_means(_scored(chosen, totals), stretch)
    if threshold is not None:
        means = filter(threshold, means)
    if top is not None:
        best = SurprisingLines(top)
        for mean in means:
            best.add(mean)
        means = best.best()
    shown = 0

    def counted() -> Iterator[LineMean]:
        nonlocal shown
        for mean in means:
            shown += 1
            yield mean

    if json or tsv:
        _records("per_line", source, map(line_record, counted()), chosen, totals, json)
    else:
        console = output()
        best = SurprisingLines(5)
        for mean in counted():
            best.add(mean)
            print_line_means(console, [mean])
        if top is None and threshold is None and totals.lines > 10:
            console.print("\nmost surprising:")
            print_line_means(console, best.best())
        _summary(source, chosen, totals)
    return 1 if threshold is not None and not shown else 0


def _records(
    key: str, source: Text, records: Iterable[dict[str, Any]], chosen: Chosen, totals: Totals, json: bool
) -> None:
    from fastslow.scoring.records import json_document, totals_record, tsv

    if not json:
        sys.stdout.writelines(tsv(records))
        return
    head = {"file": source.name, "predictor": chosen.predictor}
    if not source.form.is_plain:
        head["form"] = str(source.form)
    sys.stdout.writelines(json_document(head, key, records, lambda: totals_record(totals)))


def _summary(source: Text, chosen: Chosen, totals: Totals) -> None:
    from fastslow.printable import visible_text
    from fastslow.scoring.terminal import summary_text

    form = "" if source.form.is_plain else f"; the file has {source.form}"
    by = f"; by {chosen}" if chosen.predictor == "mixed" else ""
    output().print(f"{visible_text(source.name)}: {summary_text(totals)}{form}{by}", soft_wrap=True)
