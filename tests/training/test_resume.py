"""A run that was stopped, in whatever way, and resumed equals one that never was, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fastslow.lm import CharLM, ModelError, StorageError
from fastslow.lm.config import ConfigError
from fastslow.training import DivergedError, RunError, TrainConfig, read_record, resume, train
from fastslow.training.checkpoint import Position, read_checkpoint
from fastslow.training.events import Evaluating, Event, Notice, Saved, Updated, Validated
from fastslow.training.folder import RunFolder
from fastslow.training.updater import Step, Updater

from .runs import MODEL, RECIPE, SPLITS, TEXT, Killed, assert_same, metrics, run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(out)
    return out


def kill_at(kind: type[Event], update: int) -> Callable[[Event], None]:
    def progress(event: Event) -> None:
        if isinstance(event, kind) and getattr(event, "update", update) == update:
            raise Killed

    return progress


KILLS = [
    (Updated, 1),  # before the first checkpoint
    pytest.param(Updated, 6, marks=pytest.mark.slow),
    (Saved, 7),
    pytest.param(Updated, 9, marks=pytest.mark.slow),
    (Validated, 10),  # between the judgement and its checkpoint
    (Evaluating, 10),
    pytest.param(Updated, 11, marks=pytest.mark.slow),
    pytest.param(Updated, 19, marks=pytest.mark.slow),
    pytest.param(Saved, 20, marks=pytest.mark.slow),
    (Updated, 25),
    pytest.param(Updated, 30, marks=pytest.mark.slow),
    pytest.param(Validated, 30, marks=pytest.mark.slow),
    (Saved, 30),  # before the test
]


@pytest.mark.parametrize(("kind", "update"), KILLS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_killed_once(tmp_path: Path, undisturbed: Path, kind: type[Event], update: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, progress=kill_at(kind, update))
    result = run(out, resume=True)
    assert result.status == "completed"
    assert_same(out, undisturbed)


AVERAGE: dict[str, Any] = {"average": 0.9}
TAIL: dict[str, Any] = {"average_from": 0.4}
OFFSET: dict[str, Any] = {"random_offset": True}
LENGTHS: dict[str, Any] = {"jitter": 3, "reset": 0.3, "max_updates": 70, "checkpoint_every": 25}
PLATEAU: dict[str, Any] = {"schedule": "plateau", "patience": 1, "validate_every": 3, "rate": 0.3}
EPOCHS: dict[str, Any] = {"schedule": "step", "decay_epoch": 1, "validate_every": 0}
EPOCHS |= {"max_updates": 70, "checkpoint_every": 25}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({**AVERAGE, **OFFSET, **PLATEAU}, id="average, offset and plateau"),
        pytest.param({**TAIL, **LENGTHS, **EPOCHS}, id="tail, lengths and resets, epochs"),
        *(
            pytest.param(changes, id=name, marks=pytest.mark.slow)
            for name, changes in {
                "average": AVERAGE,
                "tail": TAIL,
                "offset": OFFSET,
                "lengths and resets": LENGTHS,
                "plateau": PLATEAU,
                "epochs": EPOCHS,
            }.items()
        ),
    ],
)
def test_killed_again_and_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """All that is drawn, averaged and remembered, together; one by one where there is more time."""
    run(tmp_path / "whole", **changes)
    out = tmp_path / "run"
    last = 65 if "max_updates" in changes else 28
    for update in range(2, last, last // 5):
        with pytest.raises(Killed):
            run(out, resume=update > 2, progress=kill_at(Updated, update), **changes)
    assert run(out, resume=True, **changes).status == "completed"
    assert_same(out, tmp_path / "whole")


def test_killed_between_a_checkpoint_and_its_best_weights(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fastslow.lm.files.write_weights", killed)
        with pytest.raises(Killed):
            run(out)
    assert not (out / "model.safetensors").exists()
    with pytest.raises(Killed):
        run(out, resume=True, progress=kill_at(Updated, 11))
    CharLM.from_pretrained(out)  # there again
    run(out, resume=True)
    assert_same(out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_so(tmp_path: Path, undisturbed: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"

    def progress(event: Event) -> None:
        if isinstance(event, Updated) and event.update == 12:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(out, progress=progress)
    assert (result.status, result.updates, result.test) == ("interrupted", 12, None)
    assert signal.getsignal(number) is before
    assert run(out, resume=True).status == "completed"
    assert_same(out, undisturbed)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_signals_during_an_evaluation(tmp_path: Path, undisturbed: Path, part: str) -> None:
    out = tmp_path / "run"

    def progress(event: Event) -> None:
        if isinstance(event, Evaluating) and event.part == part:
            os.kill(os.getpid(), signal.SIGTERM)

    # One window at a time, so that there is one to drop.
    assert run(out, progress=progress, valid_streams=1, test_streams=1).status in ("interrupted", "completed")
    run(out, resume=True)
    assert metrics(out)[0] == metrics(undisturbed)[0]
    assert run(out, resume=True).status == "completed"


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def progress(event: Event) -> None:
        if isinstance(event, Updated):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", progress=progress)


def test_a_process_that_is_killed(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.training.runs import run\n"
        "def progress(event):\n"
        "    if getattr(event, 'update', 0) == 16: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(Path(sys.argv[1]), progress=progress)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=root, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    run(out, resume=True)
    assert_same(out, undisturbed)


def test_time_that_is_over(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    result = run(out, max_time=0.0)
    assert (result.status, result.updates) == ("time", 0)
    assert run(out, resume=True).status == "completed"
    assert_same(out, undisturbed)


def test_a_complete_run_is_not_tested_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(out)
    told: list[Event] = []
    again = run(out, resume=True, progress=told.append)
    assert again.test == first.test
    assert (again.status, again.updates, again.best_bpc) == (first.status, first.updates, first.best_bpc)
    assert not any(isinstance(event, Evaluating | Updated) for event in told)


def test_a_complete_run_can_go_on(tmp_path: Path) -> None:
    changes = {"schedule": "constant"}
    run(tmp_path / "whole", **changes, max_updates=40)
    out = tmp_path / "run"
    run(out, **changes)
    result = run(out, resume=True, **changes, max_updates=40)
    assert result.updates == 40
    assert_same(out, tmp_path / "whole")
    assert read_record(out).sessions[1]["changed"] == {"max_updates": [30, 40]}


# ---------------------------------------------------------------------- what goes wrong


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    fsync, full = os.fsync, [False]

    def failing(descriptor: int) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    def progress(event: Event) -> None:
        full[0] = isinstance(event, Updated) and event.update >= 13

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(
            StorageError, match=r"the disk is full; the checkpoint of step 10 is kept: free some space"
        ) as at:
            run(out, progress=progress)
    assert "\n" not in str(at.value)
    stored = read_checkpoint(out, CharLM.from_pretrained(out), RECIPE.batch)
    assert stored is not None
    assert stored.position.update == 10
    assert not list(out.glob(".*.part"))
    run(out, resume=True)
    assert_same(out, undisturbed)


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    """The same, with a file size limit instead of a full disk: the checkpoint does not fit, the system says so."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            run(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith("cannot write the checkpoint of step 7 to ")
    assert str(caught.value).endswith("file too large; there was no checkpoint yet")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "config.json",
        "metrics.jsonl",
        "run.json",
    ]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out, count = tmp_path / "run", [0]
    real = Updater.step

    def step(self: Updater, *args: Any) -> Step:
        count[0] += 1
        done = real(self, *args)
        if count[0] != 13:
            return done
        bad = done.loss_nats * float("nan")
        return done._replace(loss_nats=bad) if what == "loss" else done._replace(gradient_norm=bad)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "step", step)
        with pytest.raises(DivergedError, match=r"became nan at training step 13, .* checkpoint of step 10 is kept in"):
            run(out)
    run(out, resume=True)
    assert_same(out, undisturbed)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    """A rate that blows up: what is in the folder afterwards can still be used."""
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"became (nan|inf)"):
        run(out, rate=1e3, epsilon=0.0, clip=0.0, schedule="constant", warmup=0, model=replace(MODEL, layer_norm=False))
    if (out / "checkpoint.safetensors").exists():
        CharLM.from_pretrained(out).generate("1", 3)


def test_positions_from_before_there_were_tail_averages() -> None:
    stored = asdict(Position(update=7, epoch=1))
    del stored["averaged"]
    assert Position.from_json(stored, "the checkpoint") == Position(update=7, epoch=1)


def test_two_processes_on_one_folder(stopped: Path) -> None:
    with RunFolder.open(stopped), pytest.raises(RunError, match=rf"is in use: process {os.getpid()} is training there"):
        run(stopped, resume=True)
    assert run(stopped, resume=True).status == "completed"


def test_an_output_folder_that_exists(tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(RunError, match=r"already contains a run: resume it \(--resume\), or choose another"):
        run(undisturbed)
    (tmp_path / "mine").write_text("thesis")
    with pytest.raises(RunError, match="is not empty and not a run folder"):
        run(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        run(tmp_path / "mine")
    with pytest.raises(StorageError, match="cannot make the folder"):
        run(tmp_path / "mine" / "run")


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        run(tmp_path / "none", resume=True)
    with pytest.raises(RunError, match=r"is not a run folder: it has no run\.json"):
        run(tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("killed") / "run"
    with pytest.raises(Killed):
        run(out, progress=kill_at(Updated, 12))
    return out


@pytest.fixture
def stopped(tmp_path: Path, killed: Path) -> Path:
    """A run killed after update 12, to do with as one likes."""
    return shutil.copytree(killed, tmp_path / "run")


def test_another_recipe_network_or_text(stopped: Path) -> None:
    with pytest.raises(ConfigError, match="was started with batch 4, not 5: a resumed run keeps it"):
        run(stopped, resume=True, batch=5)
    with pytest.raises(ConfigError, match="another network"):
        run(stopped, resume=True, model=replace(MODEL, hidden_size=9))
    other = replace(SPLITS, test=SPLITS.valid)
    with pytest.raises(RunError, match="the test text is not the one"):
        run(stopped, resume=True, splits=other)
    assert run(stopped, resume=True, rate=1e-4, checkpoint_every=0).status == "completed"


@pytest.mark.parametrize("damage", ["cut", "flipped", "not one"])
def test_damaged_checkpoints(stopped: Path, damage: str) -> None:
    file = stopped / "checkpoint.safetensors"
    data = file.read_bytes()
    flipped = data[:-100] + bytes([data[-100] ^ 4]) + data[-99:]
    file.write_bytes({"cut": data[:-9], "flipped": flipped, "not one": b"hello"}[damage])
    with pytest.raises(ModelError, match=r"the checkpoint .* is damaged: .*; start the run again in another folder"):
        run(stopped, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'\\"format_version\\": 1', b'\\"format_version\\": 9', "written by a newer fastslow"),
        (b'\\"update\\": 10', b'\\"update\\": -1', "update is -1"),
        (b'\\"validated\\": 10', b'\\"validated\\": 99', "its best update was never validated"),
        (b'\\"update\\": 10', b'\\"update\\": []', r"update is '\[\]'"),
        (b'\\"has_state\\": true', b'\\"had_state\\": true', "unknown field 'had_state'"),
        (b'\\"cpu\\": 50', b'\\"cpx\\": 50', "unknown random generator, 'cpx'"),
    ],
)
def test_checkpoints_that_say_something_else(stopped: Path, old: bytes, new: bytes, message: str) -> None:
    file = stopped / "checkpoint.safetensors"
    data = file.read_bytes()
    assert old in data
    assert len(old) == len(new)
    changed = data.replace(old, new, 1)
    file.write_bytes(changed.replace(b"header_sha256", b"header_sha25x", 1))  # as a stranger would
    with pytest.raises(ModelError, match=message):
        run(stopped, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format_version": 1', '"format_version": 2', "written by a newer fastslow"),
        ('"fastslow-run"', '"else"', "does not belong to a fastslow run"),
        ('"batch": 4', '"batch": "four"', "batch must be a whole number"),
        ('"hidden_size": 8', '"hidden_size": 0', "hidden_size must be"),
        ('"sessions": [', '"season": [', "unknown field 'season'"),
        ('"data": {', '"data": [', "is damaged: it is not JSON"),
    ],
)
def test_damaged_records(stopped: Path, old: str, new: str, message: str) -> None:
    file = stopped / "run.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ModelError, match=message):
        run(stopped, resume=True)


def test_a_configuration_that_is_not_the_records(stopped: Path) -> None:
    file = stopped / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 8', '"hidden_size": 9'))
    with pytest.raises(ModelError, match="its configuration differs from its record"):
        run(stopped, resume=True)


def test_best_weights_that_are_lost_are_said_to_be(stopped: Path) -> None:
    with pytest.raises(Killed):  # past the update of the best weights
        run(stopped, resume=True, progress=kill_at(Saved, 14))
    (stopped / "model.safetensors").write_bytes(b"")
    told: list[Event] = []
    assert run(stopped, resume=True, progress=told.append).status == "completed"
    assert [event.text for event in told if isinstance(event, Notice)] == [
        f"the best weights in {stopped} are missing or damaged: the next validation replaces them"
    ]
    CharLM.from_pretrained(stopped)


def test_resume_by_folder(tmp_path: Path, undisturbed: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT)
    from fastslow.training import DataSource

    source = DataSource(texts=(str(file),), fractions=(0.8, 0.1, 0.1))
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(
            MODEL, RECIPE, source, out, device="cpu", backend="reference", progress=kill_at(Updated, 12), command="a b"
        )
    assert resume(out, changes={"max_time": 0.0}, command="c d").status == "time"
    assert resume(out, changes={"max_time": None}).status == "completed"
    assert_same(out, undisturbed)
    assert [session["command"] for session in read_record(out).sessions] == ["a b", "c d", None]
    with pytest.raises(ConfigError, match="unknown field of the recipe"):
        resume(out, changes={"speed": 3})
    with pytest.raises(RunError, match="passed in Python"):
        resume(undisturbed)


def test_resume_if_there_is_a_run(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = {"device": "cpu", "backend": "reference", "resume": "auto"}
    with pytest.raises(Killed):
        train(MODEL, RECIPE, SPLITS, out, progress=kill_at(Updated, 12), **options)
    assert train(MODEL, RECIPE, SPLITS, out, **options).status == "completed"
    assert_same(out, undisturbed)


def test_the_recipe_of_these_tests_validates_and_saves_at_odd_moments() -> None:
    assert RECIPE.validate_every % RECIPE.checkpoint_every
    assert isinstance(RECIPE, TrainConfig)
