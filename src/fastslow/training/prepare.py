"""Prepare a run: check all arguments, then create or open its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from fastslow.data.streams import Streams
from fastslow.data.text import Splits
from fastslow.lm import files
from fastslow.lm.config import ConfigError, LMConfig, ModelOptions
from fastslow.lm.model import CharLM
from fastslow.storage import ModelError
from fastslow.training.config import CHANGEABLE, TrainConfig
from fastslow.training.distributed import Ranks, rows_at_once
from fastslow.training.folder import RUN_FILE, RunError, RunFolder, RunRecord, check_changes, read_record
from fastslow.training.initial import configuration, read_initial, write_initial
from fastslow.training.precision import autocast, multiplies_bf16
from fastslow.training.sources import DataSource, make_alphabet


@dataclass(frozen=True)
class PreparedRun:
    """A prepared run; `folder` is set on the rank that writes. The session is this process's entry in the record."""

    out: Path
    folder: RunFolder | None
    record: RunRecord
    lm_config: LMConfig
    splits: Splits
    session: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The information for the other ranks."""
        return {"out": str(self.out), "record": self.record.to_json(), "model": self.lm_config.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], data: Splits | None) -> PreparedRun:
        """The run that rank 0 prepared, with this rank's text, which must be the same."""
        record = RunRecord.from_json(value["record"], "the record of rank 0")
        if data is None and record.source is None:
            raise RunError("rank 0 received its text in Python: pass it on every rank")
        splits = data if data is not None else cast(DataSource, record.source).open()
        _check_texts(record, splits.describe(), "that of rank 0")
        return cls(Path(value["out"]), None, record, LMConfig.from_json(value["model"]), splits, {})


def prepare(
    model: ModelOptions,
    config: TrainConfig,
    data: DataSource | Splits,
    out: str | os.PathLike[str],
    device: str,
    backend: str,
    resume: bool | Literal["auto"],
    alphabet: Literal["bytes", "text"] | None,
    init_from: str | None,
    command: str | None,
    ranks: Ranks,
    stack: ExitStack,
) -> PreparedRun:
    """Check all arguments, then create or open the run folder, which `stack` closes."""
    source = data if isinstance(data, DataSource) else None
    kind = alphabet or ("bytes" if source is None else source.alphabet)
    if source is not None and kind != source.alphabet:
        source = replace(source, alphabet=kind)
    if resume == "auto":
        resume = (Path(out) / RUN_FILE).is_file()
    resume = resume or _was_begun_by(ranks, out)
    splits = data if isinstance(data, Splits) else data.open()
    if source is not None and source.documents and _device(device).startswith("cuda"):
        raise ConfigError(
            "documents need resets of the state inside a training step, which GPUs do not support: use cpu"
        )
    record = RunRecord(model, config, source, splits.describe(), backend, _device(device), init_from)
    on, rows = ranks.device(record.device), rows_at_once(config.batch, config.accumulate, ranks.size)
    _check_recipe(config, splits, record.device)
    session: dict[str, Any] = {"command": command}
    if ranks.size > 1:
        session["processes"] = ranks.size
    if ranks.launch.job is not None:
        session["job"] = ranks.launch.job
    if resume:
        folder = stack.enter_context(RunFolder.open(out))
        record, session["changed"] = _continued(read_record(out), record, folder.path)
        if not (folder.path / files.CONFIG_FILE).exists():  # killed between writing the two files
            lm_config, initial = _model(record, kind, splits)
            _write_model(folder.path, lm_config, initial, config, on)
        stored = files.read_config(folder.path)
        if stored.options != model:
            raise ModelError(f"{out} is damaged: its configuration differs from its record")
        session["engine"] = _engine(stored, config, rows, backend, on)
        return PreparedRun(folder.path, folder, record, stored, splits, session)
    if init_from is not None and alphabet is not None:
        raise ConfigError(f"a run that starts from {init_from} uses its alphabet: omit the alphabet")
    lm_config, initial = _model(record, kind, splits)
    session["engine"] = _engine(lm_config, config, rows, backend, on)
    folder = stack.enter_context(RunFolder.create(out))
    folder.write_record(record)  # first: from here on the run can be resumed
    _write_model(folder.path, lm_config, initial, config, on)
    return PreparedRun(folder.path, folder, record, lm_config, splits, session)


def _model(record: RunRecord, kind: str, splits: Splits) -> tuple[LMConfig, CharLM | None]:
    """The configuration of a new run's model, and the trained model it starts from, if there is one."""
    if record.init_from is None:
        return record.model.with_alphabet(make_alphabet(kind, splits)), None
    initial = read_initial(record.init_from, record.model, splits)
    return configuration(initial, record.model), initial


def _write_model(
    folder: Path, lm_config: LMConfig, initial: CharLM | None, config: TrainConfig, device: torch.device
) -> None:
    """Write the configuration last: if it is missing, a resumed run writes both again."""
    if initial is not None:
        write_initial(folder, initial, config, device)
    files.write_config(folder, lm_config)


def _was_begun_by(ranks: Ranks, out: str | os.PathLike[str]) -> bool:
    """Whether torchrun restarted these processes and the previous ones started the run in `out`."""
    if ranks.launch.restarts == 0 or ranks.launch.job is None or not (Path(out) / RUN_FILE).is_file():
        return False
    sessions = read_record(out).sessions
    return bool(sessions) and sessions[-1].get("job") == ranks.launch.job


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {name[:40]!r}: use cpu, cuda, cuda:1, ... or auto") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device {name}: this machine has {torch.cuda.device_count()} GPUs; use cpu")
    return name


def _check_recipe(config: TrainConfig, splits: Splits, device: str) -> None:
    """Raise errors that would occur later, before the folder is created."""
    last_offset = config.window - 1 if config.random_offset else 0
    Streams.training(splits.train.data, config.batch, config.window, offset=last_offset)
    if splits.valid is None and config.schedule == "plateau":
        raise ConfigError("schedule plateau needs a validation text: pass one, or choose another schedule")
    if config.jitter and torch.device(device).type == "cuda":
        raise ConfigError(
            "jitter needs windows of different lengths, but on a GPU training steps are recorded for one: set it to 0"
        )


def _engine(lm_config: LMConfig, config: TrainConfig, rows: int, backend: str, device: torch.device) -> str:
    """The engine that will train, and why no faster one can. Raises ConfigError if the named one cannot."""
    try:
        layer = CharLM(lm_config, backend=backend, device="meta").layer
        x = torch.empty(1, 1, 1, device=device).expand(config.window, rows, lm_config.embedding_size)
        with autocast(x.device, config.precision):
            engine = str(layer.backend_for(x))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from error
    if config.precision == "bf16" and not multiplies_bf16(device):
        name, *why = engine.split(";", 1)
        return ";".join([f"{name} in float32 (this CPU has no bfloat16 instructions)", *why])
    return engine


def _continued(old: RunRecord, new: RunRecord, out: Path) -> tuple[RunRecord, dict[str, Any]]:
    """The record of a resumed run, and the changes of its recipe.

    Raises ConfigError for changes that are not allowed, RunError for another text.
    """
    if old.model != new.model:
        raise ConfigError(f"{out} was started with another network: omit the network's options to resume it")
    if new.init_from not in (None, old.init_from):
        began = "random weights" if old.init_from is None else old.init_from
        raise ConfigError(f"{out} was started from {began}, not from {new.init_from}: omit it to resume the run")
    changed = check_changes(old.train, new.train, CHANGEABLE, out)
    _check_texts(old, new.data, f"the one {out} was started with")
    return replace(old, train=new.train, backend=new.backend, device=new.device), changed


def _check_texts(record: RunRecord, data: Mapping[str, Any], whose: str) -> None:
    for part, entry in data.items():
        was = record.data.get(part)
        if (was or {}).get("sha256") != (entry or {}).get("sha256"):
            raise RunError(f"the {part} text is not {whose}: restore it to resume the run")
