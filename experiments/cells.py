#!/usr/bin/env python3
"""FS-LSTM, FS-GRU and a stacked GRU of equal size on Penn Treebank, trained for equal time with several seeds.

    python -m experiments.cells                          Penn Treebank from `fastslow data fetch ptb`
    python -m experiments.cells --data DIR               DIR contains train.txt, valid.txt and test.txt
    ... --minutes 6 --seeds 1 2 3 --out runs/cells --dry-run

The recipe is that of the preset `ptb-cpu`, ended by time. The sizes of the GRU networks are those whose number of
weights is closest to the preset's (about a million), with the same share of slow units. Runs are trained one after the
other, each with PyTorch's default number of threads; complete runs are not repeated. The results are in OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fastslow.data.alphabet import Alphabet
from fastslow.lm.config import ModelOptions
from fastslow.lm.model import parameter_count
from fastslow.training import DataSource, find_preset, train

PRESET = "ptb-cpu"
SYMBOLS = Alphabet(bytes(range(50)))
"""The alphabet size of Penn Treebank, for counting weights."""


def weights(model: ModelOptions) -> int:
    return parameter_count(model.with_alphabet(SYMBOLS))


def nearest(make: Callable[[int], ModelOptions], wanted: int) -> ModelOptions:
    """The network with the closest number of weights."""
    return min((make(size) for size in range(64, 640, 2)), key=lambda model: abs(weights(model) - wanted))


def networks() -> dict[str, ModelOptions]:
    base = find_preset(PRESET).model
    assert base.slow_size is not None
    share, wanted = base.slow_size / base.hidden_size, weights(base)
    gru = replace(base, cell="gru", zoneout_c=0.0)
    stack = replace(gru, architecture="stacked", slow_size=None, depth=2)
    return {
        "FS-LSTM-2": base,
        "FS-GRU-2": nearest(lambda size: replace(gru, hidden_size=size, slow_size=round(share * size)), wanted),
        "stacked GRU-2": nearest(lambda size: replace(stack, hidden_size=size), wanted),
    }


def table(found: dict[str, list[float]], made: dict[str, ModelOptions], minutes: float) -> str:
    lines = ["| network | weights | test BPC | standard deviation | seeds |", "|---|--:|--:|--:|--:|"]
    for name, figures in found.items():
        spread = f"{statistics.stdev(figures):.4f}" if len(figures) > 1 else ""
        mean = f"{statistics.fmean(figures):.4f}" if figures else ""
        lines.append(f"| {name} | {weights(made[name]):,} | {mean} | {spread} | {len(figures)} |")
    return "\n".join([*lines, "", f"Penn Treebank, {minutes:g} minutes each, raw protocol.", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/cells"))
    parser.add_argument("--minutes", type=float, default=6.0, help="minutes of training per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and exit")
    options = parser.parse_args(arguments)
    made = networks()
    for name, model in made.items():
        print(f"{name}: {weights(model):,} weights")
    print(f"{len(made) * len(options.seeds)} runs of {options.minutes:g} minutes and a test each")
    if options.dry_run:
        return 0
    source = DataSource(corpus="ptb", alphabet="text")
    if options.data is not None:
        texts = [str(options.data / f"{part}.txt") for part in ("train", "valid", "test")]
        source = DataSource(texts=(texts[0],), valid=texts[1], test=texts[2], alphabet="text")
    recipe = replace(find_preset(PRESET).train, max_updates=None, max_time=60.0 * options.minutes, anneal_by_time=True)
    found: dict[str, list[float]] = {name: [] for name in made}
    for seed in options.seeds:
        for name, model in made.items():
            out = options.out / f"{name.lower().replace(' ', '-')}-{seed}"
            stored = out / "result.json"
            if stored.exists():
                bpc = float(json.loads(stored.read_text())["test"]["bpc"])
            else:
                result = train(model, replace(recipe, seed=seed), source, out, resume="auto")
                assert result.test is not None
                bpc = result.test.bpc
            found[name].append(bpc)
            print(f"{name}, seed {seed}: {bpc:.4f} bits per character", flush=True)
    text = table(found, made, options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
