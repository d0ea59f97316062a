"""The codec's C++ built for other machines and with sanitizers: the same payload, and nothing undefined on the way."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastslow.codec.exact.tables import standard_tables
from fastslow.codec.mixed import Reference, encode_block
from fastslow.codec.native import library
from fastslow.compiling import build
from fastslow.mixing import native as mixing

from ..tiny import TEXT
from .test_coder import Fixed

DRIVER = Path(__file__).parent / "driver.cpp"
INCLUDES = [f"-I{path}" for path in (build.SHARED, mixing.CSRC, Path(library.__file__).parent / "csrc")]
LINES = b"12:30:01 disk sda1 ok\r\n12:30:07 disk sda2 ok\n" * 40
NOISE = np.random.default_rng(0).bytes(3000)
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the options are those of x86-64")

CASES: dict[str, tuple[bytes, int, Fixed | None]] = {
    "contexts": (TEXT * 8 + LINES + NOISE + bytes(5000), 1, None),
    "lanes": (TEXT * 8 + LINES, 7, None),
    "network": (TEXT * 3 + LINES + NOISE[:500], 9, Fixed(200, 5, 3e4)),
}


def input_of(name: str, folder: Path) -> Path:
    text, lanes, network = CASES[name]
    steps = -(-len(text) // lanes)
    symbols, start, logits = b"", 0, []
    if network is not None:
        symbols, start = network.symbols, network.start
        table = np.full(256, start)
        table[np.frombuffer(symbols, np.uint8)] = np.arange(len(symbols))
        short, longer = divmod(len(text), lanes)
        network.begin(lanes)
        previous = np.full(lanes, start)
        for t in range(steps):
            logits.append(network.step(previous))
            for lane in range(lanes):
                at = lane * short + min(lane, longer) + t
                previous[lane] = table[text[at]] if t < short + (lane < longer) else start
    tables = standard_tables()
    parts = [np.array([lanes, len(text), len(symbols), start, steps], "<i8").tobytes()]
    parts += [array.tobytes() for array in mixing._arrays()]
    parts += [symbols, tables.exp_coarse.tobytes(), tables.exp_fine.tobytes(), text]
    parts += [np.ascontiguousarray(row, "<i8").tobytes() for row in logits]
    path = folder / f"{name}.input"
    path.write_bytes(b"".join(parts))
    return path


def payloads(program: Path, folder: Path, *runner: str) -> dict[str, str]:
    found = {}
    for name in CASES:
        done = subprocess.run(
            [*runner, str(program), str(input_of(name, folder))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (name, done.returncode, done.stderr[-2000:])
        assert done.stderr == ""
        found[name] = done.stdout.strip()
    return found


def expected() -> dict[str, str]:
    return {
        name: (encode_block(text, network, lanes, 1 << 20) or b"").hex()
        for name, (text, lanes, network) in CASES.items()
    }


def compiled(folder: Path, compiler: str, *options: str) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    program = folder / "driver"
    command = [compiler, "-std=c++17", *options, *INCLUDES, str(DRIVER), "-o", str(program), "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return program


@pytest.mark.slow
@X86
@pytest.mark.parametrize(
    "options",
    [
        ("-O3", "-march=x86-64"),
        ("-O3", "-march=x86-64-v3"),
        ("-O1", "-march=x86-64-v2", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"),
        ("-O0",),
    ],
    ids=["sse2", "avx2", "sanitizers", "unoptimised"],
)
def test_instruction_sets_and_sanitizers(options: tuple[str, ...], tmp_path: Path) -> None:
    assert payloads(compiled(tmp_path, "g++", *options), tmp_path) == expected()


@pytest.mark.slow
def test_64_bit_arm(tmp_path: Path) -> None:
    """Debian: g++-aarch64-linux-gnu and qemu-user."""
    runner = next((name for name in ("qemu-aarch64", "qemu-aarch64-static") if shutil.which(name)), None)
    if runner is None:
        pytest.skip("there is no qemu-aarch64")
    program = compiled(tmp_path, "aarch64-linux-gnu-g++", "-O3", "-static")
    assert payloads(program, tmp_path, runner) == expected()


@pytest.mark.slow
def test_the_reference_writes_the_same(tmp_path: Path) -> None:
    text, lanes, network = b"".join((TEXT[:200], LINES[:300], NOISE[:60])), 3, Fixed(200, 5, 3e4)
    coder = Reference(text, len(text), lanes, network, decodes=False)
    coder.run(0, -(-len(text) // lanes))
    assert coder.finish() == encode_block(text, network, lanes, 1 << 20)
