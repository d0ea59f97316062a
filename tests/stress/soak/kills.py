"""A run that is killed and resumed repeatedly."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.stress.soak.checks import Bench, Outcome, check_folder, check_loss, differences, lost
from tests.stress.soak.places import AT_RANDOM, FIRST, LAST, OFTEN, PLACES, STOPS
from tests.stress.soak.processes import Training, resume

BY_STEP = 15
"""Updates between checkpoints by step."""


def undisturbed(bench: Bench) -> Bench:
    """Create the run that the others are compared with; returns the bench with its times."""
    begun = time.monotonic()
    training = Training(bench.train(bench.reference, "--checkpoint-every", str(BY_STEP)))
    training.comes_to_train()
    started = time.monotonic()
    ended = training.end()
    if ended.status != 0:
        raise SystemExit("soak: the uninterrupted run failed: " + " ".join(ended.said[-3:]))
    return Bench(bench.out, bench.text, bench.few, bench.updates, started - begun, time.monotonic() - started)


def plan(kills: int, choose: random.Random) -> list[str]:
    """The places at which a run is killed or stopped, in order: at its beginning, in between, at its end."""
    first = [*FIRST][: kills // 5]
    last = [*LAST][: max(1, min(3, kills // 5))]
    left = max(0, kills - len(first) - len(last))
    middle = choose.sample(PLACES, min(len(PLACES), (left + 1) // 2))
    middle += [AT_RANDOM] * (left - len(middle)) + [*STOPS][: max(1, min(2, kills // 5))]
    choose.shuffle(middle)
    return [*first, *middle, *last]


def killed(bench: Bench, name: str, kills: int, every: int, seconds: float, choose: random.Random) -> Outcome:
    """A run that is killed `kills` times, or fewer if it completes earlier, also stopped by signals, and resumed."""
    outcome, folder = Outcome(name), bench.out / name.replace(" ", "-")
    start = bench.train(folder, "--checkpoint-every", str(every), "--checkpoint-seconds", f"{seconds:.3g}")
    places = plan(kills, choose)
    on_the_way = sum(place not in FIRST + LAST for place in places)
    for place in places:
        arguments = resume(folder) if (folder / "run.json").exists() else start
        outcome.resumed += arguments is not start
        if place == AT_RANDOM or place in STOPS:
            training = Training(arguments)
            if place == AT_RANDOM and choose.random() < 0.15:
                training.runs_for(choose.uniform(0.0, bench.startup))
            elif training.comes_to_train():
                if not outcome.note:
                    refused(training, folder, outcome)
                training.runs_for(choose.uniform(0.0, 0.5 * bench.work / on_the_way))
            ended = training.end(STOPS.get(place, signal.SIGKILL))
        else:
            nth = choose.randint(1, 2) if place in OFTEN else 1
            ended = Training(arguments, place=place, nth=nth).end()
        if ended.status == 0:  # it completed earlier
            break
        if ended.status == -signal.SIGKILL:
            outcome.kills[place] += 1
            check_loss(folder, outcome, every, seconds)
        elif ended.status == 130 and place in STOPS:
            outcome.stops += 1
            if lost(folder)[0]:
                outcome.fault(f"{place} lost {len(lost(folder)[0])} updates")
        else:
            outcome.fault(f"killed {place}, it exited with status {ended.status}: {ended.said[-1:]}")
            break
        check_folder(bench, folder, outcome)
    finish(bench, folder, outcome)
    return outcome


def finish(bench: Bench, folder: Path, outcome: Outcome) -> None:
    """Let the run complete, and compare it."""
    ended = Training(resume(folder)).end()
    outcome.resumed += 1
    if ended.status != 0:
        outcome.fault(f"the last process exited with status {ended.status}: {ended.said[-1:]}")
    else:
        for text in differences(bench, folder):
            outcome.fault(text)
        check_folder(bench, folder, outcome)


def refused(training: Training, folder: Path, outcome: Outcome) -> None:
    """A second process is rejected while another uses the folder. The first is paused meanwhile."""
    training.process.send_signal(signal.SIGSTOP)
    if training.process.poll() is None:
        ended = Training(resume(folder)).end()
        if ended.status != 2 or f"is in use: process {training.process.pid} is training" not in ended.error():
            outcome.fault(f"a second process was not refused: status {ended.status}, {ended.said[-1:]}")
        outcome.note = "a second process is rejected"
    training.process.send_signal(signal.SIGCONT)
