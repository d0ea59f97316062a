"""All runs, their table, and the result."""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import time
from collections import Counter
from pathlib import Path

from tests.stress.soak.checks import Bench, Outcome
from tests.stress.soak.disks import disks
from tests.stress.soak.kills import BY_STEP, killed, undisturbed

MODULES = ("argparse", "ast", "datetime", "dataclasses", "inspect", "typing")
"""The modules whose sources are the text."""


def soak(options: argparse.Namespace) -> int:
    begun = time.monotonic()
    out = options.out.resolve()
    if out.exists():
        if not (out / "few").is_file() and any(out.iterdir()):
            raise SystemExit(f"soak: {out} is not empty and was not created by this script: choose another folder")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    sources = b"".join(Path(str(importlib.import_module(name).__file__)).read_bytes() for name in MODULES)
    size = 40_000 if options.short else 120_000
    (out / "text").write_bytes(sources[:size])
    (out / "few").write_bytes(sources[:300])
    bench = undisturbed(Bench(out, out / "text", out / "few", 120 if options.short else 300))
    print(
        f"uninterrupted: {bench.updates} updates in {bench.work:.1f} s, {bench.startup:.1f} s to start",
        flush=True,
    )
    choose = random.Random(options.seed)
    # Often enough that a run progresses between two kills, rarely enough that some work is lost.
    seconds = max(0.05, bench.work / 15)
    outcomes: list[Outcome] = []
    ways = [("by step", BY_STEP, 0.0), ("by time", 0, seconds)]
    if options.kills < 6:
        ways = [("by step and time", BY_STEP, seconds)]
    for number in range(8):
        left = options.kills - sum(sum(outcome.kills.values()) for outcome in outcomes)
        if number >= len(ways) and left <= 0:
            break
        name, every, wait = ways[number % len(ways)]
        share = -(-options.kills // len(ways)) if number < len(ways) else left
        again = f" {number // len(ways) + 1}" if number >= len(ways) else ""
        outcomes.append(killed(bench, name + again, share, every, wait, choose))
        report(outcomes[-1])
    if not options.short:
        for outcome in disks(bench, options.seed):
            report(outcome)
            outcomes.append(outcome)
    return conclude(outcomes, options, seconds, time.monotonic() - begun)


def report(outcome: Outcome) -> None:
    faults = f", {len(outcome.faults)} faults" if outcome.faults else ", equal to the uninterrupted run"
    print(f"{outcome.name}: killed {sum(outcome.kills.values())} times{faults}", flush=True)
    for fault in outcome.faults:
        print(f"  {fault}", flush=True)


def conclude(outcomes: list[Outcome], options: argparse.Namespace, seconds: float, took: float) -> int:
    """Print the table; returns the exit status."""
    kills: Counter[str] = sum((outcome.kills for outcome in outcomes), Counter())
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if kills.total() < options.kills:
        faults.append(f"only {kills.total()} of {options.kills} kills")
    print(f"\n{'killed':<44} times")
    for place, count in kills.most_common():
        print(f"{place:<44} {count:>5}")
    print(
        f"\n{'run':<18} {'SIGKILL':>7} {'stopped':>7} {'resumed':>7}   {'lost at most':<20} "
        f"{'half-written':>12} {'commands worked, explained':>27}   equal"
    )
    for o in outcomes:
        lost = f"{o.lost_updates} updates, {o.lost_seconds:.2f} s"
        print(
            f"{o.name:<18} {o.kills.total():>7} {o.stops:>7} {o.resumed:>7}   {lost:<20} {o.half_written:>12} "
            f"{f'{o.worked}, {o.explained}':>27}   {'NO' if o.faults else 'yes'}{f'  ({o.note})' if o.note else ''}"
        )
    print(
        f"\n{kills.total()} kills, {sum(o.stops for o in outcomes)} stops by signal; checkpoints every {BY_STEP} "
        f"updates or {seconds:.2f} s; seed {options.seed}; {took:.0f} s"
    )
    for fault in faults:
        print(f"soak: {fault}")
    print("every run equals the uninterrupted one, bit for bit" if not faults else f"soak: {len(faults)} faults")
    if not faults and not options.keep:
        shutil.rmtree(options.out)
    return 1 if faults else 0
