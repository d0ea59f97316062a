"""`experiments/carried.py`: a run in small files, and a run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fastslow.lm import CharLM
from fastslow.training import TrainConfig, train
from fastslow.training.events import Event, Updated
from tests.training.runs import MODEL, RECIPE, SPLITS, Killed


@pytest.fixture
def carried() -> Any:
    from experiments import carried

    return carried


def stopped(out: Path, at: int = 17, **changes: Any) -> None:
    """A run that was killed after this many updates, with a checkpoint every four and a validation every eight."""

    def kill(event: Event) -> None:
        if isinstance(event, Updated) and event.update == at:
            raise Killed

    config = TrainConfig.from_json(RECIPE.to_json() | {"checkpoint_every": 4, "validate_every": 8} | changes)
    with pytest.raises(Killed):
        train(MODEL, config, SPLITS, out, device="cpu", progress=kill)


def finished(out: Path, **changes: Any) -> Any:
    config = TrainConfig.from_json(RECIPE.to_json() | {"checkpoint_every": 4, "validate_every": 8} | changes)
    return train(MODEL, config, SPLITS, out, device="cpu", resume="auto")


def folder_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != ".lock"}


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), min_size=1, max_size=4),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]),
    seed=st.integers(0, 99),
)
def test_weights_are_exact_and_moments_rounded(sizes: list[tuple[int, int]], scale: float, seed: int) -> None:
    from experiments import carried as packing

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {"rng.cpu": torch.arange(9, dtype=torch.uint8)}
    for n, shape in enumerate(sizes):
        value = scale * torch.randn(shape, generator=generator)
        tensors |= {f"model.w{n}": value, f"adam.w{n}.exp_avg": -value, f"adam.w{n}.exp_avg_sq": value.abs()}
        tensors |= {f"best.w{n}": value + 1, f"average.w{n}": 2 * value, f"adam.w{n}.step": torch.tensor(7.0)}
    got = packing.expanded(*packing.compact(tensors))
    assert got.keys() == tensors.keys()
    for name, value in tensors.items():
        rounded = "exp_avg" in name or name.startswith("best.")
        assert torch.equal(got[name], value.bfloat16().float() if rounded else value), name


def test_a_run_goes_on_from_its_files(carried: Any, tmp_path: Path) -> None:
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    stopped(run)
    packed = carried.pack(run, out)
    assert (packed.update, packed.complete, packed.best_left_out) == (16, False, False)
    assert carried.packed_update(out) == carried.update_of(run) == 16
    assert carried.packed_update(tmp_path) == carried.update_of(tmp_path) == -1
    assert carried.unpack(out, again).update == 16
    whole, rounded = load_file(run / "checkpoint.safetensors"), load_file(again / "checkpoint.safetensors")
    assert whole.keys() == rounded.keys()
    for name, value in whole.items():
        assert torch.equal(rounded[name], value.bfloat16().float() if "exp_avg" in name else value), name
    for name in ("run.json", "config.json", "metrics.jsonl"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert carried.pack(again, tmp_path / "twice").size == packed.size  # rounding once more changes nothing
    exact, near = finished(run), finished(again)
    assert near.status == exact.status == "completed"
    assert near.updates == exact.updates
    assert near.best_bpc == pytest.approx(exact.best_bpc, rel=0.02)
    assert near.test.bpc == pytest.approx(exact.test.bpc, rel=0.02)


def test_the_best_weights_come_along_rounded(carried: Any, tmp_path: Path) -> None:
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    stopped(run, at=22)  # saved at 20, validated at 16
    assert not carried.pack(run, out).best_left_out
    carried.unpack(out, again)
    with safe_open(again / "model.safetensors", "pt") as file:
        assert file.metadata() == {"update": "16", "rounded_to": "bfloat16"}
    best = load_file(run / "model.safetensors")
    for name, value in load_file(again / "model.safetensors").items():
        assert torch.equal(value, best[name].bfloat16().float())
    assert CharLM.from_pretrained(again).num_parameters == CharLM.from_pretrained(run).num_parameters
    # Where there is no room for them, the run goes on without.
    fits = carried.pack(run, out).size
    left = carried.pack(run, out, most=fits - 1)
    assert left.best_left_out
    assert left.size < fits
    (tmp_path / "third").mkdir()
    assert carried.unpack(out, tmp_path / "third").best_left_out
    assert finished(tmp_path / "third").best_update > 16


def test_parts_limits_and_damage(carried: Any, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    stopped(run)
    size = carried.pack(run, out).size
    part = size // 3
    carried.pack(run, out, part=part, most=4 * part)
    files = folder_of(out)
    assert sorted(files) == ["carried.0", "carried.1", "carried.2", "carried.3", "carried.json"]
    assert max(map(len, files.values())) <= part
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing is left beside the run
    with pytest.raises(carried.CarriedError, match=r"takes .* MiB; the limit is"):
        carried.pack(run, out, most=part)
    assert folder_of(out) == files  # what was there is kept
    with pytest.raises(carried.CarriedError, match="the limit is"):
        carried.pack(run, out, part=part, parts=2)
    again = tmp_path / "again"
    stopped(again, at=5)
    for name in ("carried.2", "carried.3"):
        (out / name).write_bytes(files[name][:-1])
        with pytest.raises(carried.CarriedError, match=f"{name} is missing or damaged: copy all 4 parts"):
            carried.unpack(out, again)
        (out / name).unlink()
        with pytest.raises(carried.CarriedError, match=f"{name} is missing"):
            carried.unpack(out, again)
        (out / name).write_bytes(files[name])
    assert carried.update_of(again) == 4  # not touched
    for text in ("{", "[]", '{"update": 3}', '{"update": "x", "parts": []}', '{"update": -5, "parts": []}'):
        (out / "carried.json").write_text(text)
        with pytest.raises(carried.CarriedError, match=r"carried.json (cannot be read|is damaged)"):
            carried.packed_update(out)


def test_a_complete_run_is_brought_back_exactly(
    carried: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, again = tmp_path / "run", tmp_path / "out", tmp_path / "again"
    result = finished(run)
    packed = carried.pack(run, out)
    assert (packed.complete, packed.update) == (True, result.updates)
    assert carried.main([str(out), str(again)]) == 0
    assert "complete" in capsys.readouterr().out
    kept = folder_of(run)
    assert folder_of(again) == {name: data for name, data in kept.items() if name != "checkpoint.safetensors"}
    assert json.loads((again / "result.json").read_text())["test"] == result.test.to_json()
    assert carried.main([str(tmp_path / "nowhere"), str(again)]) == 2
    assert "carried.json cannot be read" in capsys.readouterr().err
    assert carried.main([]) == 2


def test_a_network_of_the_papers_size_fits(carried: Any) -> None:
    """ptb-fs-lstm-2 has 7.2 million weights; here as many bytes a weight as of a large bell curve."""
    generator = torch.Generator().manual_seed(0)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(300, 1000, generator=generator)

    tensors = {"model.w": normal(0.07), "best.w": normal(0.07), "adam.w.exp_avg": normal(1e-4)}
    tensors["adam.w.exp_avg_sq"] = normal(1e-4) ** 2
    made, _ = carried.compact(tensors)
    a_weight = sum(value.numel() for value in made.values()) / 300_000
    assert 7.0 < a_weight < 8.0
    assert 7_225_050 * a_weight + (1 << 20) < carried.MOST_BYTES
    assert carried.MOST_BYTES <= carried.PART_BYTES * carried.MOST_PARTS
    assert carried.PART_BYTES <= 16 << 20
