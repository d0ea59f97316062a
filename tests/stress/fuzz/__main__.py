"""Fuzzing a run's files: every mutation must either open correctly or be rejected with a one-line error.

    python -m tests.stress.fuzz                             10,000 cases of seed 0
    python -m tests.stress.fuzz --cases 500 --seed 7 --workers 2
    python -m tests.stress.fuzz --seed 7 --replay 123       repeat one case: its changes, and the result of each opening

Small runs are created first: a complete FS-LSTM, a stopped stack with averaged weights, and a sequence without norms. A
case takes the files of one run, changes one or two of them, and opens the result as the programs do:

    model      CharLM.from_pretrained, then score a short text
    resume     `fastslow train --resume`, up to the start of training; also the checkpoint's tensors
    evaluate   `fastslow evaluate RUN`: the record, the text, the model, the score of the test part
    info       `fastslow info RUN` as text and as JSON
    records    the metrics, and the record for the table of results

Changes are either blind (bits flipped; parts cut, repeated, inserted or exchanged; files emptied, removed or exchanged)
or use the format: values of other types and sizes, NaN, duplicate names, unknown fields, newer versions, deep nesting,
another alphabet, tensors declared huge, moved or with another dtype. Most of the latter have valid checksums, as an
attacker would create them.

Each opening must end in a consistent value (shapes, finite values, and after a blind change of a file with checksums
exactly the stored values) or in a one-line FastslowError. It fails on any other exception; if it takes longer than
LIMIT_SECONDS, which ends the process and prints its stack; or on memory: the peak resident memory of the process during
a case (VmHWM of /proc/self/status, reset before each) may be at most twice that of opening undamaged runs, and at most
GROWTH_BYTES above the start of the case.
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
    parser.add_argument("--replay", type=int, metavar="N", help="repeat case N of the seed and print its details")
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
        print(f"\n{len(report.failures)} failures; `--seed {options.seed} --replay N` repeats case N")
        return 1
    print("no failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
