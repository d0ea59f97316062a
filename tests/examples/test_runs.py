"""Every example at its smallest size: it runs, prints its table, draws its figure, and learns something."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str, *needs: str) -> ModuleType:
    """The example as a module; the test is skipped where `fastslow[examples]` is not installed."""
    for package in ("matplotlib", *needs):
        pytest.importorskip(package)
    import matplotlib

    matplotlib.use("Agg")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def kept_settings() -> Any:
    """The programs set torch's number of threads and denormal mode for their process; here they share one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def run(module: ModuleType, figure: Path, *arguments: str) -> Any:
    result = module.main([*arguments, "--small", "--figure", str(figure)])
    assert figure.stat().st_size > 1000
    return result


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(example("memory"), tmp_path / "m.png")
    assert [row["network"] for row in rows] == ["nn.LSTM", "stacked LSTM-2", "sequential LSTM-2", "FS-LSTM-2"]
    assert rows[-1]["steps"][0] is not None, "the FS-LSTM remembers for twelve steps"
    assert max(row["weights"] for row in rows) < 1.15 * min(row["weights"] for row in rows)
    assert "FS-LSTM-2" in capsys.readouterr().out


def test_the_copying_problem_asks_for_what_was_shown() -> None:
    memory = example("memory")
    x, targets = memory.copying(7, 3, 2)
    assert x.shape == (11, 3, 10)
    assert torch.equal(x[:2].argmax(-1), targets)
    assert (x[2:8].argmax(-1) == 8).all()
    assert (x[8:].argmax(-1) == 9).all()


def test_the_adding_problem_marks_one_number_in_each_half() -> None:
    memory = example("memory")
    x, targets = memory.adding(10, 50, 0)
    assert (x[:5, :, 1].sum(0) == 1).all()
    assert (x[5:, :, 1].sum(0) == 1).all()
    assert torch.allclose((x[..., 0] * x[..., 1]).sum(0), targets.flatten())


def test_swap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    subjects = {"the cat": "meows", "the dog": "barks", "a bird": "sings", "a wolf": "howls"}
    for part, lines in (("train", 1500), ("valid", 100), ("test", 100)):
        text = "".join(
            f"{who} {does} {draw.choice(['today', 'again'])}\n"
            for who, does in draw.choices(list(subjects.items()), k=lines)
        )
        (tmp_path / f"{part}.txt").write_text(text)
    rows = run(example("swap"), tmp_path / "s.png", str(tmp_path))
    assert [row["network"] for row in rows] == ["nn.LSTM", "FS-LSTM-2"]
    for row in rows:
        # Eight choices in a sentence of five words: a perplexity of 8 ** (1 / 5) = 1.52 is the least there is.
        assert 1.4 < row["test"] < 4.0
    assert rows[0]["weights"] == pytest.approx(rows[1]["weights"], rel=0.05)
    assert "test ppl" in capsys.readouterr().out


def test_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(example("pixels", "sklearn"), tmp_path / "p.png")
    assert {row["order"] for row in rows} == {"plain", "permuted"}
    best = max(accuracy for row in rows if row["network"] == "FS-LSTM-2" for accuracy in row["accuracy"])
    assert best > 20, "chance is ten per cent"
    assert "test accuracy" in capsys.readouterr().out


def test_forecasting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forecasting = example("forecasting", "statsmodels")
    errors = {row["forecast"]: row["error"][0] for row in run(forecasting, tmp_path / "f.png")}
    assert errors["FS-LSTM-2"] < errors["last value"]
    assert "seasonal naive" in capsys.readouterr().out


def test_streamed_forecasts_are_those_of_the_window() -> None:
    forecasting = example("forecasting", "statsmodels")
    x = torch.randn(9, 3)
    for name in forecasting.NETWORKS:
        model = forecasting.Forecaster(name, 6)
        assert torch.allclose(model.stream(x), model(x.unsqueeze(1))[:, 0], atol=1e-5)


def chorales(path: Path) -> float:
    """A file like JSB_Chorales.mat with scales for chorales; what a chord costs with each key's frequency alone."""
    from scipy.io import savemat

    draw = np.random.default_rng(1)
    parts = {}
    for part, pieces in (("traindata", 40), ("validdata", 8), ("testdata", 8)):
        cells = np.empty((1, pieces), dtype=object)
        for i in range(pieces):
            length, start = draw.integers(12, 20), draw.integers(24)
            cells[0, i] = np.zeros((length, 88))
            cells[0, i][np.arange(length), 30 + (start + np.arange(length)) % 24] = 1.0
        parts[part] = cells
    savemat(path, parts)
    played = np.clip(np.concatenate(list(parts["testdata"][0])).mean(0), 1e-9, 1 - 1e-9)
    return float(-(played * np.log(played) + (1 - played) * np.log(1 - played)).sum())


def test_music(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music = example("music", "scipy")
    alone = chorales(tmp_path / "scales.mat")
    rows = run(music, tmp_path / "m.png", str(tmp_path / "scales.mat"))
    assert all(row["test"][0] < alone for row in rows)
    assert rows[0]["weights"] == pytest.approx(rows[1]["weights"], rel=0.3)
    assert "8.45 (published)" in capsys.readouterr().out


def test_tmaze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(example("tmaze", "gymnasium"), tmp_path / "t.png")
    shares = {row["network"]: row["right"][0] for row in rows}
    assert shares["FS-LSTM-2"] > 0.9
    assert 0.3 < shares["FS-LSTM-2, no memory"] < 0.7
    assert "share of correct turns" in capsys.readouterr().out


def test_a_maze_rewards_the_arm_of_the_cue() -> None:
    tmaze = example("tmaze", "gymnasium")
    maze = tmaze.TMaze(2, 1)
    observation, _ = maze.reset(seed=1)
    cue = observation[:, :2].argmax(1)
    observation, reward, ended, truncated, _ = maze.step(np.zeros(2, dtype=np.int64))
    assert observation[:, 3].tolist() == [1, 1]
    assert not (ended | truncated).any()
    turns = np.array([1 + cue[0], 2 - cue[1]])  # the first right, the second wrong
    observation, reward, ended, _, info = maze.step(turns)
    assert reward.tolist() == [1, -1]
    assert ended.all()
    assert info["right"].tolist() == [True, False]
    assert (observation[:, :2].sum(1) == 1).all(), "the next episodes have begun"


def test_a_reset_row_knows_nothing_of_what_was_before() -> None:
    from torch import nn

    from fastslow import FSLSTM

    tmaze = example("tmaze", "gymnasium")
    x = torch.randn(6, 2, 4)
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[3, 1] = True
    for layer in (FSLSTM(4, 5, 3), nn.LSTM(4, 5)):
        y, _ = tmaze.unroll(layer, x, None, resets)
        assert torch.allclose(y[:, 0], layer(x)[0][:, 0], atol=1e-6)
        assert torch.allclose(y[3:, 1], layer(x[3:])[0][:, 1], atol=1e-6)


def log(lines: int, strange: int) -> bytes:
    draw = random.Random(1)
    texts = [
        f"12:00:{i % 60:02d} worker {draw.randrange(9)} {draw.choice(['finished', 'started'])} job {i}\n"
        for i in range(lines)
    ]
    texts[strange - 1] = "12:00:31 KERNEL PANIC: unable to mount /dev/sda1 (EXT4 superblock checksum mismatch)\n"
    return "".join(texts).encode()


def test_watch_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = example("watch_log")
    (tmp_path / "a.log").write_bytes(log(300, strange=250))
    result = run(watch, tmp_path / "w.png", str(tmp_path / "a.log"))
    assert 250 in result["alarms"]
    assert len(result["alarms"]) < 10
    assert result["lines"] == 300
    assert "PANIC: unable to mount" in capsys.readouterr().out


def test_watch_log_scores_a_line_before_it_learns_it() -> None:
    watch = example("watch_log")
    watcher = watch.Watcher(SimpleNamespace(seed=1, size=16, lr=1e-2, memory=10, longest=100))
    bits, _, _ = watcher.read(b"the same line\n")
    assert bits == pytest.approx(8.0, abs=0.5), "nothing is known yet: about eight bits per character"
    for _ in range(30):
        last, _, stretch = watcher.read(b"the same line\n")
    assert last < 0.5 * bits
    assert stretch in b"the same line\n"
