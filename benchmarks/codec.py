#!/usr/bin/env python3
"""Compare archive sizes with common compressors on the same data.

    python benchmarks/codec.py --text FILE...                            the bundled model, without priming
    python benchmarks/codec.py --model RUN --text FILE --prime FILE...   other compressors primed with training text
    python benchmarks/codec.py --text FILE... --parts                    also the network and the contexts separately

Without --text: the last 5% of the demo's text. Primed is the size of the text for another compressor after FILE... (the
model's training text): the size of both minus that of the first, or for zlib a preset dictionary. Every archive is
decompressed and compared before a result is printed. Every row runs in its own process, whose peak memory is shown.
Times are CPU times, which depend less on the load of the machine.

The model is needed for decompression, so its size is shown as well: `break-even` is the amount of such text at which
the bytes saved compared with another compressor exceed the size of the model.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import io
import json
import lzma
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastslow.errors import FastslowError


class Rival(NamedTuple):
    """A compressor: its name, its requirement, and functions to compress and decompress."""

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
    """Peak memory of this process and its child processes."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def seconds() -> float:
    """CPU time of this process and its child processes."""
    return sum(os.times()[:4])


def measure_rival(rival: Rival, text: bytes, prime: bytes) -> dict[str, Any]:
    start = seconds()
    packed = rival.pack(text)
    middle = seconds()
    if rival.unpack(packed) != text:
        raise SystemExit(f"{rival.name}: the decompressed archive differs from the text")
    end = seconds()
    row = {"size": len(packed), "pack_s": middle - start, "unpack_s": end - middle, "mb": peak_mb()}
    if prime and rival.name.startswith("gzip"):
        coder = zlib.compressobj(9, zlib.DEFLATED, 31 - 16, zdict=prime[-(1 << 15) :])
        row["primed"] = len(coder.compress(text) + coder.flush())
    elif prime:
        row["primed"] = len(rival.pack(prime + text)) - len(rival.pack(prime))
    return row


OURS = ("fastslow", "contexts alone", "network alone")


def measure_ours(what: str, name: str, text: bytes, lanes: int | None) -> dict[str, Any]:
    """Measure an archive; for the parts, archives without the network, and the code length of the network alone."""
    from fastslow import codec
    from fastslow.codec import plain
    from fastslow.codec.mixed import lanes_for
    from fastslow.codec.models import as_model
    from fastslow.codec.predictor import ExactPredictor

    if what == "network alone":
        start = seconds()
        size = code_length_bytes(ExactPredictor(as_model(name).exact()), text, lanes or lanes_for(len(text)))
        return {"size": size, "pack_s": seconds() - start, "unpack_s": 0.0, "mb": peak_mb()}
    model = None if what == "contexts alone" else as_model(name)
    start = seconds()
    archive = io.BytesIO()
    summary = codec.compress_stream(io.BytesIO(text), archive, model, codec.Options(lanes=lanes))
    middle = seconds()
    if codec.decompress(archive.getvalue(), model) != text:
        raise SystemExit("the decompressed archive differs from the text")
    end = seconds()
    row = {"size": summary.stored, "pack_s": middle - start, "unpack_s": end - middle, "mb": peak_mb()}
    row["kinds"] = {kind: size for kind, size in summary.kinds.items() if size}
    if model is not None and summary.kinds["neural"]:
        row["model"] = len(plain.pack(model.exact().to_bytes()))
    return row


def code_length_bytes(network: Any, text: bytes, lanes: int) -> int:
    """-log2 p of the text under the integer model alone, in bytes: the size with an ideal coder."""
    import numpy as np

    from fastslow.codec.rangecoder import TOTAL
    from fastslow.codec.steps import Layout

    layout, data, bits = Layout(len(text), lanes), np.frombuffer(text, np.uint8), 0.0
    table = np.full(256, -1)
    table[np.frombuffer(network.symbols, np.uint8)] = np.arange(len(network.symbols))
    previous = np.full(lanes, network.start)
    network.begin(lanes)
    for t in range(layout.steps):
        count = layout.active(t)
        symbols = table[data[layout.offsets[:count] + t]]
        known = symbols >= 0
        found = network.frequencies(network.step(previous)[:count])[np.arange(count), np.maximum(symbols, 0)]
        bits += np.where(known, np.log2(TOTAL / found), 18.0).sum()
        previous[:count] = np.where(known, symbols, network.start)
        previous[count:] = network.start
    return round(bits / 8)


# ---------------------------------------------------------------------- the table


def child(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run this script in a separate process, so that memory is measured separately."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(arguments: dict[str, Any]) -> dict[str, Any]:
    text = Path(arguments["text"]).read_bytes()
    if arguments["what"] in OURS:
        import torch

        torch.set_num_threads(1)
        return measure_ours(arguments["what"], arguments["model"], text, arguments["lanes"])
    rival = next(rival for rival in RIVALS if rival.name == arguments["what"])
    return measure_rival(rival, text, Path(arguments["prime"]).read_bytes())


def table(options: argparse.Namespace, name: str, text: bytes, prime: bytes, folder: Path) -> dict[str, Any]:
    (folder / "text").write_bytes(text)
    (folder / "prime").write_bytes(prime)
    primed = f", primed with {len(prime):,}" if prime else ""
    print(f"\n{name}: {len(text):,} bytes{primed}; {platform.processor() or platform.machine()}, one thread\n")
    print(f"{'':<18} {'bytes':>10} {'bits/byte':>9} {'primed':>7} {'kB/s':>9} {'unpack':>9} {'MB':>6}  break-even")
    rows: dict[str, dict[str, Any]] = {}
    ours = OURS if options.parts else OURS[:1]
    for what in (*ours, *(rival.name for rival in RIVALS if options.rivals is None or rival.name in options.rivals)):
        rival = next((rival for rival in RIVALS if rival.name == what), None)
        if rival is not None and not available(rival):
            print(f"{what:<18} {rival.needs} is not installed")
            continue
        arguments = {"what": what, "model": options.model, "lanes": options.lanes}
        row = rows[what] = child(arguments | {"text": str(folder / "text"), "prime": str(folder / "prime")})
        even = ""
        if rival is not None and "model" in rows["fastslow"]:
            saved = row.get("primed", row["size"]) - rows["fastslow"]["size"]
            even = f"{rows['fastslow']['model'] / saved * len(text) / 1e6:,.1f} MB of text" if saved > 0 else "never"
        show(what, row, len(text), even or ", ".join(row.get("kinds", {})))
    return rows


def show(name: str, row: dict[str, Any], length: int, note: str) -> None:
    primed = f"{8 * row['primed'] / length:.3f}" if "primed" in row else "-"
    pack, unpack = (f"{length / 1000 / row[key]:,.1f}" if row[key] > 0.01 else "-" for key in ("pack_s", "unpack_s"))
    print(
        f"{name:<18} {row['size']:10,} {8 * row['size'] / length:9.3f} {primed:>7} {pack:>9} {unpack:>9} "
        f"{row['mb']:6,.0f}  {note}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="english", help="a run or a bundled model (default: english)")
    parser.add_argument("--text", type=Path, nargs="*", help="text files (default: the last 5%% of the demo's text)")
    parser.add_argument("--prime", type=Path, nargs="*", default=[], help="the training text of the model")
    parser.add_argument("--limit", type=int, help="use only this many bytes of each text")
    parser.add_argument("--parts", action="store_true", help="also measure the network and the contexts separately")
    parser.add_argument("--rivals", nargs="*", help=f"only these: {', '.join(rival.name for rival in RIVALS)}")
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(run_child(json.loads(options.child))))
        return 0
    record: dict[str, Any] = {"model": options.model, "texts": {}}
    try:
        texts = the_texts(options)
        prime = b"".join(path.read_bytes() for path in options.prime)
    except (FastslowError, OSError) as error:
        print(f"bench-codec: error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            record["texts"][name] = {"bytes": len(text), "rows": table(options, name, text, prime, Path(folder))}
            if options.json:
                options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def the_texts(options: argparse.Namespace) -> dict[str, bytes]:
    from fastslow.data.stdlib import stdlib_splits

    if options.text:
        return {path.name: path.read_bytes()[: options.limit] for path in options.text}
    test = stdlib_splits().test
    assert test is not None
    return {"the standard library, last 5%": bytes(test.data)[: options.limit]}


if __name__ == "__main__":
    sys.exit(main())
