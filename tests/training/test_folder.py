"""A run folder in every state that a killed process, a full disk or a person can leave it in: used, or explained."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastslow import storage
from fastslow.cli import main
from fastslow.lm import CharLM, ModelError, StorageError
from fastslow.training import DataSource, RunError, RunResult, read_metrics, read_record, resume, train
from fastslow.training import folder as folders
from fastslow.training.curves import Curves
from fastslow.training.events import Event, Updated
from fastslow.training.folder import MAX_SESSIONS, Metrics, RunFolder

from .runs import MODEL, RECIPE, TEXT, Killed, assert_same

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    file = tmp_path_factory.mktemp("text") / "text"
    file.write_bytes(TEXT)
    return DataSource(texts=(str(file),), fractions=(0.8, 0.1, 0.1))


def begin(out: Path, source: DataSource, progress: Callable[[Event], None] | None = None, **changes: Any) -> RunResult:
    recipe = replace(RECIPE, **changes)
    return train(MODEL, recipe, source, out, device="cpu", backend="reference", progress=progress)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: DataSource) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    begin(out, source)
    return out


def kill_at(update: int) -> Callable[[Event], None]:
    def progress(event: Event) -> None:
        if isinstance(event, Updated) and event.update == update:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, source: DataSource) -> Path:
    out = tmp_path_factory.mktemp("killed") / "run"
    with pytest.raises(Killed):
        begin(out, source, kill_at(12))
    return out


@pytest.fixture
def stopped(tmp_path: Path, killed: Path) -> Path:
    """A run killed after update 12: checkpoint and best weights are of update 10."""
    return shutil.copytree(killed, tmp_path / "run")


@contextmanager
def killed_when(monkeypatch: pytest.MonkeyPatch, replaces: str, nth: int = 1) -> Iterator[None]:
    """The process ends before the `nth` rename to a file of this name."""
    left, rename = [nth], os.replace

    def dying(old: Path, new: Path) -> None:
        if Path(new).name == replaces:
            left[0] -= 1
            if left[0] == 0:
                shutil.copy(old, f"{old}.left.part")  # what the exception removes and SIGKILL would not
                raise Killed
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            yield


# ---------------------------------------------------------------------- what each command says

READERS = ("info", "evaluate", "sample", "score")


def ask(capsysbinary: pytest.CaptureFixture[bytes], command: str, out: Path, source: DataSource) -> str:
    """ "" if the command works on the folder, else its one line."""
    text = source.texts[0]
    arguments = {
        "info": ["info", out],
        "evaluate": ["evaluate", out, text],
        "sample": ["sample", out, "--length", "5", "--seed", "1"],
        "score": ["score", text, "--model", out],
        "resume": ["train", "--resume", "--out", out],
    }[command]
    status = main([str(argument) for argument in arguments])
    said = capsysbinary.readouterr().err.decode()
    if status == 0:
        return ""
    assert status == 2
    errors = [line for line in said.splitlines() if line.startswith("fastslow: error: ")]
    assert said.splitlines()[-1:] == errors, said
    return errors[0].removeprefix("fastslow: error: ")


def state_before_the_record(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "run.json"):
        begin(out, source)


def state_before_the_configuration(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "config.json"):
        begin(out, source)


def state_before_the_first_checkpoint(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "checkpoint.safetensors"):
        begin(out, source)


def state_before_the_first_validation(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "checkpoint.safetensors", nth=2):
        begin(out, source)


def state_before_the_first_weights(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "model.safetensors"):
        begin(out, source)


def state_in_a_later_checkpoint(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "checkpoint.safetensors", nth=4):
        begin(out, source)


def state_before_the_result(out: Path, source: DataSource, patch: pytest.MonkeyPatch) -> None:
    with killed_when(patch, "result.json"):
        begin(out, source)


NO_WEIGHTS = "holds no weights: it has no model.safetensors; if it is a run, it was stopped before its first"
NO_RUN = "it has no run.json"
NO_MODEL = "holds no model: it has no config.json"
STATES: list[tuple[Callable[[Path, DataSource, pytest.MonkeyPatch], None], dict[str, str]]] = [
    (state_before_the_record, {**dict.fromkeys(READERS, NO_MODEL), "resume": NO_RUN}),
    (state_before_the_configuration, {**dict.fromkeys(READERS, NO_MODEL)}),
    (state_before_the_first_checkpoint, dict.fromkeys(READERS[1:], NO_WEIGHTS)),
    (state_before_the_first_validation, dict.fromkeys(READERS[1:], NO_WEIGHTS)),
    (state_before_the_first_weights, dict.fromkeys(READERS[1:], NO_WEIGHTS)),
    (state_in_a_later_checkpoint, {}),
    (state_before_the_result, {}),
]


@pytest.mark.parametrize(("state", "refusals"), STATES, ids=lambda value: getattr(value, "__name__", ""))
def test_wherever_it_was_killed(
    tmp_path: Path,
    source: DataSource,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    state: Callable[[Path, DataSource, pytest.MonkeyPatch], None],
    refusals: dict[str, str],
) -> None:
    out = tmp_path / "run"
    state(out, source, monkeypatch)
    assert list(out.glob(".*.part"))
    assert not [path for path in out.iterdir() if path.name.endswith(".part") and not path.name.startswith(".")]
    for command in READERS:
        told, expected = ask(capsysbinary, command, out, source), refusals.get(command, "")
        assert told == "" if not expected else expected in told, (command, told)
    told = ask(capsysbinary, "resume", out, source)
    if "resume" in refusals:
        assert refusals["resume"] in told
        begin(out, source)  # nothing is in the way of a new start
    else:
        assert told == ""
    assert_same(out, undisturbed)
    assert (out / "config.json").read_bytes() == (undisturbed / "config.json").read_bytes()
    assert not list(out.glob(".*.part"))


def test_what_half_written_files_lie_around_is_not_read_and_removed(
    stopped: Path, source: DataSource, undisturbed: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name in ("checkpoint.safetensors", "model.safetensors", "run.json", "config.json"):
        data = (stopped / name).read_bytes()
        (stopped / f".{name}.99999.part").write_bytes(data[: len(data) // 2])
    assert [ask(capsysbinary, command, stopped, source) for command in READERS] == [""] * 4
    assert ask(capsysbinary, "resume", stopped, source) == ""
    assert_same(stopped, undisturbed)
    assert not list(stopped.glob(".*.part"))


MISSING = {
    "run.json": ("resume", NO_RUN),
    "config.json": ("sample", NO_MODEL),
    "checkpoint.safetensors": ("resume", "cannot be resumed: it has its best weights but no checkpoint.safetensors"),
    "model.safetensors": ("sample", NO_WEIGHTS),
    "metrics.jsonl": ("", ""),
}


@pytest.mark.parametrize("name", MISSING)
def test_files_that_were_taken_away(
    stopped: Path, source: DataSource, capsysbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    (stopped / name).unlink()
    there = {path.name: path.read_bytes() for path in stopped.glob("*.safetensors")}
    told = {command: ask(capsysbinary, command, stopped, source) for command in (*READERS, "resume")}
    which, words = MISSING[name]
    if which:
        assert words in told[which]
    if which == "resume":  # refused, and nothing written over
        assert there == {path.name: path.read_bytes() for path in stopped.glob("*.safetensors")}
    else:
        assert told["resume"] == ""
        assert CharLM.from_pretrained(stopped).config.hidden_size == MODEL.hidden_size


def test_a_complete_run_without_its_checkpoint_is_not_made_again(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "checkpoint.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("run.json", ".lock")}
    message = r"cannot be resumed: .*; use them directly, or start the run again in another"
    with pytest.raises(ModelError, match=message):
        resume(out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("run.json", ".lock")}


def test_metrics_that_were_cut_short_stay_whole_lines(tmp_path: Path) -> None:
    whole = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"a"')
    metrics = Metrics(tmp_path, 1000)
    metrics.write({"a": 3})
    metrics.close()
    assert [line["a"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    metrics = Metrics(tmp_path, 9)
    metrics.write({"a": 4})
    assert metrics.sync() == 18
    metrics.close()
    assert [line["a"] for line in read_metrics(tmp_path)] == [1, 4]


def test_a_run_that_is_restarted_for_ever_can_still_be_read(stopped: Path) -> None:
    record = read_record(stopped)
    first = record.sessions[0]
    with RunFolder.open(stopped) as folder:
        for number in range(3 * MAX_SESSIONS):
            record.sessions.append({**first, "update": number})
            if number % 20 == 0 or number > 3 * MAX_SESSIONS - 5:  # each write waits for the disk
                folder.write_record(record)
    sessions = read_record(stopped).sessions
    assert len(sessions) == MAX_SESSIONS
    assert sessions[0] == first
    assert [session["update"] for session in sessions[1:]] == [*range(2 * MAX_SESSIONS + 1, 3 * MAX_SESSIONS)]
    assert (stopped / "run.json").stat().st_size < storage.MAX_JSON_BYTES / 2


# ---------------------------------------------------------------------- two processes


def test_a_second_process_is_refused(stopped: Path, source: DataSource, undisturbed: Path) -> None:
    """Real processes; the first stands still, so that it is there."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(stopped)], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=rf"is in use: process {first.pid} is training there; wait for it, or"):
            resume(stopped)
        with pytest.raises(RunError, match="is in use"):
            begin(stopped, source)
        CharLM.from_pretrained(stopped)  # readers need no lock
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert resume(stopped).status == "completed"  # the lock went with its process
    assert_same(stopped, undisturbed)


HOLD = """
import sys
from fastslow.training.folder import RunFolder
with RunFolder.open(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_number_in_a_lock_is_a_courtesy(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(stopped):
        (stopped / ".lock").write_bytes(b"")
        with pytest.raises(RunError, match="is in use: another process is training there"):
            RunFolder.open(stopped)
    real = open

    class Full:
        """A file on a disk that has no room."""

        def __init__(self, file: Any) -> None:
            self.fileno, self.close = file.fileno, file.close

        def truncate(self, size: int) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "open", lambda *a, **k: Full(real(*a, **k)), raising=False)
    with RunFolder.open(stopped) as folder:
        assert folder.path == stopped


# ---------------------------------------------------------------------- disks


def test_curves_on_a_full_disk_are_an_error_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    curves = Curves(tmp_path, 0, True)
    curves.add(1, {"train/bpc": 2.0})
    curves._records.close()
    curves._records._writer = open("/dev/full", "wb")  # noqa: SIM115 - closed by close()
    curves.add(2, {"train/bpc": 1.0})
    with pytest.raises(StorageError, match=r"cannot write curves to .*tensorboard: the disk is full"):
        curves.flush()
    curves.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write curves"):
        Curves(tmp_path / "file", 0, True)


def test_metrics_on_a_full_disk(stopped: Path, undisturbed: Path) -> None:
    """The system's own device that is always full, in the place of the file."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    kept = (stopped / "metrics.jsonl").read_bytes()
    (stopped / "metrics.jsonl").unlink()
    (stopped / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot write .*: the disk is full; the checkpoint of step 10 is kept"):
        resume(stopped)
    (stopped / "metrics.jsonl").unlink()
    (stopped / "metrics.jsonl").write_bytes(kept)
    assert resume(stopped).status == "completed"
    assert_same(stopped, undisturbed)


def own_mounts() -> list[str]:
    """What gives a command mounts of its own; skips where that is not permitted."""
    for head in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        command = [*head, "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
        if shutil.which("unshare") and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return head
    pytest.skip("mounts of one's own are not permitted here")


DISK = """
import subprocess, sys
from pathlib import Path
from fastslow.errors import FastslowError
from fastslow.lm import CharLM
from fastslow.training.events import Updated
from tests.training.runs import Killed, assert_same, run
root, undisturbed = Path(sys.argv[1]), Path(sys.argv[2])
def mount(*options): subprocess.run(["mount", *options, str(disk)], check=True)
def told(what):
    try: what()
    except FastslowError as error: print(error)
    else: print("no error")
"""
FULL = """
pages = (undisturbed / "checkpoint.safetensors").stat().st_size // 4096
mount("-t", "tmpfs", "-o", f"size={pages * 4096 * 3 // 2 + 8 * 4096}", "tmpfs")
told(lambda: run(disk / "run"))
print(sorted(path.name for path in (disk / "run").iterdir()))
filled = open(disk / "ballast", "wb", buffering=0)
try:
    while True: filled.write(bytes(4096))
except OSError: pass
told(lambda: run(disk / "run", resume=True))
filled.close()
(disk / "ballast").unlink()
mount("-o", "remount,size=64m")
run(disk / "run", resume=True)
assert_same(disk / "run", undisturbed)
"""
READ_ONLY = """
def progress(event):
    if isinstance(event, Updated) and event.update == 12: raise Killed
mount("-t", "tmpfs", "-o", "size=64m", "tmpfs")
try: run(disk / "run", progress=progress)
except Killed: pass
mount("-o", "remount,ro")
told(lambda: run(disk / "run", resume=True))
told(lambda: run(disk / "other"))
print(len(CharLM.from_pretrained(disk / "run").generate("1", 5)))
mount("-o", "remount,rw")
run(disk / "run", resume=True)
assert_same(disk / "run", undisturbed)
"""


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The lines that each script prints: both in one process, each with a disk of its own."""
    from .runs import run

    head, root = own_mounts(), tmp_path_factory.mktemp("disks")
    run(root / "plain")
    program = DISK
    for name, script in (("full", FULL), ("read-only", READ_ONLY)):
        (root / name).mkdir()
        program += f"disk = root / {name!r}\n{script}\nprint('----')\n"
    command = [*head, sys.executable, "-c", program, str(root), str(root / "plain")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full, read_only, rest = done.stdout.split("----\n")
    assert rest == ""
    return {
        "full": full.replace(str(root / "full"), "DISK").splitlines(),
        "read-only": read_only.replace(str(root / "read-only"), "DISK").splitlines(),
    }


def test_a_disk_that_is_full(disks: dict[str, list[str]]) -> None:
    first, names, again = disks["full"]
    assert re.fullmatch(
        r"cannot write the checkpoint of step 10 to DISK/run: the disk is full; "
        r"the checkpoint of step 7 is kept: free some space, then resume",
        first,
    )
    assert names == "['.lock', 'checkpoint.safetensors', 'config.json', 'metrics.jsonl', 'run.json']"
    assert again == "cannot write the run's record to DISK/run: the disk is full"


def test_a_folder_that_may_be_read_only(disks: dict[str, list[str]]) -> None:
    resumed, begun, length = disks["read-only"]
    assert resumed == "cannot write to DISK/run: read-only file system"
    assert begun == "cannot make the folder DISK/other: read-only file system"
    assert int(length) == 5


def test_a_folder_without_permission(stopped: Path, undisturbed: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("permissions do not hold the superuser")
    stopped.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="cannot write"):
            resume(stopped)
        CharLM.from_pretrained(stopped)
    finally:
        stopped.chmod(0o755)
    resume(stopped)
    assert_same(stopped, undisturbed)


def test_an_error_of_cleaning_up_does_not_hide_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.write_atomic(tmp_path / "file", full)


def test_file_systems_that_cannot_sync_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([22, 5])

    def refuse(_: int) -> None:
        raise OSError(next(numbers), "no")

    monkeypatch.setattr(os, "fsync", refuse)
    storage.sync_folder(tmp_path)  # EINVAL: it knows no such thing
    with pytest.raises(OSError, match="no"):
        storage.sync_folder(tmp_path)  # EIO


def test_leftovers_that_cannot_be_removed(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "remove_parts", refuse)
        with pytest.raises(StorageError, match=r"cannot write to .*: operation not permitted"):
            RunFolder.open(stopped)
        with pytest.raises(StorageError, match=r"cannot write to .*: operation not permitted"):
            RunFolder.create(stopped.parent / "other")
    RunFolder.open(stopped).close()  # not held by those that failed
