"""Runs that are killed repeatedly, on full disks and read-only folders, compared with an uninterrupted run.

    python -m tests.stress.soak                     30 kills; a few minutes
    python -m tests.stress.soak --kills 3 --short   a short version; half a minute

A small network is trained on sources of the standard library by `fastslow train` in a separate process, once without
interruption. Then the same run is repeated, but killed with SIGKILL: at random times from outside, and from inside at
points that a random time hardly hits (half of a checkpoint written, before and after a rename, half a line of metrics,
in a validation, in the test, ...); SIGTERM and SIGINT stop it as well. Each time it is resumed by `fastslow train
--resume`. Checkpoints are written by step in one run and by time in the next. After each kill:

    `fastslow info`, `evaluate`, `sample` and `score` on the folder work, or fail with a one-line error;
    only the work since the last due checkpoint is lost;
    a second process is rejected while the first uses the folder (once per run).

Then the disk is full (a separate tmpfs if mounts are permitted, else a limit on the size of files) and a folder is
read-only. At the end weights, optimizer, carried state, random generators, metrics and result of every run must equal
those of the uninterrupted run, byte for byte except for times. Prints a table; the status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.stress.soak.campaign import soak
from tests.stress.soak.disks import disks_inside
from tests.stress.soak.places import arm


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--at"]:
        from fastslow.cli import main as command

        arm(arguments[1], int(arguments[3]))
        sys.argv[1:] = arguments[4:]
        return command()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="minimum number of kills (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the places and times (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/soak"), help="output folder; removed at the end if there are no failures"
    )
    parser.add_argument("--short", action="store_true", help="a shorter run without the disk stages")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--disks", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.disks is not None:
        disks_inside(options.disks, options.seed)
        return 0
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    return soak(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
