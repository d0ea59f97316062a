from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastslow.cli.train import prepare, train
from fastslow.lm import CharLM, ModelOptions
from fastslow.training import PRESETS, TrainConfig, read_metrics, read_record
from fastslow.training.distributed import LostError
from tests.cli.command import TEXT, TINY, error_of, output_of
from tests.interrupts import interruptible

RUN = Path("runs/tables")


def test_a_run(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = output_of(capsys, "train", text, *TINY, "--max-updates", 10, "--seed", 5).splitlines()
    result = json.loads((RUN / "result.json").read_text())
    assert told[0] == f"test: {result['test']['bpc']:.4f} bits per character over {result['test']['symbols']:,} symbols"
    assert told[-1] == "run saved in runs/tables"
    record = read_record(RUN)
    assert record.train.seed == 5
    assert record.train.max_updates == 10
    assert record.train.max_time is None
    assert record.model.hidden_size == 8
    assert record.sessions[0]["command"].startswith("fastslow")
    assert len(CharLM.from_pretrained(RUN).alphabet) == 256


def test_a_run_goes_on_with_its_own_options(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steady = [*TINY, "--max-updates", "20", "--no-anneal-by-time"]
    output_of(capsys, "train", text, *steady, "--out", "whole", "--max-time", "1h")
    told = output_of(capsys, "train", text, *steady, "--max-time", "0.000001s")
    assert "the time limit was reached; resume with `fastslow train --resume --out runs/tables`" in told
    assert json.loads(json.dumps(read_record(RUN).to_json()))["train"]["max_time"] == 1e-6
    # Without any option but the one that is to change; by the text's name and by the folder's.
    told = output_of(capsys, "train", text, "--resume", "--max-time", "1h")
    assert "test: " in told
    for name in ("model.safetensors", "config.json"):
        assert (RUN / name).read_bytes() == Path("whole", name).read_bytes()
    again = output_of(capsys, "train", "--resume", "--out", RUN, "--json")
    assert json.loads(again)["updates"] == 20
    assert [line["update"] for line in read_metrics(RUN) if line["kind"] == "train"] == [5, 10, 15, 20]


def test_a_run_that_starts_from_a_trained_model(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", text, *TINY, "--max-updates", 10)
    started = ("train", text, "--init-from", RUN, "--dropout", 0.2, "--rate", 0, "--max-updates", 5, "--batch", 4)
    output_of(capsys, *started, "--window", 8, "--out", "further")
    first, further = CharLM.from_pretrained(RUN), CharLM.from_pretrained("further")
    assert further.config.hidden_size == first.config.hidden_size == 8
    assert further.config.dropout == 0.2
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, further.state_dict()[name])
    assert read_record("further").init_from == str(RUN)
    assert "uses its alphabet" in error_of(capsys, *started, "--alphabet", "text", "--out", "other")
    assert "must use the same network" in error_of(capsys, *started, "--hidden-size", 9, "--out", "other")
    assert "there is no model nowhere" in error_of(capsys, "train", text, "--init-from", "nowhere")


def test_what_a_resumed_run_may_not_change(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", text, *TINY, "--max-updates", 5)
    resume = ("train", "--resume", "--out", RUN)
    assert "was started with batch 4, not 5" in error_of(capsys, *resume, "--batch", 5)
    assert "another network" in error_of(capsys, *resume, "--hidden-size", 9)
    text.write_bytes(TEXT + b"more" * 20)
    assert "text is not the one" in error_of(capsys, *resume)
    text.unlink()
    assert "cannot read" in error_of(capsys, *resume)


def test_files_to_validate_and_test_on(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("v").write_bytes(TEXT[:200])
    Path("t").write_bytes(TEXT[:301])
    arguments = (
        "train",
        text,
        *TINY,
        "--max-updates",
        5,
        "--valid",
        "v",
        "--test",
        "t",
        "--alphabet",
        "text",
        "--json",
    )
    result = json.loads(output_of(capsys, *arguments))
    assert result["test"]["symbols"] == 300
    assert len(CharLM.from_pretrained(result["out"]).alphabet) < 256


def test_progress_in_a_log_is_lines(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastslow.cli import main

    assert main(["train", str(text), *TINY, "--max-updates", "10"]) == 0
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "\r" not in told
    lines = told.splitlines()
    assert "parameters on cpu, engine reference" in lines[0]
    assert lines[1] == "run folder runs/tables"
    assert lines[2].startswith("step 5, epoch ")
    assert lines[2].endswith("best so far")


def test_the_function_can_be_called(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = TrainConfig(batch=4, window=8, max_updates=3, tensorboard=False)
    model = ModelOptions(hidden_size=4, embedding_size=3)
    assert train((str(text),), out=Path("r"), model=model, recipe=recipe, backend="reference") == 0
    assert read_record("r").model == model
    assert "3 training steps" in capsys.readouterr().out


# What the arguments mean


def prepared(*arguments: str) -> tuple[list[str], Any, Any]:
    changed, defaults = prepare(list(arguments))
    return changed, defaults["model"], defaults["recipe"]


def test_the_preset_is_the_default() -> None:
    _, model, recipe = prepared("--preset", "ptb-fs-lstm-4")
    assert (model, recipe) == (PRESETS["ptb-fs-lstm-4"].model, PRESETS["ptb-fs-lstm-4"].train)
    _, model, recipe = prepared("a.txt")
    assert (model, recipe) == (PRESETS["demo"].model, PRESETS["demo"].train)


def test_a_limit_takes_the_presets_other_limits_away() -> None:
    preset = PRESETS["demo"].train
    assert preset.max_updates is not None
    assert preset.max_time is not None
    by_time = prepared("a", "--max-time", "1h")[2]
    assert (by_time.max_updates, by_time.max_time, by_time.anneal_by_time) == (None, preset.max_time, True)
    by_updates = prepared("a", "--max_updates=5")[2]
    assert (by_updates.max_updates, by_updates.max_time) == (preset.max_updates, None)
    assert not by_updates.anneal_by_time
    by_epochs = prepared("a", "--epochs", "2")[2]
    assert (by_epochs.max_updates, by_epochs.max_time) == (None, None)


def test_durations() -> None:
    assert prepared("--max-time", "1h30m")[0] == ["--max-time", "5400.0"]
    assert prepared("--max_time=45s")[0] == ["--max-time=45.0"]
    assert prepared("--max-time", "none")[0] == ["--max-time", "None"]
    for none in ("0", "0.0", "0s"):
        assert prepared("--checkpoint-seconds", none)[0] == ["--checkpoint-seconds", "0.0"]
    assert prepared("--checkpoint-seconds", "2m")[0] == ["--checkpoint-seconds", "120.0"]


def test_another_architecture_has_no_slow_size() -> None:
    assert prepared("--architecture", "stacked")[1].slow_size is None
    assert prepared("--architecture=sequential")[1].architecture == "sequential"


# Bad input


def test_texts_that_cannot_be_trained_on(text: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").touch()
    Path("short").write_bytes(b"too short")
    assert "empty is empty" in error_of(capsys, "train", "empty")
    assert "too short" in error_of(capsys, "train", "short")
    assert error_of(capsys, "train", "gone") == "cannot read gone: no such file or directory"
    assert "is a directory" in error_of(capsys, "train", elsewhere)
    assert "no text was given" in error_of(capsys, "train")
    assert "'-' (standard input) cannot be used here" in error_of(capsys, "train", "-")
    assert "unknown corpus 'pbt': did you mean 'ptb'?" in error_of(capsys, "train", "--corpus", "pbt")
    assert "fastslow data fetch ptb" in error_of(capsys, "train", "--corpus", "ptb")
    assert "fastslow data fetch ptb" in error_of(capsys, "train", "--preset", "ptb-fs-lstm-2")
    assert "not both" in error_of(capsys, "train", text, "--corpus", "ptb")
    assert "--valid and --test need files" in error_of(capsys, "train", "--preset", "demo", "--valid", "x")
    assert "protocol can only be used with a corpus" in error_of(capsys, "train", text, "--protocol", "raw")
    assert not Path("runs").exists()


def test_options_that_cannot_be(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = error_of(capsys, "train", text, "--preset", "ptb-fs-lstm")
    assert unknown.startswith("unknown preset 'ptb-fs-lstm': did you mean 'ptb-fs-lstm-")
    assert "dropout must be a number from 0 to 1; got 2.0" in error_of(capsys, "train", text, "--dropout", 2)
    assert "depth must be a whole number from 2" in error_of(capsys, "train", text, "--depth", 1)
    assert "--batch takes a whole number; got 'x'" in error_of(capsys, "train", text, "--batch", "x")
    assert "--max-time: a duration must be like 90m" in error_of(capsys, "train", text, "--max-time", "long")
    assert "there is no device 'abacus'" in error_of(capsys, "train", text, "--device", "abacus")
    assert "backend must be" in error_of(capsys, "train", text, "--backend", "quantum")
    assert "triton" in error_of(capsys, "train", text, *TINY, "--backend", "triton", "--device", "cpu")
    assert "there is no option --bath" in error_of(capsys, "train", text, "--bath", 3)


def test_folders_that_cannot_be_used(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", text, *TINY, "--max-updates", 3)
    before = (RUN / "model.safetensors").read_bytes()
    assert "already contains a run: resume it (--resume)" in error_of(capsys, "train", text, *TINY)
    assert (RUN / "model.safetensors").read_bytes() == before
    Path("full").mkdir()
    Path("full/thing").touch()
    assert "is not empty and not a run folder" in error_of(capsys, "train", text, *TINY, "--out", "full")
    Path("file").touch()
    assert "is a file" in error_of(capsys, "train", text, *TINY, "--out", "file")
    assert "cannot make the folder file/run" in error_of(capsys, "train", text, *TINY, "--out", "file/run")
    assert "full is not a run folder" in error_of(capsys, "train", "--resume", "--out", "full")
    assert "there is no run gone" in error_of(capsys, "train", "--resume", "--out", "gone")
    assert "name the run folder to resume" in error_of(capsys, "train", "--resume")
    (RUN / "run.json").write_text("{")
    assert "is damaged" in error_of(capsys, "train", "--resume", "--out", RUN)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_no_number(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastslow.cli import main

    options = [*TINY, "--max-updates", "30", "--rate", "1000", "--clip", "0", "--warmup", "0", "--no-layer-norm"]
    status = main(["train", str(text), *options, "--schedule", "constant", "--epsilon", "0", "--forget-bias", "100"])
    told = capsys.readouterr()
    if status == 0:  # it withstood even that
        assert "test: " in told.out
    else:
        assert status == 2
        assert "training stopped" in told.err.splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_the_message_of_a_lost_process_outlives_the_launchers_signal(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise LostError("rank 0 has lost the other 1 of its job")

    monkeypatch.setattr("fastslow.training.run.train", lost)
    before = signal.getsignal(signal.SIGTERM)
    try:
        told = error_of(capsys, "train", text)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # or the next line ended the tests
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == "rank 0 has lost the other 1 of its job"
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_an_interrupted_run_says_how_to_go_on(text: Path, elsewhere: Path) -> None:
    command = [sys.executable, "-m", "fastslow", "train", str(text), *TINY, "--max-updates", "1000000"]
    with interruptible():
        started = subprocess.Popen(
            command,
            cwd=elsewhere,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    with started as run:
        assert run.stderr is not None
        assert run.stdout is not None
        while b"step 5," not in run.stderr.readline():
            assert run.poll() is None
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read().decode()
        output = run.stdout.read().decode()
    assert run.returncode == 130
    last = rest.splitlines()[-1]
    assert last.startswith("fastslow: stopped after training step ")
    assert last.endswith("saved in runs/tables; resume with `fastslow train --resume --out runs/tables`")
    assert "Traceback" not in rest
    assert "run saved in runs/tables" in output
