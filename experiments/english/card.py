"""The English model's folder in the package, and its card."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from experiments.english.corpus import EnglishError, books, sources
from experiments.english.marks import MODEL, PREDECESSOR, marks_text, model_of, same_model
from experiments.english.training import network_text, row_of
from fastslow import hub
from fastslow.codec.package import make, rounded
from fastslow.lm import files, parameter_count
from fastslow.lm.packaged import CARD_FILE, DEFAULT, packaged
from fastslow.storage import read_json, write_bytes
from fastslow.training import TrainConfig
from fastslow.training.folder import RUN_FILE, read_record

STARTS = {
    PREDECESSOR: f"the weights of `{PREDECESSOR}`",
    DEFAULT: "the `english` of archive id be40563d, which had been trained from `english-0.1` on such text "
    "(51,200,000 characters on two cores; runs averaged)",
}
"""What a run started from, by the name of the model."""
TAGS = ("character-level", "byte-level", "language-model", "rnn", "lstm", "fs-lstm")
RECIPE_APART = ("max_time", "log_every", "tensorboard", "epochs", "checkpoint_seconds", "validate_every")
"""Options of a run that have no part in its result, or are stated elsewhere."""


def package(options: argparse.Namespace) -> int:
    run = options.run
    result, weights = rounded(model_of(options), options.bits)
    size = sum(weight.values.nbytes for weight in weights.values())
    print(f"{result.num_parameters:,} weights of {run} in {options.bits} bits: {size:,} bytes, written to {options.to}")
    if options.dry_run:
        return 0
    listed, others = books(options.data), sources(options.kinds)
    found = None
    marks_file = options.marks or options.out / "marks.json"
    if options.marks is not None or marks_file.is_file():
        found = read_json(marks_file, what="the marks")
        if not same_model(found, result):
            raise EnglishError(f"{marks_file} contains the results of a model other than {run}")
    made = make(result, options.to, options.bits)
    text = card(
        options.to.name,
        run,
        options.average,
        options.share,
        options.bits,
        listed,
        others,
        found,
        made.size,
        made.id.hex(),
    )
    write_bytes(options.to / CARD_FILE, text.encode())
    print(f"{made.size:,} bytes; archive id {made.id.hex()}; model card: {options.to / CARD_FILE}")
    if found is None:
        print("no results: run `marks`, then `package` again")
    return 0


def card(
    model: str,
    run: Path,
    average: list[Path],
    share: float,
    bits: int,
    listed: list[dict[str, str]],
    others: list[dict[str, Any]],
    found: dict[str, Any] | None,
    size: int,
    name: str,
) -> str:
    """The card of the model of this name, generated from the run's files."""
    row, record = row_of(run), read_record(run)
    first = record.sessions[0] if record.sessions else {}
    machine, made_with = first.get("machine", {}), first.get("versions", {})
    train_bytes = (record.data.get("train") or {}).get("bytes", 0)
    valid_bytes = (record.data.get("valid") or {}).get("bytes", 0)
    changed = {
        key: value
        for key, value in row["recipe"].items()
        if value != getattr(TrainConfig(), key) and key not in RECIPE_APART
    }
    commands = list(dict.fromkeys(without_folders(s["command"]) for s in record.sessions if s.get("command")))
    by_split = {split: [book for book in listed if book["split"] == split] for split in ("train", "valid")}
    bpc = (
        "not validated"
        if row["valid_bpc"] is None
        else f"{row['valid_bpc']:.4f} bits per byte on the validation books before rounding"
    )
    start = (
        "" if record.init_from is None else f" The run started from {STARTS.get(record.init_from, record.init_from)}."
    )
    box = None if record.init_from is None else packaged(record.init_from)
    if box is not None and parameter_count(files.read_config(box)) < row["parameters"]:
        start = f"{start[:-1]}, its sizes multiplied without a change of its function (Net2Net)."
    if average:
        seeds = [str(row_of(other)["seed"]) for other in average if (other / RUN_FILE).is_file()]
        parts = [f"{len(seeds)} further run{'s' * (len(seeds) > 1)} (seed {', '.join(seeds)})"] * bool(seeds)
        parts += ["what it started from"] * (len(seeds) < len(average))
        start += f" Its weights are averaged with those of {' and of '.join(parts)}."
    if share < 1.0:
        start += (
            f" {'This average' if average else 'The run'} has a share of {share:g} in the model and `{PREDECESSOR}` "
            f"one of {1 - share:g}: a compromise between the books and the new kinds of text."
        )
    used = (
        "`fastslow score FILE` and `fastslow compress FILE`\nuse it when no model is named"
        if model == DEFAULT
        else f"`fastslow score FILE --model {model}` and\n`fastslow compress FILE --model {model}` use it"
    )
    text = f"""A {"small " if model == DEFAULT else ""}byte-level language model of English, bundled with `fastslow`: \
{network_text(row["network"])}, {row["parameters"]:,} weights, all 256 byte values in its alphabet. {used}, \
`fastslow sample {model}` samples from it, and
`CharLM.from_pretrained("{model}")` loads it.

## Format

{size:,} bytes: `config.json`, and `model.safetensors` with the weights as {bits}-bit integers (biases: 32 bits), each
{"tensor" if bits == 16 else "row of a matrix"} with a power of two as its scale. Compression uses the same integers:
the floating-point model and the one that codes archives are the same on every machine. Archives identify it by this
SHA-256:

    {name}

## Data

{train_bytes:,} bytes for training. {len(by_split["train"])} books from Project Gutenberg, in UTF-8, without Project
Gutenberg's headers, one book for each name of an author in the catalogue. They are listed below. All are in the public
domain in the United States. For validation, {len(by_split["valid"])} other books ({valid_bytes:,} bytes).

{kinds_text(others)}

## Training

{row["updates"]:,} training steps, {row["characters"]:,} characters \
({row["characters"] / max(1, train_bytes):.2f} passes over the text), {row["seconds"] / 3600:.1f} hours on \
{machine.get("processor", "a CPU")} (threads: {machine.get("threads", "?")}); seed {row["seed"]}; {bpc}.{start}
The recipe, where it differs from the defaults: {", ".join(f"{key} {value}" for key, value in changed.items())}.
Made with {", ".join(f"{key} {value}" for key, value in made_with.items())}, by

{indented(commands)}

## Results

Bits per byte on text that the model has not seen. *Model*: the negative base-2 logarithm of its probabilities, without
learning from the text. *CRLF*: the same text with CRLF line ends, per byte of that file. *Books* is the validation text
above{same_author(by_split["train"])}.

{marks_text(found).rstrip() if found is not None else "Not measured."}

## Limits

- Modern text: the books, and so their language, are of the nineteenth and early twentieth century. Newer words, names
  and styles surprise the model.
- Other languages and binary data are modelled badly. Source code, logs, tables and markup have only a small share in
  the training text. Train a model of your own for them.
- Facts and meaning: the model has learned spelling, words and some grammar. The text that it generates makes no sense.
- Views of the period: the books have the opinions of their time about peoples, women and religions, which are often
  offensive, and generated text can repeat them.

## Books

{book_list(by_split["train"])}

For validation:

{book_list(by_split["valid"])}
"""
    return hub_card(model, text, found).markdown(model)


def kinds_text(others: list[dict[str, Any]]) -> str:
    """The other kinds of text: a table of their sources, with licences."""
    if not others:
        return ""
    lines = [
        "Other kinds of text, from free software (`python -m experiments.kinds`); one document in twenty is kept for",
        "validation:",
        "",
        "| kind | source | licence | documents | bytes |",
        "|---|---|---|--:|--:|",
    ]
    lines += [
        f"| {row['kind']} | {row['source']} | {row['licence']} | {row['documents']:,} | {row['bytes']:,} |"
        for row in others
    ]
    lines += [
        "",
        "Some of the text was rewritten (`fastslow.data.augment`): with CRLF line ends, in capitals, with tabs, with",
        "other quotation marks, or with each paragraph on one line.",
    ]
    return "\n".join(lines)


def hub_card(model: str, text: str, found: dict[str, Any] | None) -> hub.Card:
    """The card with the front matter that the Hugging Face Hub reads; `found`: the record of marks."""
    measured_on = {"books": "Project Gutenberg, validation books", "War and Peace": "War and Peace"}
    texts = {} if found is None else found["texts"]
    bpc = {
        f"{shown}, bytes": round(texts[name][MODEL[0]]["bits"], 3)
        for name, shown in measured_on.items()
        if MODEL[0] in texts.get(name, {})
    }
    return hub.Card(model, text, "apache-2.0", TAGS, bpc or None, language="en")


def same_author(listed: list[dict[str, str]]) -> str:
    """The titles in the training text by the author of War and Peace, whose name has several spellings."""
    titles = [book["title"] for book in listed if "Tolsto" in book["author"]]
    return f"; the author of *War and Peace* also wrote {', '.join(titles)}, in the training text" if titles else ""


def indented(commands: list[str]) -> str:
    return "\n".join(f"    {command}" for command in commands) or "    (the command was not recorded)"


def without_folders(command: str) -> str:
    """The command with absolute paths shortened to their last part."""
    return re.sub(r"(?<![^\s=])/(?:\S*/)?(\S+)", r"\1", command)


def book_list(listed: list[dict[str, str]]) -> str:
    return "\n".join(f"- {' '.join(b['title'].split())}, {b['author']} ({b['gutenberg_id']})" for b in listed)
