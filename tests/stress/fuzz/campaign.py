"""Run all cases in several processes, or repeat one case."""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.stress.fuzz.cases import make_case
from tests.stress.fuzz.files import Failure
from tests.stress.fuzz.openings import OPENINGS, open_case
from tests.stress.fuzz.originals import load_originals, make_originals, save_originals
from tests.stress.fuzz.process import Report, work

TELL_SECONDS = 60.0


def fuzz(cases: int, seed: int, workers: int, folder: Path) -> Report:
    """Run all cases in worker processes; a case that kills or blocks its process is a failure; the others continue."""
    save_originals(folder, make_originals(folder))
    context = multiprocessing.get_context("spawn")
    total = Report()
    reports = context.Queue()
    left = [list(range(first, cases, workers)) for first in range(min(workers, cases))]
    running: dict[int, tuple[Any, Any]] = {}

    def start(index: int) -> None:
        current = context.Value("q", -1)
        process = context.Process(target=work, args=(folder, seed, left[index], current, reports, index))
        process.start()
        running[index] = process, current

    def take_reports() -> None:
        while not reports.empty():
            index, report = reports.get()
            total.add(report)
            del left[index][: report.cases]

    for index in range(len(left)):
        start(index)
    told = time.monotonic()
    while running:
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            reached = ", ".join(str(current.value) for _, current in running.values())
            print(f"at case {reached} of {cases:,}", file=sys.stderr, flush=True)
        for index, (process, current) in list(running.items()):
            take_reports()
            process.join(0.2)
            if process.is_alive():
                continue
            del running[index]
            if process.exitcode == 0:
                continue
            if current.value < 0:
                raise Failure(f"a worker did not start: status {process.exitcode}")
            take_reports()
            total.failures.append(f"case {current.value}: its process exited with status {process.exitcode}")
            left[index].remove(current.value)
            if left[index]:
                start(index)
    take_reports()
    return total


def replay(seed: int, number: int, folder: Path) -> int:
    """Repeat one case and print its details."""
    originals = make_originals(folder)
    save_originals(folder, originals)
    originals = load_originals(folder)
    case = make_case(originals, seed, number)
    print(f"case {number} of seed {seed}: the run {case.original.name!r}; {', '.join(case.changes)}")
    failed = 0
    for opening, end, error in open_case(case, folder / "run"):
        print(f"  {opening}: {end}{'' if error is None or end == 'failed' else f': {error}'}")
        if end == "failed" and error is not None:
            failed += 1
            traceback.print_exception(error)
    return 1 if failed else 0


def print_report(report: Report, seconds: float) -> None:
    print(f"\n{report.cases:,} cases in {seconds:.0f} s; slowest {report.slowest:.2f} s")
    print("opening      loaded  refused  failed")
    for opening in OPENINGS:
        loaded, refused, failed = (report.ends[opening, end] for end in ("loaded", "refused", "failed"))
        print(f"{opening:<10} {loaded:8,} {refused:8,} {failed:7,}")
    print(
        f"memory: {report.undamaged_peak >> 20} MiB at most with undamaged runs, {report.peak >> 20} MiB with damaged "
        f"ones; at most {report.growth / 2**20:.1f} MiB more during a case"
    )
    print("changes: " + ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.most_common()))
