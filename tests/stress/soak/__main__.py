"""Runs that are killed again and again, on full disks and read-only folders, against one that nobody disturbed.

    python -m tests.stress.soak                     30 kills; a few minutes
    python -m tests.stress.soak --kills 3 --short   less of everything; half a minute

A small network is trained on sources of the standard library by `fastslow train`, a process of its own, once without
disturbance. Then the same run is made again, and again, but killed with SIGKILL: at random moments from outside, and
from inside at places that a random moment hardly meets (half of a checkpoint written, before and after a rename, half a
line of metrics, in a validation, in the test, ...); SIGTERM and SIGINT stop it as well. Each time `fastslow train
--resume` goes on. Checkpoints are made by step in one run and by time in the next. After each kill:

    `fastslow info`, `evaluate`, `sample` and `score` on the folder work, or say in one line why not;
    no more work is lost than since the last checkpoint was due;
    a second process is refused while the first has the folder (once a run).

Then a disk that is full (a tmpfs of its own, where mounts are permitted; else a limit on the size of files) and a
folder that is read-only. In the end weights, optimiser, carried state, random generators, metrics and result of every
run are those of the undisturbed one, byte for byte but for times. Prints a table; the status is 1 if anything differs.
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
    parser.add_argument("--kills", type=int, default=30, help="at least so many (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="of the places and moments (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/soak"), help="folder for everything; removed in the end if all went well"
    )
    parser.add_argument("--short", action="store_true", help="a shorter run, and no disks")
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
