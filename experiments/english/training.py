"""The training of the English model."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from experiments.english.corpus import part, training_text
from fastslow.cli.progress import TrainingView
from fastslow.data.alphabet import Alphabet
from fastslow.lm import ModelOptions, files, parameter_count
from fastslow.storage import read_json
from fastslow.training import DataSource, TrainConfig, train
from fastslow.training.folder import RESULT_FILE, read_metrics, read_record

RECIPE = TrainConfig(
    batch=32,
    window=100,
    epochs=1000,
    max_updates=9000,
    rate=2e-3,
    schedule="cosine",
    warmup=200,
    clip=10.0,
    average=0.998,
    random_offset=True,
    precision="bf16",
    validate_every=3000,
    valid_streams=64,
    test_streams=64,
)


def train_model(options: argparse.Namespace) -> int:
    model = ModelOptions(
        architecture="fs-lstm",
        embedding_size=options.embedding,
        hidden_size=options.hidden,
        slow_size=options.slow,
        depth=options.depth,
    )
    recipe = replace(
        RECIPE,
        batch=options.batch,
        window=options.window,
        rate=options.rate,
        seed=options.seed,
        max_updates=options.updates,
        validate_every=options.validate_every,
    )
    folder = options.out / "model"
    count = parameter_count(model.with_alphabet(Alphabet.bytes()))
    done = row_of(folder)["updates"] if (folder / "run.json").is_file() else 0
    print(
        f"{network_text(asdict(model))}, {count:,} weights; {options.updates:,} training steps of "
        f"{recipe.batch * recipe.window:,} characters on {torch.get_num_threads()} threads, {done:,} of them done; "
        f"{12 * count / 1e6:.0f} MB in {folder}",
        flush=True,
    )
    if options.dry_run:
        return 0
    if (folder / RESULT_FILE).is_file():
        print(f"{folder} is complete")
        return 0
    text = training_text(options.data, options.kinds, options.augment, options.out)
    data = DataSource(texts=(str(text),), valid=str(part(options.data, "valid", options.out)), raw=True)
    with TrainingView() as view:
        result = train(
            model,
            recipe,
            data,
            folder,
            device="cpu",
            resume="auto",
            init_from=options.init_from,
            progress=view,
            command="python -m experiments.english train",
        )
    if result.status == "interrupted":
        print(f"stopped after step {result.updates:,} of {folder}; run the same command to resume")
        return 130
    return 0


def row_of(folder: Path) -> dict[str, Any]:
    """The description and progress of a run, from its result or its last line of metrics."""
    record, config = read_record(folder), files.read_config(folder)
    row: dict[str, Any] = {
        "network": asdict(record.model),
        "parameters": parameter_count(config),
        "recipe": record.train.to_json(),
        "seed": record.train.seed,
    }
    if (folder / RESULT_FILE).is_file():
        result = read_json(folder / RESULT_FILE, what="the result")
        row |= {name: result[name] for name in ("updates", "characters", "seconds")}
        return {**row, "valid_bpc": result["best_bpc"]}
    lines = read_metrics(folder)
    trains = [line for line in lines if line.get("kind") == "train"]
    valids = [line["bpc"] for line in lines if line.get("kind") == "valid"]
    last = trains[-1] if trains else {"update": 0, "seconds": 0.0}
    characters = last["update"] * record.train.batch * record.train.window
    row |= {"updates": last["update"], "characters": characters, "seconds": last["seconds"]}
    return {**row, "valid_bpc": min(valids, default=None)}


def network_text(network: dict[str, Any]) -> str:
    sizes = str(network["hidden_size"]) + (f"/{network['slow_size']}" if network["slow_size"] else "")
    return f"{network['architecture']}-{network['depth']} {sizes}"
