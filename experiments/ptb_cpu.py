#!/usr/bin/env python3
"""Penn Treebank on a CPU: the preset `ptb-cpu` with all methods that lower its loss, and its learning curve.

    python -m experiments.ptb_cpu --data DIR               DIR contains train.txt, valid.txt and test.txt
    python -m experiments.ptb_cpu                          Penn Treebank from `fastslow data fetch ptb`
    python -m experiments.ptb_cpu --compare     compared with stacked and sequential LSTMs of equal size
    python -m experiments.ptb_cpu --recipes                one technique at a time, compared with the base recipe
    ... --jobs 2 --minutes 20 --seeds 1 2 --dry-run --record    (--minutes replaces the preset's updates)

The estimated cost is printed first. Complete steps are not repeated, and a stopped training is resumed, so the script
can be interrupted (Ctrl-C) and restarted. With --jobs 2 two trainings run in parallel, with one thread each: on two
cores this is faster than one training with two threads, and fair, since each has a core.

Without a mode, two seeds are trained and scored on the test text: with fixed weights, at the temperature that is best
on validation text, both models with averaged probabilities (the pair), and by dynamic evaluation, with settings tuned
on validation text. --recipes only uses the validation text. Files in OUT (runs/ptb-cpu, plus the name of the mode):

    <run>/               the runs
    logs/                their output, if they ran in parallel
    scores/              the evaluations, as JSON
    table.md             the results; table.json: the same as JSON
    curve.csv .png .svg  validation loss against updates

With --record, also writes a record of each row to experiments/records/, from which `python -m experiments.report build`
builds RESULTS.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.jobs import Job, Texts, exit_status, rounds, run_jobs, the_texts, training
from experiments.report.plan import find_row
from experiments.report.records import Record, record_of_runs, write_record
from fastslow.dynamics.figures import check_matplotlib, write_figures
from fastslow.evaluation.compare import compare, load_nats
from fastslow.metrics import Interval
from fastslow.storage import read_json, write_bytes, write_json
from fastslow.training import find_preset, read_metrics

PRESET = "ptb-cpu"
NETWORKS = {
    "ptb-cpu-equal-fs-lstm-2": "ptb-cpu",
    "ptb-cpu-equal-stacked-lstm-2": "ptb-cpu-stacked",
    "ptb-cpu-equal-sequential-lstm-2": "ptb-cpu-sequential",
}
"""Rows of the comparison -> their presets."""

RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "no-average": {"average": 0},
    "tail-average": {"average": 0, "average_from": 0.7},
    "no-random-offset": {"random_offset": False},
    "jitter": {"jitter": 20},
    "reset": {"reset": 0.01},
    "clip-1": {"clip": 1},
    "beta1-0": {"beta1": 0},
    "fp32": {"precision": "fp32"},
    "no-dropout": {"dropout": 0},
    "more-dropout": {"dropout": 0.15},
    "zoneout": {"dropout": 0, "zoneout_c": 0.1, "zoneout_h": 0.05},
    "dropout-and-zoneout": {"zoneout_c": 0.1, "zoneout_h": 0.05},
    "small": {"hidden_size": 160, "slow_size": 96},
    "large": {"hidden_size": 384, "slow_size": 256},
}
"""Techniques, one at a time: the changes of each to the preset. `results.plan` has their rows, `ptb-cpu-recipe-...`."""

DEFAULTS: dict[str, tuple[float | None, tuple[int, ...]]] = {
    "headline": (None, (1, 2)),
    "compare": (6.0, (1, 2, 3)),
    "recipes": (3.0, (1, 2)),
}
"""Minutes and seeds of each mode; without minutes, the preset's updates, `HEADLINE_MINUTES` of one core."""
HEADLINE_MINUTES = 35.0
"""Minutes for the preset's updates on one core with a tile unit: for the estimate, and the warm-up of shorter runs."""

# Seconds of one core, for a million weights and a test text of Penn Treebank's length.
TEST_SECONDS = 90.0
DYNAMIC_SECONDS = 900.0
PAIR_SECONDS = 700.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--compare", action="store_true", help="FS-LSTM, stacked and sequential LSTM of equal size")
    mode.add_argument("--recipes", action="store_true", help="one technique at a time against the base recipe")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), metavar="NAME", help="with --recipes, only these")
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, help="output folder")
    parser.add_argument("--minutes", type=float, help="minutes of training per run")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel commands, with one thread each")
    parser.add_argument(
        "--record", type=Path, nargs="?", const=Path("experiments/records"), help="write records to this folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    options.mode = "compare" if options.compare else "recipes" if options.recipes else "headline"
    if options.only and not options.recipes:
        parser.error("--only can only be used with --recipes")
    if len(set(options.seeds or ())) != len(options.seeds or ()) or options.jobs < 1:
        parser.error("seeds must differ, and --jobs must be at least 1")
    minutes, seeds = DEFAULTS[options.mode]
    options.minutes = minutes if options.minutes is None else options.minutes
    options.seeds = list(seeds) if options.seeds is None else options.seeds
    ending = "" if options.mode == "headline" else f"-{options.mode}"
    options.out = options.out or Path(f"runs/{PRESET}{ending}")
    run: Callable[[argparse.Namespace], None] = {"headline": headline, "compare": comparison, "recipes": recipes}[
        options.mode
    ]
    return exit_status("ptb_cpu", lambda: run(options))


# ---------------------------------------------------------------------- the pair and its scores


def headline(options: argparse.Namespace) -> None:
    texts = the_texts(options.data)
    check_matplotlib()  # fail before the long computation
    runs = [options.out / f"seed-{seed}" for seed in options.seeds]
    trainings = [the_training(run, PRESET, seed, texts, options) for run, seed in zip(runs, options.seeds, strict=True)]
    singles = [job for run in runs for job in scored(options, [run], texts)]
    together = scored(options, runs, texts) if len(runs) > 1 else []
    dynamic = rounds(sum(not job.done() for job in singles) // 2, options.jobs) * DYNAMIC_SECONDS
    pair = PAIR_SECONDS * any(not job.done() for job in together)
    if not say_cost(options, trainings, dynamic + pair, 40 * len(runs)):
        return
    run_jobs(trainings, options.jobs, options.out / "logs")
    write_curve(options.out, dict(zip(options.seeds, runs, strict=True)))
    run_jobs(singles, options.jobs, options.out / "logs")  # these store the inputs of the pair in the run folders
    run_jobs(together, options.jobs, options.out / "logs")
    records = headline_records(options, runs)
    lines = [
        *heading(options, records[0]),
        "| score | parameters | raw protocol | char protocol | each, raw |",
        "|---|---|---|---|---|",
        *(table_line([record.model, f"{record.parameters:,}"], record, ("raw", "char")) for record in records),
        "",
        *(f"- {record.model}: {record.note}" for record in records),
    ]
    finish(options, lines, {"records": [record.to_json() for record in records]}, records)


def scored(options: argparse.Namespace, runs: Sequence[Path], texts: Texts) -> list[Job]:
    """The evaluations of a model, or of several together: with fixed weights and a temperature, and dynamic."""
    name = runs[0].name if len(runs) == 1 else "pair"
    given = ["evaluate", *map(str, runs), str(texts.test), "--device", "cpu", "--json"]
    scores = options.out / "scores"
    return [
        Job(f"{name}-{kind}", (*given, *more), out=scores / f"{name}-{kind}.json", of=tuple(runs))
        for kind, more in (("static", ("--fit-temperature", str(texts.valid))), ("dynamic", ("--dynamic",)))
    ]


def headline_records(options: argparse.Namespace, runs: Sequence[Path]) -> list[Record]:
    scores = options.out / "scores"
    for path in sorted(scores.glob("*-static.json")):
        write_json(scores / path.name.replace("-static", "-tempered"), read_json(path, what="the scores")["tempered"])
    temperatures = {
        path.name.removesuffix("-tempered.json"): float(read_json(path, what="the scores")["temperature"])
        for path in scores.glob("*-tempered.json")
    }
    records = []
    for row, kind in (("ptb-cpu", "static"), ("ptb-cpu-temperature", "tempered"), ("ptb-cpu-dynamic", "dynamic")):
        files = [scores / f"{run.name}-{kind}.json" for run in runs]
        records.append(merged(options, row, runs, files, more=told(kind, files, temperatures)))
    if len(runs) > 1:
        for row, kind in (
            ("ptb-cpu-pair", "static"),
            ("ptb-cpu-pair-temperature", "tempered"),
            ("ptb-cpu-pair-dynamic", "dynamic"),
        ):
            file = scores / f"pair-{kind}.json"
            note = f"{how(options)}{told(kind, [file], temperatures)}"
            records.append(record_of_runs(row, runs, evaluation=file, command=command(options), note=note))
    return records


def told(kind: str, files: Sequence[Path], temperatures: dict[str, float]) -> str:
    """The note for scores of this kind, after a comma."""
    if kind == "tempered":
        each = [f"{temperatures[file.name.removesuffix('-tempered.json')]:.3f}" for file in files]
        return f", temperature {' and '.join(each)}, fitted on validation text"
    if kind == "dynamic":
        settings = [s for file in files for s in read_json(file, what="the scores")["dynamic"]]
        each = [f"rate {s['rate']:.3g} and decay {s['decay']:.3g}" for s in settings]
        return f", {'; '.join(dict.fromkeys(each))}, tuned on validation text"
    return ""


def write_curve(out: Path, runs: dict[int, Path]) -> None:
    """Validation loss against updates, of each seed, with the minutes in the data: curve.csv, curve.png, curve.svg."""
    from matplotlib.figure import Figure

    rows: list[dict[str, float]] = []
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for seed, run in runs.items():
        lines = [line for line in read_metrics(run) if line["kind"] == "valid"]
        found = [
            {"seed": seed, "minutes": x["seconds"] / 60, "update": x["update"], "epoch": x["epoch"], "bpc": x["bpc"]}
            for x in lines
        ]
        rows += found
        axes.plot(
            [r["update"] / 1000 for r in found], [r["bpc"] for r in found], marker="o", markersize=3, label=f"{seed}"
        )
    axes.set_xlabel("thousand updates of training")
    axes.set_ylabel("validation, bits per character (raw)")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.grid(True, which="both", color="#e3e3e3", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="seed", frameon=False)
    write_figures(out, {"curve": figure})
    text = io.StringIO()
    table = csv.DictWriter(text, ["seed", "minutes", "update", "epoch", "bpc"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(out / "curve.csv", text.getvalue().encode())


# ---------------------------------------------------------------------- comparison with networks of equal size


def comparison(options: argparse.Namespace) -> None:
    texts = the_texts(options.data)
    # Ordered by seed, so that varying load on the machine affects all networks.
    plan = [(row, seed, options.out / f"{NETWORKS[row]}-{seed}") for seed in options.seeds for row in NETWORKS]
    trainings = [the_training(run, NETWORKS[row], seed, texts, options) for row, seed, run in plan]
    scores = options.out / "scores"
    evaluations = [
        Job(
            f"{run.name}-static",
            ("evaluate", str(run), str(texts.test), "--device", "cpu", "--json", "--per-symbol", str(_nats(run))),
            out=scores / f"{run.name}-static.json",
            of=(run,),
        )
        for _, _, run in plan
    ]
    seconds = rounds(sum(not job.done() for job in evaluations), options.jobs) * TEST_SECONDS
    if not say_cost(options, trainings, seconds, 25 * len(plan)):
        return
    run_jobs(trainings, options.jobs, options.out / "logs")
    run_jobs(evaluations, options.jobs, options.out / "logs")
    runs = {row: [run for r, _, run in plan if r == row] for row in NETWORKS}
    records = []
    lines = ["| network | parameters | updates | raw protocol | char protocol | each seed, raw |", "|---" * 6 + "|"]
    for row, of_row in runs.items():
        record = merged(options, row, of_row, [scores / f"{run.name}-static.json" for run in of_row])
        records.append(record)
        updates = statistics.fmean(float(result_of(run)["updates"]) for run in of_row)
        lines.append(table_line([record.model, f"{record.parameters:,}", f"{updates:,.0f}"], record, ("raw", "char")))
    ours, *others = NETWORKS
    differences: dict[str, Any] = {}
    lines += [
        "",
        "FS-LSTM-2 less the other, the same symbols and the same seeds (below zero: FS-LSTM-2 is better):",
        "",
    ]
    for other in others:
        found, each = difference(runs[ours], runs[other])
        spread = f" ± {statistics.stdev(each):.4f}" if len(each) > 1 else ""
        name = find_row(other)[1].model  # type: ignore[index]
        lines.append(f"- {name}: {found}; over seeds {statistics.fmean(each):+.4f}{spread}")
        differences[other] = {
            "bpc": found.value_bpc, "low": found.low_bpc, "high": found.high_bpc, "each_seed": each,
        }  # fmt: skip
        records[0] = replace(records[0], note=f"{records[0].note}; less {name} {found}")
    value = {"records": [record.to_json() for record in records], "differences": differences}
    finish(options, [*heading(options, records[0]), *lines], value, records)


def _nats(run: Path) -> Path:
    return run / "test-nats.npy"


def difference(ours: Sequence[Path], theirs: Sequence[Path]) -> tuple[Interval, list[float]]:
    """The difference of the losses averaged over seeds, with its bootstrap interval, and the difference per seed."""
    first, second = ([load_nats(_nats(run)) for run in runs] for runs in (ours, theirs))
    each = [compare(a, b, samples=1).value_bpc for a, b in zip(first, second, strict=True)]
    return compare(np.mean(first, axis=0), np.mean(second, axis=0)), each


# ---------------------------------------------------------------------- one technique at a time


def recipes(options: argparse.Namespace) -> None:
    texts = the_texts(options.data)
    names = list(dict.fromkeys(["base", *(options.only or RECIPES)]))
    plan = [(name, seed, options.out / f"{name}-{seed}") for seed in options.seeds for name in names]
    # Validated only at the end: in a short run, validation takes a large part of the time.
    trainings = [
        the_training(run, PRESET, seed, texts, options, test=False, validate_every=10**9, **RECIPES[name])
        for name, seed, run in plan
    ]
    if not say_cost(options, trainings, 0.0, 20 * len(plan)):
        return
    run_jobs(trainings, options.jobs, options.out / "logs")
    records, value = [], {}
    lines = ["| recipe | parameters | updates | validation | less the base's | each seed |", "|---" * 6 + "|"]
    base = [float(result_of(options.out / f"base-{seed}")["best_bpc"]) for seed in options.seeds]
    for name in names:
        runs = [run for n, _, run in plan if n == name]
        found = [float(result_of(run)["best_bpc"]) for run in runs]
        less = [bpc - at_base for bpc, at_base in zip(found, base, strict=True)]
        spread = f" ± {statistics.stdev(less):.4f}" if len(less) > 1 else ""
        told = "" if name == "base" else f"{statistics.fmean(less):+.4f}{spread}"
        record = validation_record(
            options, f"ptb-cpu-recipe-{name}", runs, f"; less the base recipe's {told}" * bool(told)
        )
        records.append(record)
        updates = statistics.fmean(float(result_of(run)["updates"]) for run in runs)
        each = ", ".join(f"{bpc:.4f}" for bpc in found)
        cells = [
            record.model,
            f"{record.parameters:,}",
            f"{updates:,.0f}",
            f"{statistics.fmean(found):.4f}",
            told,
            each,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        value[name] = {"changes": RECIPES[name], "bpc": found, "less_base": less, "updates": updates}
    finish(options, [*heading(options, records[0], "Validation"), *lines], value, records)


def validation_record(options: argparse.Namespace, row: str, runs: Sequence[Path], more: str) -> Record:
    files = []
    for run in runs:
        streams = find_preset(PRESET).train.valid_streams
        score = {
            "bpc": result_of(run)["best_bpc"],
            "protocol": f"validation text, every symbol but the first, {streams} streams, each from a zero state",
            "seconds": 0.0,
            "char_protocol": None,
        }
        files.append(options.out / "scores" / f"{run.name}.json")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_json(files[-1], score)
    return merged(options, row, runs, files, more=more)


# ---------------------------------------------------------------------- common


def the_training(run: Path, preset: str, seed: int, texts: Texts, options: argparse.Namespace, **changes: Any) -> Job:
    """A training with the preset's recipe; with minutes, annealed over that time, with a proportional warm-up."""
    common: dict[str, Any] = {"seed": seed}
    if options.minutes is not None:
        given, part = find_preset(preset).train, min(1.0, options.minutes / HEADLINE_MINUTES)
        common |= {
            "max_time": options.minutes * 60,
            "anneal_by_time": True,
            "warmup": max(1, round(given.warmup * part)),
            "validate_every": max(50, round(given.validate_every * part)),
            "test_streams": 64,
        }
    return training(run, preset, texts, **{**common, **changes})


def say_cost(options: argparse.Namespace, trainings: Sequence[Job], more: float, megabytes: int) -> bool:
    """Print the estimated cost; returns whether to start."""
    left = [job for job in trainings if not job.done()]
    minutes = HEADLINE_MINUTES if options.minutes is None else options.minutes
    seconds = rounds(len(left), options.jobs) * (minutes * 60 + 30) + more
    print(
        f"{len(trainings)} trainings of {length(options)}, {len(trainings) - len(left)} of them complete, "
        f"{options.jobs} at a time; with the scores about {seconds / 3600:.1f} hours of this machine, and about "
        f"{megabytes} MB in {options.out}",
        flush=True,
    )
    return not options.dry_run


def command(options: argparse.Namespace) -> str:
    """The command line, with the options that affect the results."""
    minutes, seeds = DEFAULTS[options.mode]
    parts = ["python -m experiments.ptb_cpu"]
    parts += [f"--{options.mode}"] if options.mode != "headline" else []
    parts += [f"--minutes {options.minutes:g}"] if options.minutes not in (None, minutes) else []
    parts += [f"--seeds {' '.join(map(str, options.seeds))}"] if tuple(options.seeds) != seeds else []
    parts += [f"--jobs {options.jobs}"] if options.jobs != 1 else []
    return " ".join(parts)


def how(options: argparse.Namespace) -> str:
    side = f", {options.jobs} side by side with a thread each" if options.jobs > 1 else ""
    return f"{length(options)} of training a model{side}"


def length(options: argparse.Namespace) -> str:
    updates = find_preset(PRESET).train.max_updates
    return f"{updates:,} updates" if options.minutes is None else f"{options.minutes:g} minutes"


def merged(
    options: argparse.Namespace, row: str, runs: Sequence[Path], files: Sequence[Path], *, more: str = ""
) -> Record:
    """One record of several runs, each with its own evaluation."""
    each = [
        record_of_runs(row, [run], evaluation=file, command=command(options), note=how(options) + more)
        for run, file in zip(runs, files, strict=True)
    ]
    return replace(
        each[0],
        scores=tuple(score for record in each for score in record.scores),
        seconds=sum(record.seconds for record in each),
        date=max(record.date for record in each),
    )


def result_of(run: Path) -> dict[str, Any]:
    return read_json(run / "result.json", what="the result")


def heading(options: argparse.Namespace, record: Record, what: str = "Test") -> list[str]:
    return [
        f"# {how(options)[0].upper()}{how(options)[1:]}",
        "",
        f"Made by `{command(options)}` on {record.machine}, {record.date}. {what} bits per character on Penn Treebank, "
        "mean ± the sample's standard deviation.",
        "",
    ]


def table_line(first: list[str], record: Record, protocols: Sequence[str]) -> str:
    cells = list(first)
    for protocol in protocols:
        mean, deviation = record.mean(protocol), record.deviation(protocol)
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        cells.append("" if mean is None else f"{mean:.4f}{spread}")
    cells.append(", ".join(f"{score.bpc[protocols[0]]:.4f}" for score in record.scores))
    return "| " + " | ".join(cells) + " |"


def finish(options: argparse.Namespace, lines: list[str], value: dict[str, Any], records: Sequence[Record]) -> None:
    """Print and write the table, and the records if requested."""
    text = "\n".join([*lines, ""])
    write_bytes(options.out / "table.md", text.encode())
    write_json(options.out / "table.json", {"minutes": options.minutes, **value})
    print("\n" + text)
    if options.record is not None:
        for record in records:
            print(write_record(options.record, record))


if __name__ == "__main__":
    sys.exit(main())
