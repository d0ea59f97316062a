"""Run cases one after another in one process, and measure memory and time."""

from __future__ import annotations

import contextlib
import faulthandler
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.fuzz.cases import Case, make_case
from tests.stress.fuzz.files import Failure
from tests.stress.fuzz.openings import open_case
from tests.stress.fuzz.originals import Original, load_originals

LIMIT_SECONDS = 30.0
"""The time limit of a case: a hundred times its duration on a busy core."""
GROWTH_BYTES = 64 << 20
"""The limit of additional memory during a case. Reading a JSON file of the maximum size takes about half of it."""
PART = 50
"""The number of cases after which a process reports its results."""
ADDRESS_SPACE = 6 << 30
"""The limit of the address space above that at the start, so that unchecked allocations fail."""


def memory(what: str) -> int:
    """VmRSS, VmHWM or VmSize of this process, in bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def limit_address_space() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE,) * 2)


@dataclass
class Report:
    """The results of the cases. ends: (opening, end) -> count. kinds: kind of change -> its cases."""

    cases: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    undamaged_peak: int = 0
    peak: int = 0
    growth: int = 0
    slowest: float = 0.0

    def add(self, other: Report) -> None:
        self.cases += other.cases
        self.ends += other.ends
        self.kinds += other.kinds
        self.failures += other.failures
        self.undamaged_peak = max(self.undamaged_peak, other.undamaged_peak)
        self.peak, self.growth = max(self.peak, other.peak), max(self.growth, other.growth)
        self.slowest = max(self.slowest, other.slowest)


class Fuzzer:
    """Runs cases one after another in this process."""

    def __init__(self, originals: list[Original], seed: int, folder: Path) -> None:
        self.originals, self.seed, self.folder = originals, seed, folder
        self.report = Report()
        reset_peak()
        for _ in range(2):
            for original in originals:
                case = Case(original, original.files)
                for opening, end, error in open_case(case, folder / "run"):
                    allowed = opening == "records" and original.name == "stopped"  # which has no result yet
                    if end == "failed" or (end == "refused" and not allowed):
                        raise Failure(f"the undamaged run {original.name}: {opening} {end}: {error!r}") from error
        self.report.undamaged_peak = memory("VmHWM")

    def run(self, number: int) -> list[str]:
        """Run one case and add it to the report; returns descriptions of failures."""
        case = make_case(self.originals, self.seed, number)
        reset_peak()
        before, started = memory("VmRSS"), time.perf_counter()
        failures = []
        for opening, end, error in open_case(case, self.folder / "run"):
            self.report.ends[opening, end] += 1
            if end == "failed":
                told = "".join(traceback.format_exception(error)[-4:]).strip() if error else ""
                failures.append(f"case {number}: {', '.join(case.changes)}: {opening}\n{told}")
        seconds, peak = time.perf_counter() - started, memory("VmHWM")
        if peak > 2 * self.report.undamaged_peak or peak - before > GROWTH_BYTES:
            failures.append(f"case {number}: {', '.join(case.changes)}: {(peak - before) >> 20} MiB more memory")
        if seconds > LIMIT_SECONDS:
            failures.append(f"case {number}: {', '.join(case.changes)}: took {seconds:.0f} s")
        report = self.report
        report.cases += 1
        report.kinds.update(change.split(" of ")[0] for change in case.changes)
        report.failures += failures
        report.peak, report.growth = max(report.peak, peak), max(report.growth, peak - before)
        report.slowest = max(report.slowest, seconds)
        return failures


def work(folder: Path, seed: int, numbers: list[int], current: Any, reports: Any, index: int) -> None:
    """Run one process's share of the cases. `current` holds the current case; results are reported in parts."""
    import warnings

    warnings.simplefilter("error")
    import torch

    torch.set_num_threads(1)
    originals = load_originals(folder)
    own = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
    fuzzer = Fuzzer(originals, seed, own)
    limit_address_space()
    for number in numbers:
        current.value = number
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        fuzzer.run(number)
        faulthandler.cancel_dump_traceback_later()
        if fuzzer.report.cases == PART or number == numbers[-1]:
            reports.put((index, fuzzer.report))
            fuzzer.report = Report(undamaged_peak=fuzzer.report.undamaged_peak)
