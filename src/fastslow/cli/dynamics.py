"""`fastslow dynamics`: the paper's figures 3 to 5 from trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastslow.cli.common import Backend, Device, Flag, OptionError, check_path, load_model, note
from fastslow.data.corpora import is_corpus, load_corpus
from fastslow.data.text import Text, open_text

if TYPE_CHECKING:
    from fastslow.dynamics.findings import Finding
    from fastslow.dynamics.study import Group, Measures, StudySettings

Number = Annotated[int, tyro.conf.arg(metavar="N")]


def dynamics(
    runs_and_text: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...] TEXT", help_behavior_hint="(required)"),
    ],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    lags: Number = 100,
    streams: Number = 16,
    windows: Number = 4,
    targets: Number = 10,
    steps: Number = 1000,
    force: Flag = False,
    device: Device = None,
    backend: Backend = "auto",
) -> None:
    """Measure how far networks remember, how fast their memory changes, and where in a word they err.

    These are the paper's figures 3 to 5. Runs of the same network (seeds) are averaged; different networks are
    compared. TEXT is a file or a corpus (`fastslow data list`), whose test part is used. The data are written to DIR as
    JSON and CSV, the figures as PNG and SVG, and a report, dynamics.html, describes them and says which of the paper's
    findings hold.

    Args:
        runs_and_text: the folders of the runs, then the text
        out: the folder for data, figures and page
        lags: number of steps back to follow gradients
        streams: positions in the text that are read in parallel
        windows: windows per stream for which gradients are computed
        targets: number of losses per window that are differentiated
        steps: steps per stream over which changes of the memory are averaged
        force: write to a folder that contains other files
        device: the device, such as cpu or cuda:1
        backend: the engine for evaluation, or auto
    """
    *runs, named = runs_and_text
    if not runs:
        raise OptionError("name at least one run, and then the text: fastslow dynamics RUN... TEXT --out DIR")
    for name, value, least in (
        ("--lags", lags, 1),
        ("--streams", streams, 1),
        ("--windows", windows, 1),
        ("--targets", targets, 1),
        ("--steps", steps, 1),
    ):
        if value < least:
            raise OptionError(f"{name} must be at least {least}; got {value}")
    _check_out(out, force)
    for run in runs:
        check_path(run)
    text = _text(named)

    from fastslow.dynamics.findings import findings
    from fastslow.dynamics.study import StudySettings, group, write_data

    settings = StudySettings(lags=lags, streams=streams, windows=windows, targets=targets, steps=steps)
    measures = [_measured(run, name, text, settings, device, backend) for run, name in _names(runs).items()]
    groups = group(measures)
    found = findings(groups)
    write_data(out, groups, text, settings, [finding.to_json() for finding in found])
    _draw(out, groups, found, text, settings)
    _tell(groups, found)
    print(f"\n{out / 'dynamics.html'}: figures and findings")


def _names(runs: Sequence[str]) -> dict[str, str]:
    """The name of each run in data and report: its folder's name, or its whole path if that is ambiguous."""
    twice = sorted({run for run in runs if runs.count(run) > 1})
    if twice:
        raise OptionError(f"{twice[0]} is named twice: name each run once")
    short = {run: Path(run).resolve().name for run in runs}
    return short if len(set(short.values())) == len(runs) else {run: run for run in runs}


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "dynamics.json").exists() and not force:
        raise OptionError(f"{out} is not empty and contains no study: name another folder, or write there with --force")


def _text(name: str) -> Text:
    if is_corpus(name) and not Path(name).exists():
        text = load_corpus(name).splits.test
        assert text is not None
        return text
    if Path(name).is_dir():
        raise OptionError(f"{name} is a folder: name the text last, after the runs")
    opened = open_text(name)
    return replace(opened, name=Path(name).name)  # keep local paths out of the report


def _measured(run: str, name: str, text: Text, settings: StudySettings, device: str | None, backend: str) -> Measures:
    from fastslow.cli.progress import CountingView
    from fastslow.dynamics.study import measure

    lm = load_model(run, device, backend)
    with CountingView(run, "steps") as view:
        measured = measure(
            name, lm, text, settings, on_progress=lambda what, done, total: view(done, total, f"{run}: {what}")
        )
    note(f"{run}: {measured.bpc:.3f} bits per character over {measured.symbols:,} symbols")
    return measured


def _draw(out: Path, groups: Sequence[Group], found: Sequence[Finding], text: Text, settings: StudySettings) -> None:
    from fastslow.dynamics.figures import FiguresError, draw, write_figures
    from fastslow.dynamics.page import PAGE_FILE, page
    from fastslow.storage import write_bytes

    try:
        drawn = write_figures(out, draw(groups))
    except FiguresError as error:
        raise FiguresError(f"{error}; the data is in {out}") from error
    html = page(groups, found, drawn, text, settings).encode("utf-8", "backslashreplace")
    write_bytes(out / PAGE_FILE, html)


def _tell(groups: Sequence[Group], found: Sequence[Finding]) -> None:
    for g in groups:
        deviation = "" if g.bpc_deviation is None else f" ± {g.bpc_deviation:.3f} over {len(g.members)} models"
        print(f"{g.label}: {g.bpc:.3f} bits per character{deviation}, {g.parameters:,} parameters")
    for finding in found:
        print(f"\n{finding.claim}\n  {finding.verdict}: {finding.measured}")
