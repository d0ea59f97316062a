"""The English model's results: bits per byte on unseen text, compared with its predecessor and other compressors."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.english.corpus import EnglishError, part, validation_kinds
from fastslow import CharLM, codec
from fastslow.cli.common import use_few_threads
from fastslow.codec.models import CodecModel, exact_model
from fastslow.codec.package import rounded
from fastslow.data.stdlib import stdlib_splits
from fastslow.data.text import Text
from fastslow.evaluation import evaluate
from fastslow.lm import files
from fastslow.lm.packaged import DEFAULT
from fastslow.storage import read_json, write_bytes, write_json

BENCH = Path(__file__).parents[2] / "benchmarks" / "codec.py"
RIVALS = ("ppmd I, order 12", "zpaq -m5", "xz -9e", "bzip2 -9")
MODEL, BESIDE = ("model", "model, CRLF"), ("before", "before, CRLF")
"""Results of the model, and of the one it is compared with, unchanged and with CRLF line ends."""
PREDECESSOR = "english-0.1"
"""The bundled model from whose weights this one was trained further."""
ARCHIVE = "archive"
FIGURES = ("static", "archive", "rivals")
SINGLE = 100_000
"""Longer texts are scored as 64 streams."""


def marks(options: argparse.Namespace) -> int:
    lm, _ = rounded(model_of(options), options.bits)
    model = CodecModel(DEFAULT, lm=lm)
    beside = None if options.beside is None else CharLM.from_pretrained(options.beside, device="cpu")
    path = options.out / "marks.json"
    record = opened(path, model)
    files.make_folder(options.out)
    for name, text in mark_texts(options):
        if len(text) > options.limit:
            continue
        row = record["texts"].setdefault(name, described(text))
        if row["sha256"] != described(text)["sha256"]:
            row = record["texts"][name] = described(text)  # measure again
        if "static" in options.figures:
            static(row, lm, text, MODEL)
            if beside is not None:
                static(row, beside, text, BESIDE)
        if "archive" in options.figures and ARCHIVE not in row:
            row[ARCHIVE] = archive_figure(model, text)
        if "rivals" in options.figures:
            row |= {rival: rival_figure(rival, text) for rival in RIVALS if rival not in row}
        bits = {key: value["bits"] for key, value in row.items() if isinstance(value, dict) and "bits" in value}
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in bits.items()), flush=True)
        write_json(path, record)
    if "speed" not in record and record["texts"]:
        record["speed"] = speeds(lm, part(options.data, "valid", options.out).read_bytes())
        write_json(path, record)
    text_of_marks = marks_text(record)
    write_bytes(options.out / "marks.md", text_of_marks.encode())
    print("\n" + text_of_marks)
    return 0


def mark_texts(options: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """Text that the model has not seen, by name."""
    yield "books", part(options.data, "valid", options.out).read_bytes()
    for given in options.text:
        name, _, path = given.rpartition("=")
        if not Path(path).is_file():
            raise EnglishError(f"--text {given}: {path} does not exist; use NAME=FILE")
        yield name or Path(path).name, Path(path).read_bytes()
    test = stdlib_splits().test
    assert test is not None
    yield "Python source, single modules", test.data.tobytes()
    if options.kinds is not None:
        yield from validation_kinds(options.kinds)


def model_of(options: argparse.Namespace) -> CharLM:
    """The run's model, averaged with those of --average; or the given share of it with the rest of the model beside it.

    Runs from one start are often better averaged than alone (Wortsman et al., "Model soups", 2022). A model trained
    further on other text keeps more of what it knew if its weights are moved back a part of the way (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", 2022).
    """
    lm = CharLM.from_pretrained(options.run, device="cpu")
    if options.average:
        runs = [lm.state_dict(), *(CharLM.from_pretrained(run, device="cpu").state_dict() for run in options.average)]
        lm.load_state_dict({name: torch.stack([run[name] for run in runs]).mean(0) for name in runs[0]})
    if options.share < 1.0:
        if options.beside is None:
            raise EnglishError("--share mixes the run's weights with another model's: name that model with --beside")
        other = CharLM.from_pretrained(options.beside, device="cpu").state_dict()
        lm.load_state_dict({name: torch.lerp(other[name], own, options.share) for name, own in lm.state_dict().items()})
    return lm


def described(text: bytes) -> dict[str, Any]:
    return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def opened(path: Path, model: CodecModel) -> dict[str, Any]:
    """The stored results of this model. EnglishError if they belong to another model."""
    name = model.exact().id.hex()
    if path.is_file():
        record: dict[str, Any] = read_json(path, what="the marks")
        if record.get("archive_id") == name:
            return record
        raise EnglishError(f"{path} has the results of another model: remove it, or choose another folder with --out")
    return {"archive_id": name, "parameters": model.lm.num_parameters, "texts": {}}


def static(row: dict[str, Any], lm: CharLM, text: bytes, names: tuple[str, str]) -> None:
    """Bits per byte of the file without learning from it, unchanged and with CRLF line ends."""
    for name, read in zip(names, (text, text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")), strict=True):
        if name not in row:
            result = evaluate(lm, Text.of(read, "text"), streams=1 if len(text) <= SINGLE else 64)
            row[name] = {"bits": result.bpc, "protocol": result.protocol, "seconds": result.seconds}


def archive_figure(model: CodecModel, text: bytes) -> dict[str, Any]:
    """The size of an archive, which is decompressed and compared with the text."""
    archive = io.BytesIO()
    start = time.perf_counter()
    codec.compress_stream(io.BytesIO(text), archive, model)
    middle = time.perf_counter()
    if codec.decompress(archive.getvalue(), model) != text:
        raise SystemExit("the decompressed archive differs from the text")
    end = time.perf_counter()
    size = len(archive.getvalue())
    return {"size": size, "bits": 8 * size / len(text), "pack_s": middle - start, "unpack_s": end - middle}


def rival_figure(name: str, text: bytes) -> dict[str, Any]:
    """The archive of another compressor for the same bytes, without priming."""
    bench = benchmark()
    rival = next(rival for rival in bench.RIVALS if rival.name == name)
    if not bench.available(rival):
        return {"why": f"{rival.needs} is not installed"}
    packed = rival.pack(text)
    if rival.unpack(packed) != text:
        raise SystemExit(f"{name}: the decompressed archive differs from the text")
    return {"size": len(packed), "bits": 8 * len(packed) / len(text)}


def benchmark() -> Any:
    """benchmarks/codec.py, which defines the other compressors."""
    spec = importlib.util.spec_from_file_location("benchmarks_codec", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speeds(lm: CharLM, text: bytes) -> dict[str, float]:
    """Characters per second of one stream, scored and sampled."""
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
    """The tables in Markdown: bits per byte without learning from the text, then whole archives."""
    texts = record["texts"]
    compared = [key for key in (*MODEL, *BESIDE) if any(key in row for row in texts.values())]
    lines = _table(["text", "bytes", *compared], texts, compared, "bits")
    if any(BESIDE[0] in row for row in texts.values()):
        lines += ["", f"*Before*: `{PREDECESSOR}`, of the same size and trained on the same books alone."]
    packed = {name: row for name, row in texts.items() if ARCHIVE in row}
    if packed:
        rivals = [name for name in RIVALS if any("bits" in row.get(name, {}) for row in packed.values())]
        lines += ["", "Whole archives, in bits per byte. The other compressors start without prior knowledge:", ""]
        lines += _table(["text", "bytes", ARCHIVE, *rivals], packed, [ARCHIVE, *rivals], "bits")
    if "speed" in record:
        lines += [
            "",
            "One stream: {score:,.0f} characters per second scored, {sample:,.0f} sampled.".format(**record["speed"]),
        ]
    return "\n".join(lines) + "\n"


def _table(head: list[str], texts: dict[str, Any], keys: list[str], figure: str) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name, row in texts.items():
        found = [f"{row[key][figure]:.3f}" if figure in row.get(key, {}) else "-" for key in keys]
        lines.append(f"| {name} | {row['bytes']:,} | {' | '.join(found)} |")
    return lines


def same_model(record: dict[str, Any], lm: CharLM) -> bool:
    return bool(record.get("archive_id") == exact_model(lm).id.hex())
