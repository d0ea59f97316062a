#!/usr/bin/env python3
"""The English model that comes with the package: its pilots, its training, its marks, and its packaging.

    python -m experiments.english texts --data DIR --augment SEED    the training text, written in other ways
    python -m experiments.english pilots --data DIR       short runs of equal time on one core, and their table
    python -m experiments.english pilots --table RUN...              the table of runs that are there
    python -m experiments.english train --data DIR                   the model
    python -m experiments.english marks RUN --data DIR --book FILE   what it is worth, beside other compressors
    python -m experiments.english package RUN --data DIR             into src/fastslow/models/english, with its card

DIR holds train.txt and valid.txt, as they are or as .xz, and books.tsv with the columns gutenberg_id, title, author and
split. Each command says first what it will cost, and stops there with --dry-run. What is complete is not done again,
and training that was stopped goes on, so that a command can be stopped (Ctrl-C) and called again. In OUT:

    corpus/               the texts, unpacked; train-augmented-SEED.txt, if --augment names a seed
    pilot-<name>/         the pilots; pilots.md and pilots.json, their table
    model/                the run of the model
    marks.json, marks.md  its figures, each written when it is measured
"""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import importlib.util
import io
import lzma
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastslow import CharLM, codec, hub
from fastslow.cli.common import use_few_threads
from fastslow.cli.progress import TrainingView
from fastslow.codec.models import CodecModel, exact_model
from fastslow.codec.package import make, rounded
from fastslow.data.alphabet import Alphabet
from fastslow.data.augment import CHANGES, augmented_pieces
from fastslow.data.text import Text
from fastslow.errors import FastslowError
from fastslow.evaluation import evaluate
from fastslow.lm import ModelOptions, files, parameter_count
from fastslow.lm.packaged import CARD_FILE, DEFAULT, models_folder
from fastslow.storage import read_json, write_atomic, write_json
from fastslow.training import DataSource, TrainConfig, train
from fastslow.training.folder import RESULT_FILE, read_metrics, read_record

WEIGHTS = 1_835_520
"""Of every pilot, nearly: what 16 bits each make 3.7 MB of."""
RECIPE = TrainConfig(
    batch=32,
    window=100,
    epochs=1000,
    rate=4e-3,
    schedule="cosine",
    anneal_by_time=True,
    max_time=300.0,
    warmup=200,
    clip=10.0,
    random_offset=True,
    precision="bf16",
    valid_streams=64,
)
BENCH = Path(__file__).parents[1] / "benchmarks" / "codec.py"
RIVALS = ("ppmd I, order 12", "zpaq -m5", "xz -9e", "bzip2 -9")
KINDS = ("static", "exact", "rivals")
TAGS = ("character-level", "byte-level", "language-model", "rnn", "lstm", "fs-lstm")
"""Of the model card."""
SPEEDS = {"static": 10_000.0, "exact": 2_500.0, "rivals": 50_000.0}
"""Bytes a second there and back, for a rough estimate of costs. Short texts, of few lanes, take longer."""


class EnglishError(FastslowError):
    """Something that a command needs and does not find."""


# ---------------------------------------------------------------------- the texts


def corpus(data: Path | None, out: Path, augment: int | None = None) -> dict[str, Path]:
    """The files of the parts train and valid; those that are packed are unpacked in `out`.

    augment: a seed; the training text is then the one that `augmented` makes.
    """
    if data is None:
        raise EnglishError("name the folder of the corpus with --data: it holds train.txt.xz and valid.txt.xz")
    found: dict[str, Path] = {}
    for part in ("train", "valid"):
        plain, packed, target = data / f"{part}.txt", data / f"{part}.txt.xz", out / "corpus" / f"{part}.txt"
        if plain.is_file():
            found[part] = plain
            continue
        if not packed.is_file():
            raise EnglishError(f"{data} holds neither {plain.name} nor {packed.name}")
        if not target.is_file():
            files.make_folder(target.parent)
            with lzma.open(packed) as source:
                write_atomic(target, lambda file, source=source: shutil.copyfileobj(source, file))  # type: ignore[misc]
        found[part] = target
    if augment is not None:
        found["train"] = augmented(found["train"], out, augment)
    return found


def augmented(train: Path, out: Path, seed: int) -> Path:
    """The training text with some of its documents in CRLF, in capitals, and so on: see `data.augment`."""
    target = out / "corpus" / f"train-augmented-{seed}.txt"
    if not target.is_file():
        text = train.read_bytes()
        changed, counts = augmented_pieces(text, seed)
        files.make_folder(target.parent)
        write_atomic(target, lambda file: put(file, changed))
        shares = ", ".join(f"{name} {100 * counts[name] / len(text):.1f}%" for name in CHANGES)
        print(f"{target}: {len(changed):,} bytes of {len(text):,}; changed by {shares}", flush=True)
    return target


def texts(options: argparse.Namespace) -> int:
    if options.dry_run:
        print("a copy of the training text, and minutes")
        return 0
    for part, path in corpus(options.data, options.out, options.augment).items():
        print(f"{part}: {path}, {path.stat().st_size:,} bytes")
    return 0


def source_of(parts: dict[str, Path]) -> DataSource:
    return DataSource(texts=(str(parts["train"]),), valid=str(parts["valid"]), alphabet="bytes")


# ---------------------------------------------------------------------- pilots


class Pilot(NamedTuple):
    """A network of nearly `WEIGHTS` weights, and what of the recipe is otherwise."""

    model: ModelOptions
    changes: dict[str, Any]


def sized(architecture: Any, depth: int, share: float = 0.0) -> ModelOptions:
    """The network with nearly `WEIGHTS` weights; `share`: the slow size in parts of the fast one. Multiples of 8."""

    def model(eighths: int) -> ModelOptions:
        slow = 8 * max(1, round(eighths * share)) if architecture == "fs-lstm" else None
        return ModelOptions(
            architecture=architecture, embedding_size=32, hidden_size=8 * eighths, slow_size=slow, depth=depth
        )

    def away(eighths: int) -> int:
        return parameter_count(model(eighths).with_alphabet(Alphabet.bytes())) - WEIGHTS

    enough = bisect.bisect_left(range(1, 256), 0, key=away) + 1
    return model(min((enough, enough - 1), key=lambda eighths: abs(away(eighths))))


PILOTS: dict[str, Callable[[], Pilot]] = {
    "fs2": lambda: Pilot(sized("fs-lstm", 2, 0.55), {}),
    "fs2-small-slow": lambda: Pilot(sized("fs-lstm", 2, 0.32), {}),
    "fs2-even": lambda: Pilot(sized("fs-lstm", 2, 1.0), {}),
    "fs4": lambda: Pilot(sized("fs-lstm", 4, 0.6), {}),
    "stacked1": lambda: Pilot(sized("stacked", 1), {}),
    "stacked2": lambda: Pilot(sized("stacked", 2), {}),
    "sequential2": lambda: Pilot(sized("sequential", 2), {}),
    "fs2-batch16": lambda: Pilot(sized("fs-lstm", 2, 0.55), {"batch": 16}),
    "fs2-batch64": lambda: Pilot(sized("fs-lstm", 2, 0.55), {"batch": 64}),
    "fs2-window50": lambda: Pilot(sized("fs-lstm", 2, 0.55), {"window": 50}),
    "fs2-window200": lambda: Pilot(sized("fs-lstm", 2, 0.55), {"window": 200}),
}


def pilots(options: argparse.Namespace) -> int:
    if options.table:
        table_of([path for path in options.table if path.is_dir()], options.out)
        return 0
    unknown = [name for name in options.only if name not in PILOTS]
    if unknown:
        raise EnglishError(f"there is no pilot {unknown[0]}; there are {', '.join(PILOTS)}")
    plan = {name: options.out / f"pilot-{name}" for name in options.only or PILOTS}
    left = [name for name, folder in plan.items() if not (folder / RESULT_FILE).is_file()]
    print(
        f"{len(plan)} pilots of {options.minutes:g} minutes on one core, {len(plan) - len(left)} of them complete; "
        f"about {len(left) * (options.minutes + 1.5) / 60:.1f} hours, and {len(left) * 30} MB in {options.out}",
        flush=True,
    )
    if options.dry_run:
        return 0
    data = source_of(corpus(options.data, options.out, options.augment))
    torch.set_num_threads(1)
    for name in left:
        pilot = PILOTS[name]()
        print(f"\n{plan[name]}", flush=True)
        recipe = replace(RECIPE, max_time=options.minutes * 60, seed=options.seed, **pilot.changes)
        if not trained(pilot.model, recipe, data, plan[name]):
            return 130
    table_of([folder for folder in plan.values() if folder.is_dir()], options.out)
    return 0


def trained(model: ModelOptions, recipe: TrainConfig, data: DataSource, folder: Path) -> bool:
    """Train, or go on; whether it is complete."""
    with TrainingView() as view:
        result = train(
            model,
            recipe,
            data,
            folder,
            device="cpu",
            resume="auto",
            progress=view,
            command=f"python -m experiments.english {' '.join(sys.argv[1:2])}".strip(),
        )
    if result.status == "interrupted":
        print(f"stopped after update {result.updates:,} of {folder}; call this again to go on")
    return bool(result.status != "interrupted")


def row_of(folder: Path) -> dict[str, Any]:
    """What a run is, and how far it came: a complete one by its result, another by its last line of metrics."""
    record, config = read_record(folder), files.read_config(folder)
    row: dict[str, Any] = {
        "run": folder.name,
        "network": asdict(record.model),
        "parameters": parameter_count(config),
        "recipe": record.train.to_json(),
        "seed": record.train.seed,
        "complete": (folder / RESULT_FILE).is_file(),
    }
    if row["complete"]:
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


def table_of(folders: Iterable[Path], out: Path) -> None:
    """Print and write the table of runs, best first; those that are not complete last."""
    rows = [row_of(Path(folder)) for folder in folders]
    rows.sort(key=lambda row: (not row["complete"], row["valid_bpc"] or 99.0))
    lines = [
        "| run | network | parameters | batch x window | updates | characters | minutes | valid bits/byte |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        bpc = "-" if row["valid_bpc"] is None else f"{row['valid_bpc']:.4f}"
        lines.append(
            f"| {row['run']} | {network_text(row['network'])} | {row['parameters']:,} | "
            f"{row['recipe']['batch']} x {row['recipe']['window']} | {row['updates']:,} | {row['characters']:,} | "
            f"{row['seconds'] / 60:.1f} | {bpc}{'' if row['complete'] else ' (not complete)'} |"
        )
    files.make_folder(out)
    write_text(out / "pilots.md", "\n".join(lines) + "\n")
    write_json(out / "pilots.json", {"runs": rows})
    print("\n".join(lines))


# ---------------------------------------------------------------------- training


def train_model(options: argparse.Namespace) -> int:
    model = ModelOptions(
        architecture=options.architecture,
        embedding_size=options.embedding,
        hidden_size=options.hidden,
        slow_size=options.slow if options.architecture == "fs-lstm" else None,
        depth=options.depth,
    )
    recipe = replace(
        RECIPE,
        batch=options.batch,
        window=options.window,
        rate=options.rate,
        anneal_from=options.anneal_from,
        warmup=options.warmup,
        average=options.average,
        seed=options.seed,
        max_time=options.minutes * 60,
        validate_every=options.validate_every,
    )
    folder = options.out / "model"
    count = parameter_count(model.with_alphabet(Alphabet.bytes()))
    done = row_of(folder)["seconds"] / 60 if (folder / "run.json").is_file() else 0.0
    print(
        f"{network_text(asdict(model))}, {count:,} weights, {2 * count / 1e6:.1f} MB packaged; "
        f"{options.minutes:g} minutes of this machine's {torch.get_num_threads()} threads, {done:.0f} of them done, "
        f"and {12 * count / 1e6:.0f} MB in {folder}",
        flush=True,
    )
    if options.dry_run:
        return 0
    if (folder / RESULT_FILE).is_file():
        print(f"{folder} is complete")
        return 0
    return 0 if trained(model, recipe, source_of(corpus(options.data, options.out, options.augment)), folder) else 130


# ---------------------------------------------------------------------- marks


def mark_texts(parts: dict[str, Path], book: Path | None) -> dict[str, bytes]:
    """Text the model never saw, by name: pieces as large as files of people's, and the whole."""
    wholes = {"valid": parts["valid"].read_bytes()}
    if book is not None:
        wholes["book"] = book.read_bytes()
    texts: dict[str, bytes] = {}
    for name, whole in wholes.items():
        middle = len(whole) // 3  # past title pages and tables of contents
        texts[f"{name}, 20 kB"] = whole[middle : middle + 20_000]
        texts[f"{name}, 100 kB"] = whole[middle : middle + 100_000]
        texts[f"{name}, first 1 MB"] = whole[:1_000_000]
        texts[f"{name}, whole"] = whole
    return texts


def marks(options: argparse.Namespace) -> int:
    parts = corpus(options.data, options.out)
    texts = {name: text for name, text in mark_texts(parts, options.book).items() if len(text) <= options.limit}
    lm, _ = rounded(CharLM.from_pretrained(options.run, device="cpu"))
    model = CodecModel(DEFAULT, lm=lm)
    path = options.out / "marks.json"
    record = opened(path, model)
    left = [(name, kind) for name in texts for kind in options.kinds if not has(record, name, texts[name], kind)]
    record["texts"] = {name: record["texts"][name] for name in (*texts, *(record["texts"].keys() - texts.keys()))}
    seconds = sum(len(texts[name]) / SPEEDS[kind] for name, kind in left)
    print(
        f"{len(left)} of {len(texts) * len(options.kinds)} figures to measure; very roughly {seconds / 3600:.1f} hours"
    )
    if options.dry_run:
        return 0
    files.make_folder(options.out)
    for name, kind in left:
        row = record["texts"][name]
        for key, value in measured(kind, model, texts[name]).items():
            row[key] = value
            told = f"{value['bits']:.4f} bits a byte" if "bits" in value else value["why"]
            print(f"{name}: {key}: {told}", flush=True)
        write_json(path, record)
    if "speed" not in record and texts:
        record["speed"] = speeds(lm, next(iter(texts.values())))
        write_json(path, record)
    text = marks_text(record)
    write_text(options.out / "marks.md", text)
    print("\n" + text)
    return 0


def opened(path: Path, model: CodecModel) -> dict[str, Any]:
    """The record of this model's marks, as far as it goes. Those of another model are not mixed with it."""
    name = model.exact().id.hex()
    if path.is_file():
        record = read_json(path, what="the marks")
        if record.get("archive_id") == name:
            return record
        raise EnglishError(f"{path} has the marks of another model: take it away, or choose another folder with --out")
    size = sum(weight.numel() * (2 if weight.dim() == 2 else 4) for weight in model.lm.state_dict().values())
    return {"archive_id": name, "parameters": model.lm.num_parameters, "model_bytes": size, "texts": {}}


def has(record: dict[str, Any], name: str, text: bytes, kind: str) -> bool:
    """Whether this figure of this text was measured; a text that has changed is begun anew."""
    told = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    row = record["texts"].setdefault(name, told)
    if row["sha256"] != told["sha256"]:
        row = record["texts"][name] = told
    return all(rival in row for rival in RIVALS) if kind == "rivals" else kind in row


def measured(kind: str, model: CodecModel, text: bytes) -> dict[str, dict[str, Any]]:
    """The figures of a kind, by their names."""
    if kind == "rivals":
        return {name: rival_figure(name, text) for name in RIVALS}
    if kind == "static":
        streams = 1 if len(text) <= 100_000 else 64
        result = evaluate(model.lm, Text.of(text, "text"), streams=streams)
        return {kind: {"bits": result.bpc, "protocol": result.protocol, "seconds": result.seconds}}
    return {kind: archive_figure(model, text)}


def archive_figure(model: CodecModel, text: bytes) -> dict[str, Any]:
    """A real archive, unpacked again and compared."""
    archive = io.BytesIO()
    start = time.perf_counter()
    codec.compress_stream(io.BytesIO(text), archive, model)
    middle = time.perf_counter()
    if codec.decompress(archive.getvalue(), model) != text:
        raise SystemExit("the archive does not give the text back")
    end = time.perf_counter()
    size = len(archive.getvalue())
    return {"size": size, "bits": 8 * size / len(text), "pack_s": middle - start, "unpack_s": end - middle}


def rival_figure(name: str, text: bytes) -> dict[str, Any]:
    """A rival's archive of the same bytes, from nothing."""
    bench = benchmark()
    rival = next(rival for rival in bench.RIVALS if rival.name == name)
    if not bench.available(rival):
        return {"why": f"{rival.needs} is not installed"}
    packed = rival.pack(text)
    if rival.unpack(packed) != text:
        raise SystemExit(f"{name} does not give the text back")
    return {"size": len(packed), "bits": 8 * len(packed) / len(text)}


def benchmark() -> Any:
    """benchmarks/codec.py, which knows the rivals."""
    spec = importlib.util.spec_from_file_location("benchmarks_codec", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speeds(lm: CharLM, text: bytes) -> dict[str, float]:
    """Characters a second of one stream: scored, and sampled."""
    before = torch.get_num_threads()
    use_few_threads(lm)
    try:
        lm.generate(b"The ", 50, seed=1)
        start = time.perf_counter()
        lm.generate(b"The ", 2000, seed=1)
        sampled = 2000 / (time.perf_counter() - start)
        result = evaluate(lm, Text.of(text[:20_000], "text"))
    finally:
        torch.set_num_threads(before)
    return {"score": result.symbols / max(result.seconds, 1e-9), "sample": sampled}


def marks_text(record: dict[str, Any]) -> str:
    """The tables of marks in Markdown: bits a byte; then archives with the model's own size counted."""
    model = record["model_bytes"]
    ours = ("static", "exact")
    rivals = [name for name in RIVALS if any("bits" in row.get(name, {}) for row in record["texts"].values())]
    names = {"static": "code length", "exact": "archive"}
    columns = [*(names[kind] for kind in ours), *rivals]
    lines = [
        "Bits per byte:",
        "",
        f"| text | bytes | {' | '.join(columns)} |",
        "|---" + "|--:" * (len(columns) + 1) + "|",
    ]
    for name, row in record["texts"].items():
        found = [figure(row.get(key, {}), "bits") for key in (*ours, *rivals)]
        lines.append(f"| {name} | {row['bytes']:,} | {' | '.join(found)} |")
    lines += [
        "",
        "*Code length*: the negative logarithm of the model's probabilities. *Archive*: the size of the whole file. "
        "The other compressors start without prior knowledge; `fastslow` needs its model of "
        f"{model:,} bytes, which comes with the package. Sizes in bytes, with the model added to each archive:",
        "",
        f"| text | bytes | archive | archive and model | {' | '.join(rivals)} | break-even |",
        "|---" + "|--:" * (len(rivals) + 4) + "|",
    ]
    for name, row in record["texts"].items():
        if "exact" not in row:
            continue
        size, others = row["exact"]["size"], [row[r]["size"] for r in rivals if "size" in row.get(r, {})]
        saved = min(others) - size if others else None
        even = "-" if saved is None else "never"
        if saved is not None and saved > 0:
            even = f"{model / saved * row['bytes'] / 1e6:,.0f} MB of similar text"
        found = [figure(row.get(rival, {}), "size") for rival in rivals]
        lines.append(f"| {name} | {row['bytes']:,} | {size:,} | {size + model:,} | {' | '.join(found)} | {even} |")
    whole = [row["exact"] | {"bytes": row["bytes"]} for row in record["texts"].values() if "exact" in row]
    if whole:
        widest = max(whole, key=lambda row: row["bytes"])
        lines += [
            "",
            f"Speed: {widest['bytes'] / widest['pack_s'] / 1000:.1f} kB/s compressing and "
            f"{widest['bytes'] / widest['unpack_s'] / 1000:.1f} kB/s decompressing"
            + (
                "; one stream: {score:,.0f} characters per second scored, {sample:,.0f} sampled.".format(
                    **record["speed"]
                )
                if "speed" in record
                else "."
            ),
        ]
    return "\n".join(lines) + "\n"


def figure(value: dict[str, Any], key: str) -> str:
    if key not in value:
        return "-"
    return f"{value[key]:.3f}" if key == "bits" else f"{value[key]:,}"


# ---------------------------------------------------------------------- packaging


def package(options: argparse.Namespace) -> int:
    run = options.run
    lm = CharLM.from_pretrained(run, device="cpu")
    result, weights = rounded(lm)
    size = sum(weight.values.nbytes for weight in weights.values())
    print(f"{result.num_parameters:,} weights of {run} as integers: {size:,} bytes, for {options.to}")
    if options.dry_run:
        return 0
    listed = books(options.data)
    found = None
    marks_file = options.marks or options.out / "marks.json"
    if options.marks is not None or marks_file.is_file():
        found = read_json(marks_file, what="the marks")
        if found.get("archive_id") != exact_model(result).id.hex():
            raise EnglishError(f"{marks_file} has the marks of another model than {run}")
    made = make(result, options.to)
    short = options.pilots or options.out / "pilots.md"
    tried = short.read_text(encoding="utf-8") if options.pilots is not None or short.is_file() else None
    write_text(options.to / CARD_FILE, card(run, listed, found, tried, made.size, made.id.hex()))
    print(f"{made.size:,} bytes; archives name it {made.id.hex()}; its card: {options.to / CARD_FILE}")
    if found is None:
        print("without marks: measure them and package it again")
    return 0


def books(data: Path | None) -> list[dict[str, str]]:
    """The rows of books.tsv."""
    path = None if data is None else data / "books.tsv"
    if path is None or not path.is_file():
        raise EnglishError("the card lists the books: name the folder that holds books.tsv with --data")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for name in ("gutenberg_id", "title", "author", "split"):
        if not rows or rows[0].get(name) is None:
            raise EnglishError(f"{path} has no column {name}")
    return rows


def card(
    run: Path, listed: list[dict[str, str]], found: dict[str, Any] | None, tried: str | None, size: int, name: str
) -> str:
    """The model card, all of it from the run's own files."""
    row, record = row_of(run), read_record(run)
    first = record.sessions[0] if record.sessions else {}
    machine, made_with = first.get("machine", {}), first.get("versions", {})
    train_bytes = (record.data.get("train") or {}).get("bytes", 0)
    valid_bytes = (record.data.get("valid") or {}).get("bytes", 0)
    changed = {
        key: value
        for key, value in row["recipe"].items()
        if value != getattr(TrainConfig(), key) and key not in ("max_time", "log_every", "tensorboard", "epochs")
    }
    commands = list(dict.fromkeys(without_folders(s["command"]) for s in record.sessions if s.get("command")))
    by_split = {split: [book for book in listed if book["split"] == split] for split in ("train", "valid")}
    bpc = (
        "not validated" if row["valid_bpc"] is None else f"{row['valid_bpc']:.4f} bits per byte on the validation text"
    )
    text = f"""A small byte-level language model of English, bundled with `fastslow`: {network_text(row["network"])}, \
{row["parameters"]:,} weights, all 256 byte values in its alphabet. `fastslow score FILE` and `fastslow compress FILE`
use it when no model is named, `fastslow sample english` samples from it, and `CharLM.from_pretrained("english")` loads
it.

## Format

{size:,} bytes: `config.json`, and `model.safetensors` with the weights as 16-bit integers (biases: 32 bits), each
tensor with a power of two as its scale. Compression uses the same integers, so the floating-point model and the one
that codes archives are the same on every machine. Archives identify it by this SHA-256:

    {name}

## Data

{len(by_split["train"])} books for training ({train_bytes:,} bytes) and {len(by_split["valid"])} for validation \
({valid_bytes:,} bytes), from Project Gutenberg, in UTF-8, without Project Gutenberg's headers, one book for each name
of an author in the catalogue. They are listed below. All are in the public domain in the United States.

## Training

{row["updates"]:,} training steps, {row["characters"]:,} characters \
({row["characters"] / max(1, train_bytes):.2f} passes over the text), {row["seconds"] / 3600:.1f} hours on \
{machine.get("processor", "a CPU")} (threads: {machine.get("threads", "?")}); seed {row["seed"]}; {bpc}, before rounding
to integers. The recipe, where it differs from the defaults: \
{", ".join(f"{key} {value}" for key, value in changed.items())}.
Made with {", ".join(f"{key} {value}" for key, value in made_with.items())}, by

{indented(commands)}

## Short runs

Networks of nearly equal size, and other batch sizes and window lengths, each trained for the same time on one core
(`python -m experiments.english pilots`). Such short runs show which network learns fastest, not which is best after a
long training.

{tried.strip() if tried is not None else "Not measured."}

## Results

On text that the model has not seen. `valid` is the validation text above, on which the best weights were chosen; `book`
is War and Peace in English (Project Gutenberg 2600){same_author(by_split["train"])}.

{marks_text(found).rstrip() if found is not None else "Not measured."}

## Limits

- Modern text: the books, and so their language, are of the nineteenth and early twentieth century. Newer words, names
  and styles surprise the model.
- Other languages, source code, logs, tables, markup and binary data are modelled badly: the model needs more bits for
  them than a general-purpose compressor. Train a model of your own for them.
- Facts and meaning: the model has learned spelling, words and some grammar. The text that it generates makes no sense.
- Views of the period: the books have the opinions of their time about peoples, women and religions, which are often
  offensive, and generated text can repeat them.

## Books

{book_list(by_split["train"])}

For validation:

{book_list(by_split["valid"])}
"""
    return hub_card(text, found).markdown(DEFAULT)


def hub_card(text: str, found: dict[str, Any] | None) -> hub.Card:
    """The card with the front matter that the Hugging Face Hub reads; `found`: the record of marks."""
    measured_on = {"valid, whole": "Project Gutenberg, validation books", "book, whole": "War and Peace"}
    texts = {} if found is None else found["texts"]
    bpc = {
        f"{shown}, bytes": round(texts[name]["static"]["bits"], 3)
        for name, shown in measured_on.items()
        if "static" in texts.get(name, {})
    }
    return hub.Card(DEFAULT, text, "apache-2.0", TAGS, bpc or None, language="en")


def same_author(listed: list[dict[str, str]]) -> str:
    """The titles in the training text by the author of War and Peace, whose name is spelled in several ways."""
    titles = [book["title"] for book in listed if "Tolsto" in book["author"]]
    return f"; its author also wrote {', '.join(titles)}, which are in the training text" if titles else ""


def indented(commands: list[str]) -> str:
    return "\n".join(f"    {command}" for command in commands) or "    (the command was not recorded)"


def without_folders(command: str) -> str:
    """A command as one types it anywhere: absolute paths cut to their last name."""
    return re.sub(r"(?<![^\s=])/(?:\S*/)?(\S+)", r"\1", command)


def book_list(listed: list[dict[str, str]]) -> str:
    return "\n".join(f"- {' '.join(b['title'].split())}, {b['author']} ({b['gutenberg_id']})" for b in listed)


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: put(file, text.encode()))


def put(file: Any, data: bytes) -> None:
    file.write(data)


# ---------------------------------------------------------------------- arguments


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], told: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=told, description=told)
        one.set_defaults(run_command=run)
        one.add_argument("--data", type=Path, help="folder of the corpus")
        one.add_argument("--out", type=Path, default=Path("runs/english"), help="folder for everything")
        one.add_argument("--dry-run", action="store_true", help="say what it costs and stop")
        if run in (texts, pilots, train_model):
            one.add_argument(
                "--augment", type=int, metavar="SEED", help="train on text written in several ways: CRLF, capitals, ..."
            )
        return one

    command("texts", texts, "the texts, unpacked and augmented")

    one = command("pilots", pilots, "short runs of equal time on one core: wirings, sizes, batches and windows")
    one.add_argument("--minutes", type=float, default=2.5, help="of each pilot")
    one.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(PILOTS)}")
    one.add_argument("--table", nargs="+", type=Path, metavar="RUN", help="train nothing: the table of these runs")
    one.add_argument("--seed", type=int, default=1)

    one = command("train", train_model, "train the model")
    one.add_argument(
        "--minutes", type=float, default=98.0, help="the schedule ends with them; the default made the box's"
    )
    one.add_argument("--architecture", default="fs-lstm", choices=("fs-lstm", "stacked", "sequential"))
    one.add_argument("--depth", type=int, default=2)
    one.add_argument("--embedding", type=int, default=32)
    one.add_argument("--hidden", type=int, default=352)
    one.add_argument("--slow", type=int, default=192)
    one.add_argument("--batch", type=int, default=RECIPE.batch)
    one.add_argument("--window", type=int, default=RECIPE.window)
    one.add_argument("--rate", type=float, default=RECIPE.rate)
    one.add_argument("--anneal-from", type=float, default=0.4, help="part of the minutes at the full rate")
    one.add_argument("--warmup", type=int, default=500, help="updates")
    one.add_argument("--average", type=float, default=0.999, help="decay of an average of the weights")
    one.add_argument("--validate-every", type=int, default=5000, help="updates")
    one.add_argument("--seed", type=int, default=1)

    one = command("marks", marks, "bits a byte and archives beside other compressors, on text it never saw")
    one.add_argument(
        "run", nargs="?", type=Path, default=Path(DEFAULT), help="run or model (default: the one in the box)"
    )
    one.add_argument("--book", type=Path, help="War and Peace, the whole file")
    one.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    one.add_argument("--limit", type=int, default=1 << 40, help="longer texts are not measured at all")

    one = command("package", package, "put a run's model into the package")
    one.add_argument("run", type=Path, help="the run")
    one.add_argument("--marks", type=Path, help="its figures (default: marks.json in OUT, if it is there)")
    one.add_argument("--pilots", type=Path, help="the table of short runs (default: pilots.md in OUT, if it is there)")
    one.add_argument("--to", type=Path, default=models_folder() / DEFAULT, help="the model's folder")
    return result


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        status: int = options.run_command(options)
        return status
    except FastslowError as error:
        print(f"english: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
