#!/usr/bin/env python3
"""Detection of alerts in a log by surprisal: area under the ROC curve, compared with simple baselines.

    python -m experiments.logs LOG [--out DIR] [--updates N]   train on the first half, score the second
    python -m experiments.logs LOG --dry-run                      print the estimated cost and exit

LOG is a log in the format of loghub (https://github.com/logpai/loghub), such as BGL_2k.log: the first field of a line
is its label, - for a normal line, anything else for an alert. The labels are removed first. A small network is trained
on the first half of the lines, without labels, and each line of the second half is scored by the network and by each
baseline; the area is the probability that an alert has a higher score than a normal line. Files in OUT:

    first.txt, second.txt     the two halves without labels
    model/                    the run
    auc.json, auc.md          the areas
"""

from __future__ import annotations

import argparse
import gzip
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastslow import CharLM
from fastslow.cli.progress import TrainingView
from fastslow.data.encodings import normalise
from fastslow.data.text import open_text
from fastslow.errors import FastslowError
from fastslow.lm import ModelOptions, files
from fastslow.lm.packaged import DEFAULT, default_model
from fastslow.mixing import Mixer
from fastslow.scoring import Scorer, Surprisal, scored_lines
from fastslow.scoring.mixed import NetworkMixer
from fastslow.scoring.statistics import line_means
from fastslow.storage import write_json
from fastslow.training import DataSource, TrainConfig, train
from fastslow.training.folder import RESULT_FILE

MODEL = ModelOptions(embedding_size=32, hidden_size=128, slow_size=80, dropout=0.1)
RECIPE = TrainConfig(
    batch=16,
    window=100,
    epochs=1000,
    max_updates=2000,
    rate=4e-3,
    schedule="cosine",
    warmup=100,
    clip=10.0,
    random_offset=True,
    validate_every=200,
    valid_streams=16,
    tensorboard=False,
)
NORMAL = b"-"
STRETCH = 32
"""The length in bytes of a line's most surprising part."""
WINDOW = 1 << 15
"""The size of gzip's window in bytes."""


class LogError(FastslowError):
    """A log that this script cannot use."""


def read_log(path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    """The lines of a log without their labels and line ends, and a mask of the alerts."""
    lines, alerts = [], []
    for number, line in enumerate(normalise(open_text(path).data).text.tobytes().splitlines(), start=1):
        label, space, rest = line.partition(b" ")
        if not space:
            raise LogError(f"{path}, line {number}: expected a label, a space and the line; got {line[:40]!r}")
        lines.append(rest)
        alerts.append(label != NORMAL)
    if len(lines) < 4:
        raise LogError(f"{path} has {len(lines)} lines: at least 4 are needed")
    return lines, np.array(alerts)


def area(scores: NDArray[np.float64], alerts: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: the share of pairs (alert, normal line) in which the alert has the higher score.

    A tie counts as one half (Mann-Whitney U).
    """
    normal, odd = np.sort(scores[~alerts]), scores[alerts]
    if not len(normal) or not len(odd):
        return math.nan
    below = np.searchsorted(normal, odd, side="left")
    not_above = np.searchsorted(normal, odd, side="right")
    return float((below + not_above).sum() / 2 / len(normal) / len(odd))


# ---------------------------------------------------------------------- scores


def by_length(first: list[bytes], second: list[bytes]) -> list[float]:
    return [float(len(line)) for line in second]


def by_gzip_alone(first: list[bytes], second: list[bytes]) -> list[float]:
    """The compressed size of the line alone."""
    return [float(len(gzip.compress(line, 9))) for line in second]


def by_gzip_before(first: list[bytes], second: list[bytes]) -> list[float]:
    """The compressed size of the line after the end of the first half, as much of it as fits in gzip's window."""
    known = b"\n".join(first)[-WINDOW:]
    return [float(_deflated(known, line)) for line in second]


def by_gzip_before_per_byte(first: list[bytes], second: list[bytes]) -> list[float]:
    """The same per byte of the line."""
    return [size / (len(line) + 1) for size, line in zip(by_gzip_before(first, second), second, strict=True)]


def by_gzip_running(first: list[bytes], second: list[bytes]) -> list[float]:
    """The compressed size of the line after all preceding lines, including those of the second half."""
    known, sizes = b"\n".join(first)[-WINDOW:], []
    for line in second:
        sizes.append(float(_deflated(known, line)))
        known = (known + line + b"\n")[-WINDOW:]
    return sizes


def _deflated(known: bytes, line: bytes) -> int:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zdict=known)
    return len(squeeze.compress(line + b"\n") + squeeze.flush())


BASELINES: dict[str, Callable[[list[bytes], list[bytes]], list[float]]] = {
    "line length": by_length,
    "gzip, the line alone": by_gzip_alone,
    "gzip after the first half": by_gzip_before,
    "gzip after the first half, per byte": by_gzip_before_per_byte,
    "gzip after all lines before": by_gzip_running,
}


def scored(lm: CharLM, first: list[bytes], second: list[bytes]) -> list[Surprisal]:
    """The lines of the second half, scored after the last lines of the first."""
    warm = b"".join(line + b"\n" for line in first[-20:])
    text = b"".join(line + b"\n" for line in second)
    return list(Scorer(lm, likeliest=0, context=warm).feed(text))


def by_contexts(first: list[bytes], second: list[bytes]) -> list[Surprisal]:
    """The lines of the second half, scored by the mixed predictor without a network after reading the first half."""
    known, text = (b"".join(line + b"\n" for line in part) for part in (first, second))
    mixer = Mixer(len(known) + len(text))
    mixer.bits(known)
    values, bits = np.frombuffer(text, dtype=np.uint8), mixer.bits(text)
    n, none = len(values), np.zeros((len(values), 0))
    return [
        Surprisal(
            0, values, bits, none.astype(np.uint8), none.astype(np.float32), np.zeros(n, np.float32), np.arange(n + 1)
        )
    ]


def by_both(lm: CharLM, first: list[bytes], second: list[bytes]) -> list[Surprisal]:
    """The lines of the second half, scored by the mixed predictor after reading the first half."""
    known, text = (b"".join(line + b"\n" for line in part) for part in (first, second))
    mixer = NetworkMixer(len(known) + len(text), lm.alphabet.symbols)
    scorer = Scorer(lm, likeliest=0, mixer=mixer)
    for _ in scorer.feed(known):
        pass
    return list(scorer.feed(text))


def trained(source: Path, out: Path, updates: int) -> Path:
    """The run of a network trained on the first half."""
    folder = out / "model"
    if not (folder / RESULT_FILE).is_file():
        recipe = replace(RECIPE, max_updates=updates)
        data = DataSource(texts=(str(source),), fractions=(0.95, 0.05, 0.0), alphabet="bytes")
        with TrainingView() as view:
            result = train(MODEL, recipe, data, folder, device="cpu", resume="auto", progress=view)
        if result.status == "interrupted":
            raise LogError(f"stopped after update {result.updates:,}; run the same command again to resume")
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="log file with a label at the beginning of each line")
    parser.add_argument("--out", type=Path, default=Path("runs/logs"), help="output folder")
    parser.add_argument("--updates", type=int, default=RECIPE.max_updates, help="of training")
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except FastslowError as error:
        print(f"logs: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    lines, alerts = read_log(options.log)
    half = len(lines) // 2
    first, second, alerts_second = lines[:half], lines[half:], alerts[half:]
    print(
        f"{len(lines):,} lines; {int(alerts[:half].sum())} alerts in the first half, {int(alerts_second.sum())} in the "
        f"second; {options.updates:,} updates of {RECIPE.batch * RECIPE.window:,} characters on one core, then scoring",
        flush=True,
    )
    if options.dry_run:
        return 0
    files.make_folder(options.out)
    for name, part in (("first", first), ("second", second)):
        (options.out / f"{name}.txt").write_bytes(b"".join(line + b"\n" for line in part))
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    for name, score in BASELINES.items():
        rows[name] = area(np.array(score(first, second)), alerts_second)
    models = {"FS-LSTM trained on the first half": trained(options.out / "first.txt", options.out, options.updates)}
    bundled = default_model()
    if bundled is not None:
        models[f"bundled model {DEFAULT}, not trained on logs"] = bundled
    found = {"contexts alone": by_contexts(first, second)}
    for name, folder in models.items():
        lm = CharLM.from_pretrained(folder, device="cpu")
        found[name] = scored(lm, first, second)
        found[f"{name}, mixed with contexts"] = by_both(lm, first, second)
    for name, blocks in found.items():
        lines_of = list(scored_lines(blocks))
        means, peaks = list(line_means(lines_of)), list(line_means(lines_of, STRETCH))
        rows[f"{name}: bits per byte of the line"] = area(np.array([m.mean_bits for m in means]), alerts_second)
        rows[f"{name}: bits of the line"] = area(np.array([m.bits for m in means]), alerts_second)
        rows[f"{name}: bits per byte of its worst {STRETCH} bytes"] = area(
            np.array([m.mean_bits for m in peaks]), alerts_second
        )
    record: dict[str, Any] = {
        "log": options.log.name,
        "lines": len(lines),
        "alerts": [int(alerts[:half].sum()), int(alerts_second.sum())],
        "updates": options.updates,
        "auc": rows,
    }
    write_json(options.out / "auc.json", record)
    text = table(rows)
    (options.out / "auc.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def table(rows: dict[str, float]) -> str:
    """The areas in Markdown, best first."""
    ordered = sorted(rows.items(), key=lambda row: -row[1])
    return "| score of a line | AUC |\n|---|--:|\n" + "".join(f"| {name} | {value:.3f} |\n" for name, value in ordered)


if __name__ == "__main__":
    sys.exit(main())
