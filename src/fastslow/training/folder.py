"""The run folder.

    run.json                recipe, data (hashes), versions and machine; one entry per session
    config.json             the language model's configuration
    model.safetensors       the weights of the best validation: `CharLM.from_pretrained(folder)`
    checkpoint.safetensors  everything a resumed run needs
    metrics.jsonl           training and validation losses, one JSON object per line
    result.json             the result including the test, once the run is complete
    tensorboard/            curves, if TensorBoard is installed

One process at a time writes to it and holds a lock, which the system releases when the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fastslow.errors import FastslowError, os_reason
from fastslow.lm.config import ConfigError, ModelOptions
from fastslow.lm.files import make_folder
from fastslow.storage import (
    ModelError,
    StorageError,
    check_fields,
    check_version,
    is_finite_number,
    parse_json,
    read_json,
    remove_parts,
    write_json,
)
from fastslow.training.config import TrainConfig
from fastslow.training.sources import DataSource

RUN_FILE = "run.json"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"
LOCK_FILE = ".lock"

RUN_FORMAT = "fastslow-run"
RUN_FORMAT_VERSION = 1
MAX_LINE_BYTES = 1 << 16
"""Limit for a line of metrics; a hundred times the usual length."""
MAX_SESSIONS = 200
"""Number of sessions in a record, so that a job that is restarted for weeks stays below the size limit for reading."""


class RunError(FastslowError):
    """A run folder that cannot be used as requested."""


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`.

    source: the source of the text, or None if it was passed in Python. data: name, bytes and SHA-256 of its parts.
    init_from: the trained model from whose weights the run started, or None. sessions: one entry for each process of
    the run: time, command, versions, machine, engine; if there are very many, the first and the latest.
    """

    model: ModelOptions
    train: TrainConfig
    source: DataSource | None
    data: Mapping[str, Any]
    backend: str = "auto"
    device: str = "cpu"
    init_from: str | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": RUN_FORMAT,
            "format_version": RUN_FORMAT_VERSION,
            "model": self.model.options_json(),
            "train": self.train.to_json(),
            "source": None if self.source is None else self.source.to_json(),
            "data": dict(self.data),
            "backend": self.backend,
            "device": self.device,
            **({} if self.init_from is None else {"init_from": self.init_from}),
            "sessions": self.sessions,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> RunRecord:
        """The record that `to_json` wrote. Raises ModelError for anything else."""
        if value.get("format") != RUN_FORMAT:
            raise ModelError(f"{where} does not belong to a fastslow run: its format is not {RUN_FORMAT!r}")
        check_version(value, RUN_FORMAT_VERSION, where)
        value = {"init_from": None, **value}  # which says only what is not random weights
        names = ("model", "train", "source", "data", "backend", "device", "init_from", "sessions")
        check_fields(value, ("format", "format_version", *names), where, ModelError)
        kinds = {"model": dict, "train": dict, "data": dict, "backend": str, "device": str, "sessions": list}
        for name, kind in kinds.items():
            if not isinstance(value[name], kind):
                raise ModelError(f"{where} is damaged: {name} is not of type {kind.__name__}")
        if not isinstance(value["source"], dict | None):
            raise ModelError(f"{where} is damaged: source is not an object")
        if not isinstance(value["init_from"], str | None):
            raise ModelError(f"{where} is damaged: init_from is not a model's name")
        for name, text in value["data"].items():
            if text is not None and not _fits(text, _TEXT):
                raise ModelError(f"{where} is damaged: its data lacks name, bytes or sha256 of {name[:40]!r}")
        if not all(_fits(session, _SESSION) for session in value["sessions"]):
            raise ModelError(f"{where} is damaged: a session has unexpected fields")
        try:
            return cls(
                model=ModelOptions.from_options_json(value["model"]),
                train=TrainConfig.from_json(value["train"]),
                source=None if value["source"] is None else DataSource.from_json(value["source"]),
                data=value["data"],
                backend=value["backend"],
                device=value["device"],
                init_from=value["init_from"],
                sessions=value["sessions"],
            )
        except FastslowError as error:
            raise ModelError(f"{where} is damaged: {error}") from error


_TEXT = {"name": str, "bytes": int, "sha256": str}
_SESSION = {"started": str, "engine": str, "parameters": int, "update": int, "machine": dict, "versions": dict}


def _fits(value: object, kinds: Mapping[str, Any]) -> bool:
    """Whether `value` is an object with at least these fields of these types, and no negative number."""
    if not isinstance(value, dict):
        return False
    for name, kind in kinds.items():
        part = value.get(name)
        if not isinstance(part, kind) or isinstance(part, bool):
            return False
        if isinstance(part, int | float) and not (is_finite_number(part) and part >= 0):
            return False
    return True


def read_record(folder: str | os.PathLike[str]) -> RunRecord:
    """The record of the run in `folder`. Raises RunError if there is none, ModelError if it is damaged."""
    path = Path(folder)
    if not path.is_dir():
        raise RunError(f"there is no run {path}: name the folder of one, such as runs/demo")
    file = path / RUN_FILE
    if not file.is_file():
        raise RunError(f"{path} is not a run folder: it has no {RUN_FILE}")
    return RunRecord.from_json(read_json(file, what="the run's record"), f"the run's record {file}")


class RunFolder:
    """A run folder locked by this process; a context manager. Use `create` or `open`."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, out: str | os.PathLike[str]) -> RunFolder:
        """Create the folder of a new run. Raises RunError if it is not empty, StorageError if it cannot be created."""
        path = Path(out)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: choose another output folder")
        make_folder(path)
        folder = cls(path, _lock(path))
        try:
            folder._tidy()
            there = {entry.name for entry in path.iterdir()} - {LOCK_FILE}
            if RUN_FILE in there:
                raise RunError(f"{path} already contains a run: resume it (--resume), or choose another output folder")
            if there:
                raise RunError(f"{path} is not empty and not a run folder: choose another output folder")
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, out: str | os.PathLike[str]) -> RunFolder:
        """Open the folder of an existing run. Raises RunError, or StorageError if it cannot be written to."""
        path = Path(out)
        if not path.is_dir() or not (path / RUN_FILE).is_file():
            read_record(path)  # raises the error
        folder = cls(path, _lock(path))
        try:
            folder._tidy()
        except BaseException:
            folder.close()
            raise
        return folder

    def _tidy(self) -> None:
        """Remove temporary files of a killed process."""
        try:
            remove_parts(self.path)
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {os_reason(error)}") from error

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json`. If there are very many sessions, only the first and the latest are kept."""
        del record.sessions[1 : 1 - MAX_SESSIONS]
        write_json(self.path / RUN_FILE, record.to_json(), what="the run's record")


def _lock(path: Path) -> IO[bytes]:
    """Lock the folder for this process. The system releases the lock when the process ends, even if it is killed."""
    try:
        # Unbuffered: a write that failed on a full disk must not be repeated when the file is closed.
        file = open(path / LOCK_FILE, "a+b", buffering=0)  # noqa: SIM115 - held until the run ends
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {os_reason(error)}") from error
    try:
        _hold(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return file  # a file system without locks
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        who = f"process {owner.decode()}" if owner.isdigit() else "another process"
        raise RunError(f"{path} is in use: {who} is training there; wait for it, or choose another folder") from error
    with contextlib.suppress(OSError):  # optional; a full disk is reported elsewhere
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
    return file


def _hold(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Metrics:
    """`metrics.jsonl`, truncated to the length in the checkpoint when a run is resumed."""

    def __init__(self, folder: Path, length: int) -> None:
        self.path = folder / METRICS_FILE
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
            there = self._file.seek(0, os.SEEK_END)
            if there < length:  # truncated by someone else: keep complete lines
                self._file.seek(0)
                length = self._file.read(there).rfind(b"\n") + 1
            if there > length:
                self._file.truncate(length)
                self._file.seek(length)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {os_reason(error)}") from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line. Raises StorageError."""
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {os_reason(error)}") from error

    def sync(self) -> int:
        """Flush the lines to the disk and return the file's length."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {os_reason(error)}") from error
        return self._file.tell()

    def close(self) -> None:
        # A line that could not be written fails again here, and has been reported.
        with contextlib.suppress(OSError):
            self._file.close()


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without an incomplete last line. Raises ModelError."""
    path = Path(folder) / METRICS_FILE
    lines: list[dict[str, Any]] = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
                if line.endswith(b"\n"):
                    lines.append(parse_json(line, f"line {number} of {path}"))
                elif len(line) == MAX_LINE_BYTES:
                    raise ModelError(f"line {number} of {path} is damaged: it is too long")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from error
    return lines


_RESULT = {"status": str, "updates": int, "epochs": int, "characters": int, "seconds": int | float, "update": int}
_TEST = {
    "bpc": int | float,
    "nats": int | float,
    "symbols": int,
    "protocol": str,
    "streams": int,
    "warm": int,
    "models": int,
    "seconds": int | float,
}
_CHAR = {"bpc": int | float, "nats": int | float, "symbols": int}


def read_result(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `result.json` of a complete run, as written by `RunResult.to_json`. Raises ModelError."""
    path = Path(folder) / RESULT_FILE
    where = f"the result {path}"
    value = read_json(path, what="the result")
    check_fields(value, (*_RESULT, "best_update", "best_bpc", "test"), where, ModelError)
    test, best = value["test"], {name: value[name] for name in ("best_update", "best_bpc")}
    char = None
    fits = _fits(value, _RESULT) and (
        all(part is None for part in best.values()) or _fits(best, {"best_update": int, "best_bpc": int | float})
    )
    if fits and test is not None:
        fits = _fits(test, _TEST) and "char_protocol" in test
        char = test["char_protocol"] if fits else None
    if not fits or not (char is None or _fits(char, _CHAR)):
        raise ModelError(f"{where} is damaged: a figure is missing or has the wrong type")
    return value


def versions() -> dict[str, str]:
    """Versions of the libraries on which results depend."""
    import numpy
    import torch

    import fastslow

    return {
        "fastslow": fastslow.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def machine(device: str) -> dict[str, Any]:
    """The machine of a run."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def check_changes(old: TrainConfig, new: TrainConfig, changeable: tuple[str, ...], out: Path) -> dict[str, Any]:
    """{field: [old, new]} of the changes of a resumed run. Raises ConfigError for a change that is not allowed."""
    before, after = old.to_json(), new.to_json()
    changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
    for name, (was, wanted) in changed.items():
        if name not in changeable:
            raise ConfigError(
                f"{out} was started with {name} {was}, not {wanted}: a resumed run keeps it; leave it out, or start "
                "a new run in another folder"
            )
    return changed
