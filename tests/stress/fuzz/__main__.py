"""Fuzzing a run's files: every mutation must open correctly, or be refused in one line.

    python -m tests.stress.fuzz                             10,000 cases of seed 0
    python -m tests.stress.fuzz --cases 500 --seed 7 --workers 2
    python -m tests.stress.fuzz --seed 7 --replay 123       one case again: what was changed, and how each opening ended

Small runs are made first: an FS-LSTM that is complete, a stack with averaged weights that was stopped, a sequence
without norms. A case takes the files of one, changes one of them or two, and opens the result as the programs do:

    model      CharLM.from_pretrained, then the score of a short text
    resume     `fastslow train --resume`, up to where it would train; and the checkpoint's tensors
    evaluate   `fastslow evaluate RUN`: the record, the text, the model, the score of the test part
    info       `fastslow info RUN` in words and in JSON
    records    the metrics, and the record that goes into a table of results

Changes are blind (bits flipped, pieces cut, repeated, inserted, exchanged; files emptied, missing, exchanged), or know
the format: values of other types and sizes, NaN, names given twice, unknown fields, newer versions, deep nesting,
another alphabet, tensors declared huge, moved, retyped; most of the latter with all checksums made right again, as a
stranger would.

Each opening ends in a value that is consistent (shapes, finite numbers, and after a blind change of a file with
checksums the very numbers that were stored) or in a FastslowError of one line. It fails by any other exception; by
taking longer than LIMIT_SECONDS, which ends the process with its stack printed; or by memory: the peak of the process's
resident memory during a case (VmHWM of /proc/self/status, set back before each) may be at most twice that of opening
undamaged runs, and at most GROWTH_BYTES above where the case began.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.stress.fuzz.campaign import fuzz, print_report, replay


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--replay", type=int, metavar="N", help="run case N of the seed again, and print all of it")
    options = parser.parse_args(arguments)
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory_disk if memory_disk.is_dir() else None) as name:
        folder = Path(name)
        if options.replay is not None:
            return replay(options.seed, options.replay, folder)
        started = time.perf_counter()
        report = fuzz(options.cases, options.seed, options.workers, folder)
        print_report(report, time.perf_counter() - started)
    for failure in report.failures[:20]:
        print(f"\n{failure}")
    if report.failures:
        print(f"\n{len(report.failures)} failures; `--seed {options.seed} --replay N` runs case N again")
        return 1
    print("no failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
