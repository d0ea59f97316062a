from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastslow.data.streams import Streams, random_resets
from fastslow.data.text import Splits, Text
from fastslow.errors import AlphabetError, DataError
from fastslow.evaluation import evaluate
from fastslow.lm import CharLM
from fastslow.lm.config import ConfigError
from fastslow.state import state_tensors
from fastslow.training import RunResult, events, read_metrics, read_record, train
from fastslow.training.events import Event, Saved, Started, Updated, Validated
from fastslow.training.prepare import _check_recipe
from fastslow.training.schedule import learning_rate
from fastslow.training.updater import Step, Updater

from .runs import AGAINST, MODEL, RECIPE, SPLITS, TEXT, metrics, run


class Ran(NamedTuple):
    out: Path
    result: RunResult
    told: list[Event]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run as the recipe says, in a folder whose parent is not there yet."""
    out, told = tmp_path_factory.mktemp("first") / "runs" / "first", list[Event]()
    return Ran(out, run(out, progress=told.append), told)


def test_a_run_learns_and_explains_itself(first: Ran) -> None:
    out, result, told = first
    assert result.status == "completed"
    assert result.updates == 30
    assert result.characters == 30 * 4 * 8
    assert result.test is not None
    assert result.test.symbols == len(SPLITS.test) - 1  # type: ignore[arg-type]
    assert result.best_bpc is not None
    assert result.best_bpc < 7
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "result.json",
        "run.json",
    ]
    record = json.loads((out / "run.json").read_text())
    assert record["data"]["train"] == SPLITS.train.describe()
    assert record["train"]["seed"] == RECIPE.seed
    (session,) = record["sessions"]
    assert session["engine"].startswith("reference")
    assert session["versions"]["torch"] == torch.__version__
    assert read_record(out).model == MODEL
    stored = json.loads((out / "result.json").read_text())
    assert stored["test"]["bpc"] == result.test.bpc

    (started,) = [event for event in told if isinstance(event, Started)]
    assert (started.update, started.total_updates, started.train_symbols) == (0, 30, len(SPLITS.train))
    updates = [event for event in told if isinstance(event, Updated)]
    assert [event.update for event in updates] == list(range(1, 31))
    assert all(event.characters_per_second > 0 for event in updates)
    assert updates[-1].seconds_left == 0
    assert [event.update for event in told if isinstance(event, Saved)] == [7, 10, 14, 20, 21, 28, 30]
    assert [event.update for event in told if isinstance(event, Validated)] == [10, 20, 30]
    assert [event.evaluation for event in told if isinstance(event, events.Tested)] == [result.test]


def test_metrics(first: Ran) -> None:
    seen = [event for event in first.told if isinstance(event, Updated)]
    lines = read_metrics(first.out)
    assert [line["update"] for line in lines if line["kind"] == "train"] == [4, 8, 12, 16, 20, 24, 28]
    assert [line["update"] for line in lines if line["kind"] == "valid"] == [10, 20, 30]
    for line in lines:
        if line["kind"] == "train":
            event = seen[line["update"] - 1]
            assert (line["bpc"], line["rate"], line["gradient_norm"]) == (event.bpc, event.rate, event.gradient_norm)
            assert line["rate"] == learning_rate(
                RECIPE, update=line["update"] - 1, epoch=0, decays=0, done=(line["update"] - 1) / 30
            )


class Spy:
    """Stands before `Updater.step` and writes down what each update was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Tensor, Any, float]] = []
        self.steps: list[Step] = []
        real = Updater.step

        def step(
            updater: Updater, inputs: Tensor, targets: Tensor, state: Any, rate: float, resets: Tensor | None = None
        ) -> Step:
            self.calls.append((inputs, targets, state, rate))
            self.steps.append(real(updater, inputs, targets, state, rate, resets))
            return self.steps[-1]

        monkeypatch.setattr(Updater, "step", step)


def test_windows_in_order_state_carried_and_zero_at_the_start_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    run(tmp_path / "run", max_updates=None, validate_every=0, batch=12)
    streams = Streams.training(SPLITS.train.data, 12, RECIPE.window)
    assert len(spy.calls) == 2 * len(streams)
    for i, (inputs, targets, state, _) in enumerate(spy.calls):
        window = streams[i % len(streams)]
        assert torch.equal(inputs, window.inputs)
        assert torch.equal(targets, window.targets)
        if i % len(streams) == 0:
            assert state is None
        else:
            assert state is spy.steps[i - 1].state
    assert [line["update"] for line in metrics(tmp_path / "run") if line["kind"] == "valid"] == [
        len(streams),
        2 * len(streams),
    ]


def test_random_offsets_move_the_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    run(tmp_path / "run", max_updates=None, random_offset=True, seed=5, batch=12)
    epochs = [i for i, call in enumerate(spy.calls) if call[2] is None]
    assert len(epochs) == 2
    assert not torch.equal(spy.calls[epochs[0]][0], spy.calls[epochs[1]][0])


def test_windows_of_random_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    result = run(tmp_path / "run", max_updates=25, jitter=3, schedule="constant", batch=12)
    epoch = len(Streams.training(SPLITS.train.data, 12, RECIPE.window))
    assert epoch < 25 < 2 * epoch
    text = torch.cat([inputs for inputs, *_ in spy.calls[:epoch]])
    assert torch.equal(text, torch.cat([w.inputs for w in Streams.training(SPLITS.train.data, 12, 8)]))
    lengths = [len(inputs) for inputs, *_ in spy.calls]
    assert len(set(lengths)) > 3
    assert lengths[: 25 - epoch] != lengths[epoch:]
    assert result.characters == 12 * sum(lengths)
    with pytest.raises(ConfigError, match="on a GPU training steps are recorded for one"):
        _check_recipe(replace(RECIPE, jitter=3), SPLITS, "cuda:1")


def test_states_are_reset_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    run(tmp_path / "run", reset=0.4, max_updates=12)
    seen = []
    for update, (_, _, state, _) in enumerate(spy.calls):
        if update == 0:
            assert state is None
            continue
        rows = torch.from_numpy(random_resets(RECIPE.seed, update, RECIPE.batch, 0.4))
        for leaf, before in zip(state_tensors(state), state_tensors(spy.steps[update - 1].state), strict=True):
            assert not leaf[rows].any()
            assert torch.equal(leaf[~rows], before[~rows])
        seen += rows.tolist()
    assert {True, False} == set(seen)


def test_the_plateau_rule_reaches_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    run(
        tmp_path / "run",
        splits=AGAINST,
        schedule="plateau",
        rate=0.9,
        validate_every=3,
        warmup=0,
        decay=0.5,
        patience=2,
    )
    waited = decays = 0
    best = math.inf
    expected = {}
    for line in metrics(tmp_path / "run"):
        if line["kind"] == "valid":
            waited = 0 if line["bpc"] < best else waited + 1
            best = min(best, line["bpc"])
            decays, waited = (decays + 1, 0) if waited == 2 else (decays, waited)
            expected[line["update"]] = 0.9 * 0.5**decays
    rates = [call[3] for call in spy.calls]
    assert rates[:3] == [0.9] * 3
    assert decays > 0
    for update, rate in expected.items():
        assert rates[update : update + 3] == [rate] * len(rates[update : update + 3])


def test_the_best_weights_are_kept_and_tested(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(out, splits=AGAINST, schedule="constant", validate_every=2)
    valid = {line["update"]: line["bpc"] for line in metrics(out) if line["kind"] == "valid"}
    assert result.best_bpc == min(valid.values())
    assert result.best_update == min(valid, key=lambda update: valid[update])
    assert result.best_update != 30  # else this shows nothing
    best = CharLM.from_pretrained(out, backend="reference")
    assert AGAINST.valid is not None
    assert AGAINST.test is not None
    assert result.test is not None
    assert evaluate(best, AGAINST.valid, streams=8).bpc == result.best_bpc
    assert evaluate(best, AGAINST.test, streams=8).nats == result.test.nats


def test_averaged_weights_are_validated_and_kept(tmp_path: Path, first: Ran) -> None:
    out = tmp_path / "run"
    result = run(out, average=0.8)
    assert SPLITS.valid is not None
    assert evaluate(CharLM.from_pretrained(out, backend="reference"), SPLITS.valid, streams=8).bpc == result.best_bpc
    assert first.result.best_bpc != result.best_bpc
    # The average is beside the training, not in it.
    assert [line for line in metrics(out) if line["kind"] == "train"] == [
        line for line in metrics(first.out) if line["kind"] == "train"
    ]


def test_the_mean_of_the_last_weights_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[Tensor] = []
    real = Updater.step

    def step(updater: Updater, *given: Any) -> Step:
        done = real(updater, *given)
        weights.append(updater.lm.head.weight.detach().clone())
        return done

    monkeypatch.setattr(Updater, "step", step)
    out = tmp_path / "run"
    result = run(out, average_from=0.5)
    assert result.best_update == 30  # else this shows nothing
    assert len(weights) == 30
    kept = CharLM.from_pretrained(out).head.weight
    torch.testing.assert_close(kept, torch.stack(weights[15:]).mean(0))


def test_seeds(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, seed=seed, max_updates=5)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_torchs_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(tmp_path / "run", max_updates=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_symbols_of_the_text(tmp_path: Path) -> None:
    train(MODEL, replace(RECIPE, max_updates=2), SPLITS, tmp_path / "run", device="cpu", alphabet="text")
    assert CharLM.from_pretrained(tmp_path / "run").alphabet.symbols == bytes(sorted(set(TEXT)))
    strange = Splits(SPLITS.train, Text.of(b"12 times \xe9", "strange"), None)
    with pytest.raises(AlphabetError, match="strange has byte 0xe9 at offset 9"):
        train(MODEL, RECIPE, strange, tmp_path / "other", device="cpu", alphabet="text")
    assert not (tmp_path / "other").exists()


def test_without_validation_and_test(tmp_path: Path) -> None:
    only = Splits(SPLITS.train, None, None)
    result = run(tmp_path / "run", splits=only, max_updates=6)
    assert (result.best_update, result.best_bpc, result.test) == (6, None, None)
    CharLM.from_pretrained(tmp_path / "run")
    with pytest.raises(ConfigError, match="schedule plateau needs a validation text"):
        run(tmp_path / "other", splits=only, schedule="plateau")


def test_annealing_by_time_completes_a_run_that_is_too_slow(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(out, max_updates=None, epochs=1000, max_time=0.6, anneal_by_time=True)
    assert result.status == "completed"
    assert result.test is not None
    assert result.updates < 1000 * len(Streams.training(SPLITS.train.data, 4, 8))
    assert run(out, max_updates=None, epochs=1000, max_time=0.6, anneal_by_time=True, resume=True).test == result.test


def test_what_fails_before_there_is_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError, match="the training text is too short"):
        run(out, batch=1000, window=1000)
    with pytest.raises(ConfigError, match="there is no device 'abacus'"):
        train(MODEL, RECIPE, SPLITS, out, device="abacus")
    with pytest.raises(ConfigError, match="backend must be 'auto' or one of"):
        train(MODEL, RECIPE, SPLITS, out, device="cpu", backend="abacus")
    with pytest.raises(ConfigError, match="backend 'triton' cannot run this"):
        train(MODEL, RECIPE, SPLITS, out, device="cpu", backend="triton")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="there is no device cuda: this machine has 0 GPUs"):
            train(MODEL, RECIPE, SPLITS, out, device="cuda")
    assert not out.exists()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", tensorboard=True)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    valid = [line for line in metrics(tmp_path / "run") if line["kind"] == "valid"]
    assert [(point.step, pytest.approx(point.value)) for point in curves.Scalars("valid/bpc")] == [
        (line["update"], line["bpc"]) for line in valid
    ]
    assert len(curves.Scalars("train/bpc")) == 7
    assert len(curves.Scalars("test/bpc")) == 1
