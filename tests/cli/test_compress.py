"""`fastslow compress` and `fastslow decompress`: the manners of gzip and zstd."""

from __future__ import annotations

import io
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastslow import codec
from fastslow.cli import main
from fastslow.cli.compress import compress as compress_command
from tests.codec.tiny import TEXT, predicted_text, tiny_model
from tests.interrupts import interruptible

MODEL = tiny_model(hidden=5, slow=4)
DATA = predicted_text(MODEL, 400)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text and a model, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(DATA)
    codec.export_model(MODEL, tmp_path / "model")
    return tmp_path


def fs(*arguments: str) -> int:
    return main(["compress", "--model", "model", "--lanes", "20", *arguments])


def un(*arguments: str) -> int:
    return main(["decompress", "--model", "model", *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_there_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("a.txt") == 0
    assert (here / "a.txt").read_bytes() == DATA
    assert (here / "a.txt.fsz").stat().st_size < len(DATA) + 200
    (here / "a.txt").unlink()
    assert un("a.txt.fsz") == 0
    assert (here / "a.txt").read_bytes() == DATA
    assert capsys.readouterr() == ("", "")
    assert parts(here) == []


def test_times_and_mode_are_kept(here: Path) -> None:
    os.chmod(here / "a.txt", 0o640)
    os.utime(here / "a.txt", ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    assert fs("a.txt") == 0
    (here / "a.txt").unlink()
    assert un("a.txt.fsz") == 0
    for name in ("a.txt", "a.txt.fsz"):
        found = (here / name).stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert found.st_mtime_ns == 1_400_000_000_987_654_321


def test_nothing_is_overwritten_without_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.txt.fsz").write_bytes(b"precious")
    assert fs("a.txt") == 2
    assert (here / "a.txt.fsz").read_bytes() == b"precious"
    assert "a.txt.fsz exists and was not overwritten (-f overwrites it)" in capsys.readouterr().err
    assert fs("-q", "a.txt") == 2
    assert capsys.readouterr().err == ""
    assert fs("-f", "a.txt") == 0
    assert un("a.txt.fsz") == 2
    (here / "a.txt").write_bytes(b"changed")
    assert un("-f", "a.txt.fsz") == 0
    assert (here / "a.txt").read_bytes() == DATA


def test_rm_removes_what_is_safely_stored_and_only_that(here: Path) -> None:
    assert fs("--rm", "a.txt") == 0
    assert not (here / "a.txt").exists()
    assert un("--rm", "a.txt.fsz") == 0
    assert not (here / "a.txt.fsz").exists()
    assert (here / "a.txt").read_bytes() == DATA
    (here / "a.txt.fsz").write_bytes(b"damaged")
    assert un("-f", "--rm", "a.txt.fsz") == 1
    assert (here / "a.txt.fsz").exists()
    assert (here / "a.txt").read_bytes() == DATA


def test_several_files_go_on_after_an_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "b.txt").write_bytes(b"")
    (here / "folder").mkdir()
    assert fs("a.txt", "missing", "folder", "b.txt") == 1
    said = capsys.readouterr().err
    assert "fastslow: error: cannot read missing: no such file or directory" in said
    assert "fastslow: folder is a folder: skipped" in said
    assert (here / "a.txt.fsz").exists()
    assert (here / "b.txt.fsz").exists()
    assert fs("-f", "folder", "b.txt") == 2
    assert un("-c", "b.txt.fsz") == 0


def test_suffixes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("-S", ".small", "a.txt") == 0
    assert (here / "a.txt.small").exists()
    assert un("-f", "a.txt.small") == 2
    assert "does not end in .fsz" in capsys.readouterr().err
    assert un("-f", "-S", ".small", "a.txt.small") == 0
    assert fs("-S", ".small", "a.txt.small") == 2
    assert "already ends in .small" in capsys.readouterr().err
    assert fs("-S", "a/b", "a.txt") == 2
    assert "--suffix must be the end of a file name" in capsys.readouterr().err


def test_output_names_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("a.txt", "-o", "x") == 0
    assert un("x", "-o", "y") == 0
    assert (here / "y").read_bytes() == DATA
    assert fs("a.txt", "x", "-o", "z") == 2
    assert "--output takes a single input file" in capsys.readouterr().err
    assert fs("a.txt", "-f", "-o", "a.txt") == 1
    assert "is both input and output" in capsys.readouterr().err
    assert (here / "a.txt").read_bytes() == DATA
    assert fs("a.txt", "-o", "no/folder") == 1
    assert "cannot write no/folder: no such file or directory" in capsys.readouterr().err


def test_pipes(here: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    standard_input(monkeypatch, DATA)
    assert fs() == 0
    archive = capsysbinary.readouterr().out
    assert archive == codec.compress(DATA, codec.CodecModel("model", exact=MODEL), lanes=20)
    standard_input(monkeypatch, archive)
    assert fs("-dc", "-") == 0
    assert capsysbinary.readouterr().out == DATA
    assert fs("-c", "a.txt") == 0
    assert capsysbinary.readouterr().out == archive
    assert fs("-kc", "a.txt") == 0


def test_no_archive_is_written_to_a_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.TextIOWrapper(Terminal())
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fs("-c", "a.txt") == 1
    assert "not written to a terminal" in capsys.readouterr().err
    assert fs("-cf", "a.txt") == 0
    assert terminal.buffer.getvalue()[:4] == b"\x89FSZ"  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal()))
    assert un("-") == 1
    assert "not read from a terminal" in capsys.readouterr().err


def test_test_says_what_is_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("a.txt") == 0
    whole = (here / "a.txt.fsz").read_bytes()
    assert un("-tv", "a.txt.fsz") == 0
    assert capsys.readouterr().err == "fastslow: a.txt.fsz: OK\n"
    (here / "a.txt.fsz").write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    assert fs("-t", "a.txt.fsz") == 1
    assert capsys.readouterr().err.startswith("fastslow: error: a.txt.fsz: block 0 is damaged")
    assert (here / "a.txt").read_bytes() == DATA


def test_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").write_bytes(b"")
    assert fs("a.txt", "empty") == 0
    size = (here / "a.txt.fsz").stat().st_size
    assert main(["compress", "-l", "a.txt.fsz", "empty.fsz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["compressed", "uncompressed", "ratio", "bits/byte", "model", "name"]
    assert lines[1].split()[:2] == [str(size), "400"]
    assert lines[1].split()[4:] == [MODEL.id.hex()[:16], "a.txt.fsz"]
    assert lines[2].split()[1:4] == ["0", "-", "-"]
    assert un("-lv", "a.txt.fsz") == 0
    said = capsys.readouterr().out
    assert MODEL.id.hex()[:16] in said
    assert "neural 400" in said
    assert "version 2" in said
    (here / "cut.fsz").write_bytes((here / "a.txt.fsz").read_bytes()[:-1])
    assert un("-l", "cut.fsz", "a.txt", "-") == 1
    said = capsys.readouterr().err
    assert "cut.fsz: the archive is truncated" in said
    assert "a.txt: not a fastslow archive" in said
    assert "--list needs files" in said


def test_a_different_and_a_missing_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("a.txt") == 0
    (here / "a.txt").unlink()
    codec.export_model(tiny_model(hidden=5, slow=4, seed=3), here / "other")
    assert main(["decompress", "--model", "other", "a.txt.fsz"]) == 1
    assert f"needs model {MODEL.id.hex()[:16]}" in capsys.readouterr().err
    assert main(["decompress", "a.txt.fsz"]) == 1
    assert "pass its folder" in capsys.readouterr().err
    assert main(["compress", "a.txt.fsz", "-f"]) == 1
    assert "no model was named" in capsys.readouterr().err
    assert not (here / "a.txt").exists()
    assert parts(here) == []
    assert fs("--embed-model", "model", "-o", "inside.fsz") == 0
    assert main(["decompress", "inside.fsz", "-o", "again"]) == 0
    assert (here / "again").read_bytes() == (here / "model").read_bytes()


def test_a_run_is_found_by_its_hash(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from fastslow import CharLM
    from fastslow.data.alphabet import Alphabet
    from fastslow.lm.config import LMConfig

    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LMConfig(embedding_size=4, hidden_size=6, slow_size=5, alphabet=Alphabet.of(DATA))
        CharLM(config, backend="reference").save_pretrained(here / "runs" / name)
    (here / "runs" / "three").mkdir()
    (here / "runs" / "three" / "model.safetensors").write_bytes(b"damaged")
    assert main(["compress", "--model", "runs/one", "a.txt"]) == 0
    os.rename(here / "runs" / "one", here / "runs" / "renamed")
    assert main(["decompress", "a.txt.fsz", "-o", "b.txt"]) == 0
    assert (here / "b.txt").read_bytes() == DATA


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "--rm"], "--keep or --rm"),
        (["-c", "-o", "x"], "--stdout or --output"),
        (["-c", "--rm"], "--rm removes"),
        (["-o", "-", "--rm"], "--rm removes"),
        (["-o", "/dev/null", "--rm"], "--rm removes"),
        (["--lanes", "0"], "lanes must be"),
        (["--block-size", "0"], "block size must be"),
        (["--model", "nowhere"], "there is no run nowhere"),
    ],
)
def test_senseless_options(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert fs(*arguments, "a.txt") in (1, 2)
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (here / "a.txt.fsz").exists()


def test_verbose_and_progress(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs("-v", "a.txt") == 0
    said = capsys.readouterr().err
    assert said.startswith("fastslow: a.txt: 400 -> ")
    assert "bits/byte" in said
    memory = re.search(r"at most ([\d,]+) MB of memory", said)
    assert memory
    assert 20 < int(memory[1].replace(",", "")) < 20_000
    assert "neural 400" in said
    from fastslow.cli import compress as module

    monkeypatch.setattr(module._Progress, "_EVERY", 0.0)
    terminal = io.TextIOWrapper(Terminal(), write_through=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert fs("-f", "a.txt") == 0
    shown = terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "\ra.txt: " in shown
    assert "kB/s" in shown
    assert "left" in shown


def test_devices_are_outputs_and_are_not_replaced(here: Path) -> None:
    (here / "null").symlink_to(os.devnull)
    for options in ([], ["-f"]):
        assert fs("a.txt", "-o", "null", *options) == 0
        assert (here / "null").is_symlink()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_standard_output_has_other_names(here: Path) -> None:
    command = [sys.executable, "-m", "fastslow", "compress", "-m", "model", "-o", "/dev/stdout", "a.txt"]
    with open(here / "out.fsz", "wb") as file:
        assert subprocess.run(command, stdout=file, check=False).returncode == 0
    assert os.path.islink("/dev/stdout")
    assert codec.decompress((here / "out.fsz").read_bytes(), MODEL) == DATA


def test_names_do_not_drive_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31m\n.txt"
    assert fs(name) == 1
    (here / name).mkdir()
    assert fs(name) == 2
    assert fs("-a\x1b[31m") == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert "\x1b" not in said
    assert said.count("\\x1b[31m") == 3


def test_it_is_a_function_too(here: Path) -> None:
    assert compress_command(("a.txt",), model="model", lanes=20) == 0
    assert (here / "a.txt.fsz").exists()


def test_a_full_disk_leaves_nothing_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastslow.codec import files

    def full(self: object, data: bytes) -> int:
        raise codec.CodecError("cannot write a.txt.fsz: the disk is full")

    before = names(here)
    monkeypatch.setattr(files._Writing, "write", full)
    assert fs("a.txt") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert names(here) == before


def test_an_interruption_leaves_nothing_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastslow.codec import writer

    def interrupted(*_: object) -> None:
        assert parts(here)
        raise KeyboardInterrupt

    before = names(here)
    monkeypatch.setattr(writer._Writer, "block", interrupted)
    assert fs("a.txt") == 130
    assert names(here) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_behind(here: Path, number: signal.Signals) -> None:
    (here / "long.txt").write_bytes(TEXT * 5000)
    before = names(here)
    with interruptible():
        process = subprocess.Popen(
            [sys.executable, "-m", "fastslow", "compress", "-m", "model", "--lanes", "1", "long.txt"]
        )
    try:
        deadline = time.monotonic() + 60
        while not parts(here) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert parts(here)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
    assert names(here) == before
