#!/usr/bin/env python3
"""Archives against the usual compressors, on the same bytes and with the same prior knowledge.

    python benchmarks/codec.py                                      the newest run, on the demo's text
    python benchmarks/codec.py --model RUN --text FILE --prime FILE...

Each rival compresses the text from nothing, and primed: what the text costs after FILE... (the model's training text),
which is the size of both less that of the first, or for zlib a preset dictionary. Every archive is unpacked again and
compared before a figure is printed. Every row runs in a process of its own, whose peak memory is shown. Then the speed
of exact and float numerics at 7.2M and 1.8M parameters (random weights: speed does not depend on them), the better of
two runs; seconds of processor time are those of all threads together.

The model is needed to unpack, so its size stands beside its figures: `break-even` is how much text it takes before the
bytes saved against that rival exceed the model's.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import io
import json
import lzma
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastslow.errors import FastslowError


class Rival(NamedTuple):
    """A compressor: how it is called, what it needs, and how it packs and unpacks."""

    name: str
    needs: str
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]


def _zstd(data: bytes, *options: str) -> bytes:
    command = ["zstd", "-q", "-c", "-T1", "--long=27", *options]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def _brotli(data: bytes, unpack: bool = False) -> bytes:
    import brotli

    return bytes(brotli.decompress(data) if unpack else brotli.compress(data, quality=11, lgwin=24))


def _ppmd(data: bytes, unpack: bool = False) -> bytes:
    import pyppmd

    options = {"max_order": 12, "mem_size": 1 << 30, "variant": "I"}
    return bytes(pyppmd.decompress(data, **options) if unpack else pyppmd.compress(data, **options))


def _zpaq(data: bytes, unpack: bool = False) -> bytes:
    import zpaq

    return bytes(zpaq.decompress(data) if unpack else zpaq.compress(data, 5, 1))


RIVALS = (
    Rival("gzip -9", "", lambda data: zlib.compress(data, 9, 31), lambda data: zlib.decompress(data, 31)),
    Rival("bzip2 -9", "", lambda data: bz2.compress(data, 9), bz2.decompress),
    Rival("xz -9e", "", lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    Rival("zstd --ultra -22", "zstd", lambda data: _zstd(data, "--ultra", "-22"), lambda data: _zstd(data, "-d")),
    Rival("brotli 11", "brotli", _brotli, lambda data: _brotli(data, True)),
    Rival("ppmd I, order 12", "pyppmd", _ppmd, lambda data: _ppmd(data, True)),
    Rival("zpaq -m5", "zpaq", _zpaq, lambda data: _zpaq(data, True)),
)


def available(rival: Rival) -> bool:
    if rival.needs == "zstd":
        return shutil.which("zstd") is not None
    return not rival.needs or importlib.util.find_spec(rival.needs) is not None


def peak_mb() -> float:
    """Of this process and of those it waited for."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def measure_rival(rival: Rival, text: bytes, prime: bytes) -> dict[str, Any]:
    start = time.perf_counter()
    packed = rival.pack(text)
    middle = time.perf_counter()
    if rival.unpack(packed) != text:
        raise SystemExit(f"{rival.name} does not give the text back")
    end = time.perf_counter()
    row = {"size": len(packed), "pack_s": middle - start, "unpack_s": end - middle, "mb": peak_mb()}
    if prime and rival.name.startswith("gzip"):
        coder = zlib.compressobj(9, zlib.DEFLATED, 31 - 16, zdict=prime[-(1 << 15) :])
        row["primed"] = len(coder.compress(text) + coder.flush())
    elif prime:
        row["primed"] = len(rival.pack(prime + text)) - len(rival.pack(prime))
    return row


def measure_model(name: str, mode: str, text: bytes, lanes: int | None, learning: dict[str, Any]) -> dict[str, Any]:
    from fastslow import codec
    from fastslow.codec import plain
    from fastslow.codec.container import Mode
    from fastslow.codec.models import as_model

    model = as_model(name)
    kind = Mode[mode.upper()]
    options: dict[str, Any] = {"lanes": lanes}
    if learning and mode == "adapt":
        options["learning"] = codec.Learning(**learning)
    settings = codec.Options(mode=kind, **options)
    start = time.perf_counter()
    archive = io.BytesIO()
    codec.compress_stream(io.BytesIO(text), archive, model, settings)
    middle = time.perf_counter()
    if codec.decompress(archive.getvalue(), model) != text:
        raise SystemExit(f"{mode} mode does not give the text back")
    end = time.perf_counter()
    serial = model.serial(Mode.EXACT if kind == Mode.EXACT else kind)
    return {
        "size": len(archive.getvalue()),
        "pack_s": middle - start,
        "unpack_s": end - middle,
        "mb": peak_mb(),
        "model": len(plain.pack(serial)),
        "code_length": code_length_bytes(model, text, settings.lanes_of(len(text))),
        "lanes": settings.lanes_of(len(text)),
    }


def code_length_bytes(model: Any, text: bytes, lanes: int) -> float:
    """-log2 p of the text under the float model at the same lanes, in bytes: what a perfect coder would need."""
    import numpy as np
    import torch

    from fastslow.codec.exact.quantise import start_symbol

    lm, symbols = model.lm, model.lm.alphabet.symbols
    known = np.frombuffer(text, np.uint8)
    table = np.full(256, start_symbol(symbols))
    table[np.frombuffer(symbols, np.uint8)] = np.arange(len(symbols))
    short, longer = divmod(len(text), lanes)
    nats, at = 0.0, 0
    steps = short + (longer > 0)
    block = np.full((steps + 1, lanes), start_symbol(symbols))
    real = np.zeros((steps, lanes), dtype=bool)
    for lane in range(lanes):
        size = short + (lane < longer)
        block[1 : size + 1, lane] = table[known[at : at + size]]
        real[:size, lane] = True
        at += size
    tokens, state = torch.from_numpy(block), None
    with torch.inference_mode():
        for first in range(0, steps, 64):
            last = min(steps, first + 64)
            result = lm.token_nats(tokens[first:last], tokens[first + 1 : last + 1], state)
            state = result.state
            nats += float(result.nats.double()[torch.from_numpy(real[first:last])].sum())
    return nats / np.log(2) / 8


def speed_model(size: str) -> Any:
    """An untrained `CharLM`: the paper's PTB FS-LSTM-2, or a fourth of it over all bytes."""
    import torch

    from fastslow import CharLM
    from fastslow.data.alphabet import Alphabet
    from fastslow.lm.config import ModelOptions
    from fastslow.training import find_preset

    torch.manual_seed(0)
    if size == "7.2M":
        return CharLM(find_preset("ptb-fs-lstm-2").model.with_alphabet(Alphabet(bytes(range(50)))))
    return CharLM(ModelOptions(embedding_size=32, hidden_size=352, slow_size=192).with_alphabet(Alphabet.bytes()))


def measure_speed(size: str, mode: str, lanes: int, steps: int) -> dict[str, Any]:
    """Encode and decode one block with random weights."""
    import torch

    from fastslow.codec.blocks import Predictor, decode_block, encode_block
    from fastslow.codec.exact.predictor import ExactPredictor
    from fastslow.codec.floating import FloatPredictor
    from fastslow.codec.models import CodecModel

    lm = speed_model(size)
    predictor: Predictor = ExactPredictor(CodecModel("", lm=lm).exact()) if mode == "exact" else FloatPredictor(lm)
    text = bytes(torch.randint(len(lm.alphabet), (lanes * steps,), dtype=torch.uint8).tolist())
    encode_block(text[: 4 * lanes], predictor, lanes, 0, 1 << 30)
    kb = len(text) / 1000
    row = {"encode": 0.0, "decode": 0.0, "encode_cpu": 1e9, "decode_cpu": 1e9}
    for _ in range(2):
        times = [(time.perf_counter(), time.process_time())]
        payload = encode_block(text, predictor, lanes, 0, 1 << 30)
        times.append((time.perf_counter(), time.process_time()))
        if payload is None or decode_block(payload, len(text), predictor, lanes, 0) != text:
            raise SystemExit("the block does not give the text back")
        times.append((time.perf_counter(), time.process_time()))
        for what, before, after in zip(("encode", "decode"), times, times[1:], strict=False):
            row[what] = max(row[what], kb / (after[0] - before[0]))
            row[f"{what}_cpu"] = min(row[f"{what}_cpu"], (after[1] - before[1]) / kb * 1000)
    return row | {"mb": peak_mb(), "weights": lm.num_parameters}


# ---------------------------------------------------------------------- the table


def child(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same script in a process of its own, so that memory is counted apart."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments["what"] == "speed":
        return measure_speed(arguments["size"], arguments["mode"], arguments["lanes"], arguments["steps"])
    text = Path(arguments["text"]).read_bytes()
    if arguments["what"] == "model":
        return measure_model(arguments["model"], arguments["mode"], text, arguments["lanes"], arguments["learning"])
    rival = next(rival for rival in RIVALS if rival.name == arguments["rival"])
    return measure_rival(rival, text, Path(arguments["prime"]).read_bytes())


def table(options: argparse.Namespace, text: bytes, prime: bytes, folder: Path) -> dict[str, Any]:
    (folder / "text").write_bytes(text)
    (folder / "prime").write_bytes(prime)
    files = {"text": str(folder / "text"), "prime": str(folder / "prime")}
    print(f"{len(text):,} bytes of text, primed with {len(prime):,}; {platform.processor() or platform.machine()}\n")
    print(f"{'':<18} {'bytes':>10} {'bits/byte':>9} {'primed':>7} {'kB/s':>7} {'unpack':>7} {'MB':>6}  break-even")
    rows: dict[str, dict[str, Any]] = {}
    learning = {key: value for key in ("rate", "window", "decay") if (value := getattr(options, key)) is not None}
    for mode in options.modes:
        arguments = {
            "what": "model",
            "mode": mode,
            "model": options.model,
            "lanes": options.lanes,
            "learning": learning,
        }
        rows[mode] = child(arguments | files)
        show(f"fastslow {mode}", rows[mode], len(text), "")
    best = min(rows.values(), key=lambda row: row["size"]) if rows else None
    for rival in RIVALS:
        if not available(rival):
            print(f"{rival.name:<18} {rival.needs} is not installed")
            continue
        row = rows[rival.name] = child({"what": "rival", "rival": rival.name} | files)
        against = row.get("primed", row["size"])
        saved = against - best["size"] if best else 0
        even = f"{best['model'] / saved * len(text) / 1e6:,.1f} MB of text" if best and saved > 0 else "never"
        show(rival.name, row, len(text), even)
    for mode in options.modes:
        row = rows[mode]
        excess = row["size"] - row["code_length"]
        bound = 0.001 * row["code_length"] + 256
        verdict = "" if mode == "adapt" else f" (allowed: {bound:,.0f})"
        print(
            f"\nfastslow {mode}: {row['lanes']} lanes, model {row['model']:,} bytes; the float model's own code length "
            f"{row['code_length']:,.0f} bytes, {8 * row['code_length'] / len(text):.4f} bits/byte; "
            f"the archive has {excess:+,.0f}{verdict}"
        )
    return rows


def show(name: str, row: dict[str, Any], length: int, even: str) -> None:
    primed = f"{8 * row['primed'] / length:.3f}" if "primed" in row else "-"
    pack, unpack = (length / 1000 / max(row[key], 1e-9) for key in ("pack_s", "unpack_s"))
    print(
        f"{name:<18} {row['size']:10,} {8 * row['size'] / length:9.3f} {primed:>7} {pack:7,.1f} {unpack:7,.1f} "
        f"{row['mb']:6,.0f}  {even}",
        flush=True,
    )


def speeds(options: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"{'parameters':<12} {'numerics':<8} {'lanes':>5} {'encode kB/s':>12} {'CPU s/MB':>9} ", end="")
    print(f"{'decode kB/s':>12} {'CPU s/MB':>9} {'MB':>6}")
    rows = []
    for size in ("7.2M", "1.8M"):
        for mode in ("exact", "float"):
            for lanes in options.speed_lanes:
                arguments = {"what": "speed", "size": size, "mode": mode, "lanes": lanes, "steps": options.steps}
                row = child(arguments)
                rows.append(row | {"size": size, "mode": mode, "lanes": lanes})
                print(
                    f"{size:<12} {mode:<8} {lanes:5} {row['encode']:12.2f} {row['encode_cpu']:9.1f} "
                    f"{row['decode']:12.2f} {row['decode_cpu']:9.1f} {row['mb']:6,.0f}",
                    flush=True,
                )
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the run (default: the newest in runs/)")
    parser.add_argument("--text", type=Path, help="what to compress (default: the last 5%% of the demo's text)")
    parser.add_argument("--prime", type=Path, nargs="*", help="what the model was trained on (default: the demo's)")
    parser.add_argument("--limit", type=int, help="take only so many bytes of the text")
    parser.add_argument("--modes", nargs="*", default=["exact", "float", "adapt"])
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--rate", type=float, help="of --adapt")
    parser.add_argument("--window", type=int, help="of --adapt")
    parser.add_argument("--decay", type=float, help="of --adapt")
    parser.add_argument("--speed-lanes", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--steps", type=int, default=60, help="of the measurement of speed")
    parser.add_argument("--speed-only", action="store_true", help="compress no text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(run_child(json.loads(options.child))))
        return 0
    record: dict[str, Any] = {}
    if not options.speed_only:
        try:
            text, prime = the_texts(options)
        except (FastslowError, OSError) as error:
            print(f"bench-codec: error: {error}", file=sys.stderr)
            return 2
        with tempfile.TemporaryDirectory() as folder:
            rows = table(options, text, prime, Path(folder))
        record = {"text": len(text), "prime": len(prime), "model": options.model, "rows": rows}
    if record and options.speed_lanes:
        print()
    record["speed"] = speeds(options) if options.speed_lanes else []
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def the_texts(options: argparse.Namespace) -> tuple[bytes, bytes]:
    """The text and what to prime with; the model's name is filled in."""
    from fastslow.cli.common import newest_run
    from fastslow.data.stdlib import stdlib_splits

    if options.modes and options.model is None:
        options.model = str(newest_run())
    if options.text is not None:
        text = options.text.read_bytes()
        prime = b"".join(path.read_bytes() for path in options.prime or ())
    else:
        splits = stdlib_splits()
        assert splits.valid is not None and splits.test is not None  # noqa: PT018
        text = bytes(splits.test.data)
        prime = bytes(splits.train.data) + bytes(splits.valid.data)
    return text[: options.limit], prime


if __name__ == "__main__":
    sys.exit(main())
