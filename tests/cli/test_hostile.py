"""Senseless arguments and odd files, of every command that takes them: status 2 and one line that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastslow.cli.app import main
from tests.lm.models import small_lm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    small_lm().save_pretrained(folder / "lm")
    (folder / "text").write_bytes(b"the quick brown fox\n" * 300)
    (folder / "empty").touch()
    (folder / "binary").write_bytes(bytes(range(256)) * 8)
    (folder / "folder").mkdir()
    damaged = folder / "damaged"
    small_lm().save_pretrained(damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    return folder


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train {text} --out {new} --rate nan", "rate must be a number"),
        ("train {text} --out {new} --clip inf", "clip must be a number"),
        ("train {text} --out {new} --batch 99999999999999999999999", "batch must be a whole number"),
        ("train {text} --out {new} --hidden-size 99999999", "hidden_size must be a whole number"),
        ("train {text} --out {new} --hidden-size 1e3", "--hidden-size takes a whole number"),
        ("train {text} --out {new} --dropout nan", "dropout must be a number from 0 to 1"),
        ("train {text} --out {new} --max-time 1e999", "a duration must be like"),
        ("train {text} --out {new} --seed -1", "seed must be a whole number"),
        ("train {empty} --out {new}", "is empty"),
        ("train {missing} --out {new}", "no such file"),
        ("train {folder} --out {new}", "is a directory"),
        ("train /dev/zero --out {new}", "is not a regular file"),
        ("train {text} --out {text}", "is a file: choose another output folder"),
        ("train --resume --out {folder}", "is not a run folder"),
        ("train --resume --out {lm}", "is not a run folder"),
        ("evaluate {lm} {empty}", "is empty"),
        ("evaluate {lm} {binary}", "which is not one of the 28 symbols"),
        ("evaluate {lm} {text} --streams 0", "--streams must be at least 1"),
        ("evaluate {lm} {text} --warm -1", "--warm must be at least 0"),
        ("evaluate {lm} {text} --against {binary}", "binary"),
        ("evaluate {lm} {text} --against {missing}", "missing"),
        ("evaluate {damaged} {text}", "is damaged"),
        ("evaluate {folder} {text}", "holds no model"),
        ("sample {lm} --temperature nan", "temperature"),
        ("sample {lm} --temperature inf", "temperature"),
        ("sample {lm} --top-k 0", "top_k|top-k"),
        ("sample {lm} --top-p nan", "top_p|top-p"),
        ("sample {lm} --length -1", "length"),
        ("sample {lm} --seed 99999999999999999999999", "seed"),
        ("sample {damaged}", "is damaged"),
        ("sample {text}", "not a folder"),
        ("score --model {lm} {binary}", "which is not one of the 28 symbols"),
        ("score --model {lm} {empty}", "is empty|too short"),
        ("score --model {lm} {folder}", "is a directory"),
        ("score --model {damaged} {text}", "is damaged"),
        ("info {damaged}/nowhere/", "there is no run"),
        ("info {folder}", "holds no model"),
        ("info {lm} --device cuda:9999999999999999999", "device"),
    ],
)
def test_one_line_and_status_2(place: Path, command: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("text", "empty", "missing", "binary", "folder", "lm", "damaged", "new")
    arguments = [word.format(**{name: place / name for name in names}) for word in command.split()]
    status = main(arguments)
    complaint = capsys.readouterr().err
    assert status == 2, complaint
    lines = [line for line in complaint.splitlines() if line]
    assert lines[-1].startswith("fastslow: error: ")
    assert sum(line.startswith("fastslow: error: ") for line in lines) == 1
    assert any(part in lines[-1] for part in told.split("|")), lines[-1]
    assert "Traceback" not in complaint
    assert not (place / "new").exists()
