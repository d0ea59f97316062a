"""`train` and `resume`: a run from its first update, or from its last checkpoint, to its tested weights."""

from __future__ import annotations

import datetime
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fastslow.data.streams import Streams, random_offset, random_resets
from fastslow.data.text import Splits, Text
from fastslow.evaluation import Evaluation, evaluate
from fastslow.lm import files
from fastslow.lm.config import ConfigError, LMConfig, ModelOptions
from fastslow.lm.model import CharLM, weight_shapes
from fastslow.lm.store import ModelError, StorageError, write_json
from fastslow.metrics import nats_to_bits
from fastslow.state import map_state, reset_rows, state_tensors
from fastslow.training.accelerated import graphed_scoring, make_updater
from fastslow.training.checkpoint import (
    Checkpoint,
    Position,
    check_checkpoint,
    random_state,
    read_checkpoint,
    set_random_state,
)
from fastslow.training.config import CHANGEABLE, TrainConfig
from fastslow.training.curves import Curves
from fastslow.training.distributed import Group, LostError, Ranks, joined, rows_at_once
from fastslow.training.events import Callback, Evaluating, Event, Notice, Saved, Started, Tested, Updated, Validated
from fastslow.training.folder import (
    RESULT_FILE,
    RUN_FILE,
    Metrics,
    RunError,
    RunFolder,
    RunRecord,
    check_changes,
    machine,
    read_record,
    read_result,
    versions,
)
from fastslow.training.launch import LaunchError
from fastslow.training.schedule import Plateau, learning_rate
from fastslow.training.signals import StopRequested, StopSignals
from fastslow.training.sources import DataSource, make_alphabet
from fastslow.training.updater import TailAverage, Updating, WeightAverage

PENDING_ON_GPU = 16
"""Updates whose losses are fetched together from a GPU: each fetch waits for it."""

Status = Literal["completed", "interrupted", "time"]


class DivergedError(RunError):
    """The loss or its gradient is no number any more."""


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    status: "completed"; "interrupted" by a signal; "time" when `max_time` was over. The last two can be resumed.
    updates, epochs: done. characters: trained on. seconds: of all processes.
    best_update, best_bpc: the best validation, whose weights are in the folder; None before the first.
    test: of those weights; None before the run is complete, or without a test text.
    """

    out: Path
    status: Status
    updates: int
    epochs: int
    characters: int
    seconds: float
    best_update: int | None
    best_bpc: float | None
    test: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in ("status", "updates", "epochs", "characters", "seconds")}
        value |= {"best_update": self.best_update, "best_bpc": self.best_bpc}
        return {**value, "test": None if self.test is None else self.test.to_json()}


def train(
    model: ModelOptions,
    config: TrainConfig,
    data: DataSource | Splits,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    backend: str = "auto",
    resume: bool | Literal["auto"] = False,
    alphabet: Literal["bytes", "text"] | None = None,
    progress: Callback | None = None,
    command: str | None = None,
) -> RunResult:
    """Train a model by a recipe on a text, in a run folder; see `TrainConfig` for what an update is.

    Args:
        model, config, data: the network, the recipe, and the text: a source that a resumed run can open again, or
            parts in memory.
        out: the run folder (see `training.folder`); it must not hold anything, unless resumed.
        device: "cpu", "cuda", ..., or "auto" for a GPU where there is one.
        backend: the layer's engine.
        resume: True goes on with the run in `out`, which must have been started with the same arguments (but for
            `config.CHANGEABLE`); "auto" does so if there is one, and starts it otherwise.
        alphabet: "bytes" or "text", default what `data` says; "bytes" for parts in memory.
        progress: called with what happens (`training.events`), in this thread.
        command: what a person typed, for the record.

    Going on with a run gives, bit for bit on a CPU, what it would have given had it not been stopped.
    SIGINT and SIGTERM end it after the update in hand, saved. torch's random state is left as it was.

    Under torchrun the processes train together (`training.distributed`). Rank 0's arguments count; parts in memory must
    be there on every rank, files in the same places. Only rank 0 calls `progress`. After a restart by torchrun a run
    that the same job has begun is gone on with, `resume` or not.

    Raises FastslowError (ConfigError, DataError, RunError, StorageError, ModelError, DivergedError, LaunchError, and
    where there are several processes LostError and ElsewhereError) in one line.
    """
    prepare = partial(_prepare, model, config, data, out, device, backend, resume, alphabet, command)
    return _job(prepare, data if isinstance(data, Splits) else None, progress)


def follow(data: Splits | None = None) -> RunResult:
    """Take part, as any rank but 0, in the job whose rank 0 calls `train` or `resume`; data: parts in memory.

    Raises as `train` does, ElsewhereError for what has failed on another rank.
    """
    return _job(None, data, None)


def _job(
    prepare: Callable[[Ranks, ExitStack], _Asked] | None, data: Splits | None, progress: Callback | None
) -> RunResult:
    """One run, by this process or by all of its job: rank 0 prepares it."""
    with joined() as ranks, ExitStack() as stack:
        if not isinstance(ranks, Group):
            if prepare is None:
                raise LaunchError("there is no rank 0 to follow: call train")
            asked = prepare(ranks, stack)
            return _run(asked, ranks, ranks.device(asked.record.device), progress)
        asked_for: list[_Asked] = []

        def lead() -> dict[str, Any]:
            if prepare is None:
                raise LaunchError("rank 0 has nobody to follow: call train there")
            asked_for.append(prepare(ranks, stack))
            return asked_for[0].to_json()

        told = ranks.lead(lead)
        asked = ranks.together(lambda: asked_for[0] if asked_for else _Asked.from_json(told, data))
        on = ranks.together(lambda: ranks.device(asked.record.device))
        ranks.connect(on)
        return _run(asked, ranks, on, progress)


@dataclass(frozen=True)
class _Asked:
    """What is to be run; `folder` on the rank that writes to it. The session is this process's entry in the record."""

    out: Path
    folder: RunFolder | None
    record: RunRecord
    lm_config: LMConfig
    splits: Splits
    session: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What the other ranks need to know."""
        return {"out": str(self.out), "record": self.record.to_json(), "model": self.lm_config.to_json()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any], data: Splits | None) -> _Asked:
        """What rank 0 asks for, with the text as it is here; it must be the same."""
        record = RunRecord.from_json(told["record"], "the record of rank 0")
        if data is None and record.source is None:
            raise RunError("rank 0 was handed a text in Python: hand it over on every rank")
        splits = data if data is not None else cast(DataSource, record.source).open()
        _check_texts(record, splits.describe(), "that of rank 0")
        return cls(Path(told["out"]), None, record, LMConfig.from_json(told["model"]), splits, {})


def _prepare(
    model: ModelOptions,
    config: TrainConfig,
    data: DataSource | Splits,
    out: str | os.PathLike[str],
    device: str,
    backend: str,
    resume: bool | Literal["auto"],
    alphabet: Literal["bytes", "text"] | None,
    command: str | None,
    ranks: Ranks,
    stack: ExitStack,
) -> _Asked:
    """Check everything that was asked for, then make or open the run folder, which `stack` closes."""
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
            "documents need states that start anew inside an update, and a GPU's are recorded without: use cpu"
        )
    record = RunRecord(model, config, source, splits.describe(), backend, _device(device))
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
        if not (folder.path / files.CONFIG_FILE).exists():  # killed between the record and it: as it was meant
            files.write_config(folder.path, model.with_alphabet(make_alphabet(kind, splits)))
        stored = files.read_config(folder.path)
        if stored.options != model:
            raise ModelError(f"{out} is damaged: its configuration is not that of its record")
        session["engine"] = _engine(stored, config, rows, backend, on)
        return _Asked(folder.path, folder, record, stored, splits, session)
    lm_config = model.with_alphabet(make_alphabet(kind, splits))
    session["engine"] = _engine(lm_config, config, rows, backend, on)
    folder = stack.enter_context(RunFolder.create(out))
    folder.write_record(record)  # first: from here on the run can be resumed
    files.write_config(folder.path, lm_config)
    return _Asked(folder.path, folder, record, lm_config, splits, session)


def _was_begun_by(ranks: Ranks, out: str | os.PathLike[str]) -> bool:
    """Whether torchrun has started these processes again, and those before had begun the run in `out`."""
    if ranks.launch.restarts == 0 or ranks.launch.job is None or not (Path(out) / RUN_FILE).is_file():
        return False
    sessions = read_record(out).sessions
    return bool(sessions) and sessions[-1].get("job") == ranks.launch.job


def resume(
    out: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    device: str | None = None,
    backend: str | None = None,
    progress: Callback | None = None,
    command: str | None = None,
) -> RunResult:
    """Go on with the run in `out` as its record says, but for `changes` of fields in `config.CHANGEABLE`.

    device, backend: default the run's. Raises as `train` does.
    """
    old = read_record(out)
    if old.source is None:
        raise RunError(f"{out} was trained on a text that was handed over in Python: resume it there, with train(...)")
    try:
        config = replace(old.train, **dict(changes or {}))
    except TypeError as error:
        raise ConfigError(f"the recipe has no such field: {error}") from error
    return train(
        old.model,
        config,
        old.source,
        out,
        device=device or old.device,
        backend=backend or old.backend,
        resume=True,
        progress=progress,
        command=command,
    )


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
    """What would fail later fails before there is a folder."""
    last_offset = config.window - 1 if config.random_offset else 0
    Streams.training(splits.train.data, config.batch, config.window, offset=last_offset)
    if splits.valid is None and config.schedule == "plateau":
        raise ConfigError("schedule plateau needs a validation text: give one, or another schedule")
    if config.jitter and torch.device(device).type == "cuda":
        raise ConfigError("jitter needs updates of many lengths, and a GPU's are recorded for one: leave it at 0 there")


def _engine(lm_config: LMConfig, config: TrainConfig, rows: int, backend: str, device: torch.device) -> str:
    """The engine that will train, and why not a faster one. Raises ConfigError, with the reason, where none can."""
    try:
        layer = CharLM(lm_config, backend=backend, device="meta").layer
        x = torch.empty(1, 1, 1, device=device).expand(config.window, rows, lm_config.embedding_size)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return str(layer.backend_for(x))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from error


def _continued(old: RunRecord, new: RunRecord, out: Path) -> tuple[RunRecord, dict[str, Any]]:
    """The record of a resumed run, and what of its recipe changed.

    Raises ConfigError for what would make it another run, RunError for another text.
    """
    if old.model != new.model:
        raise ConfigError(f"{out} was started with another network: leave the network's options out to resume it")
    changed = check_changes(old.train, new.train, CHANGEABLE, out)
    _check_texts(old, new.data, f"the one {out} was started with")
    return replace(old, train=new.train, backend=new.backend, device=new.device), changed


def _check_texts(record: RunRecord, data: Mapping[str, Any], whose: str) -> None:
    for part, told in data.items():
        was = record.data.get(part)
        if (was or {}).get("sha256") != (told or {}).get("sha256"):
            raise RunError(f"the {part} text is not {whose}: bring it back to go on with the run")


def _run(asked: _Asked, ranks: Ranks, device: torch.device, progress: Callback | None) -> RunResult:
    forked = [device.index or 0] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(forked, device_type="cuda"),
        StopSignals() as signals,
        Run(asked, ranks, device, signals, progress if ranks.leads else None) as run,
        graphed_scoring(run.lm),
    ):
        run.begin(asked.session)
        return run.go()


class Run:
    """A run in hand: model, optimiser, position, files. Used through `train` and `resume`."""

    def __init__(
        self, asked: _Asked, ranks: Ranks, device: torch.device, signals: StopSignals, progress: Callback | None
    ) -> None:
        record, splits, lm_config = asked.record, asked.splits, asked.lm_config
        self.out, self.folder, self.record, self.splits = asked.out, asked.folder, record, splits
        self.config, self.signals, self.progress = record.train, signals, progress
        self.ranks, self.device = ranks, device
        columns = ranks.columns(self.config.batch)
        assert columns is not None  # a batch has a stream for every rank
        self.columns = columns
        torch.manual_seed(self.config.seed)
        check_checkpoint(self.out, lm_config, self.config.batch)
        # Made on the CPU, so that a seed means the same weights everywhere.
        self.lm = CharLM(lm_config, backend=record.backend).to(self.device)
        self.symbols = lm_config.alphabet.encode(splits.train.data, name=splits.train.name)
        self.documents = None if record.source is None else record.source.documents
        self.starts = None if self.documents is None else splits.train.documents(self.documents)
        self.updater: Updating = make_updater(self.lm, self.config, ranks)
        self.average = self._average()
        self.position = Position()
        self.state: Any = None
        stored = self._stored()
        if stored is not None:
            self._restore(stored)
        p = self.position
        self.plateau = Plateau(self.config.patience, decays=p.decays, waited=p.waited)
        self.streams = self._streams(p.epoch)
        if p.window > len(self.streams):
            raise ModelError(
                f"the checkpoint in {self.out} is damaged: it is at window {p.window:,} of {len(self.streams):,}"
            )
        whole = len(Streams.training(self.symbols, self.config.batch, self.config.window))
        self.total_updates = self.config.epochs * whole
        if self.config.max_updates is not None:
            self.total_updates = min(self.total_updates, self.config.max_updates)
        self.files: tuple[Metrics, Curves] | None = None
        """What rank 0 writes line by line."""
        ranks.lead(self._open_files)
        self.pending: list[tuple[int, Tensor, Tensor, int]] = []
        self.begun, self.saved_at = time.monotonic(), 0.0
        self.agreed_seconds, self.stop = 0.0, False
        self.saved_update = p.update if stored is not None else -1
        self.elapsed_before = p.elapsed
        self.training_seconds, self.training_symbols = 0.0, 0
        self.last_rate = self.last_norm = 0.0

    def _average(self) -> WeightAverage | None:
        if self.config.average_from > 0:
            return TailAverage(self.lm)
        return WeightAverage(self.lm, self.config.average) if self.config.average > 0 else None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files or ():
            file.close()

    def tell(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)

    # ------------------------------------------------------------------ beginning

    def _stored(self) -> Checkpoint | None:
        """The checkpoint, which rank 0 reads; every rank begins with rank 0's weights."""
        ranks = self.ranks
        found: list[Checkpoint | None] = []

        def read() -> dict[str, Any] | None:
            stored = read_checkpoint(self.out, self.lm, self.config.batch)
            found.append(stored)
            return None if stored is None else {"position": asdict(stored.position), "state": stored.state is not None}

        told = ranks.lead(read)
        stored = found[0] if found else None
        if ranks.size == 1:
            return stored
        if told is None:
            self.lm.load_state_dict(ranks.tensors(self.lm.state_dict()))
            return None
        groups = {name: ranks.tensors(getattr(stored, name, {})) for name in ("model", "adam", "average", "rng")}
        held = [] if stored is None or stored.state is None else state_tensors(stored.state)
        leaves = iter(ranks.tensors({str(i): leaf for i, leaf in enumerate(held)}).values())
        like = self.lm.initial_state(1)
        state = map_state(lambda _: next(leaves).to(self.device), like) if told["state"] else None
        return Checkpoint(position=Position(**told["position"]), state=state, **groups)

    def _open_files(self) -> None:
        metrics = Metrics(self.out, self.position.metrics_bytes)
        self.files = metrics, Curves(self.out, self.position.update, self.config.tensorboard)

    def _restore(self, stored: Checkpoint) -> None:
        self.position = stored.position
        self.state = None if stored.state is None else map_state(itemgetter(self.columns), stored.state)
        self.lm.load_state_dict(stored.model)
        if stored.adam:
            self.updater.load_tensors(stored.adam)
        if self.average is not None:
            if not stored.average:
                raise ModelError(f"the checkpoint in {self.out} is damaged: it lacks the weight average")
            self.average.load_tensors(stored.average)
        set_random_state(stored.rng, self.device, f"the checkpoint in {self.out}")

    def begin(self, session: Mapping[str, Any]) -> None:
        """Record this process, and make the best weights those the checkpoint says."""

        def lead() -> list[Any]:
            self._begin(session)
            return [self.position.best_update, self.position.best_nats]

        self.position.best_update, self.position.best_nats = self.ranks.lead(lead)

    def _begin(self, session: Mapping[str, Any]) -> None:
        assert self.folder is not None
        told = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **session,
            "update": self.position.update,
            "parameters": self.lm.num_parameters,
            "versions": versions(),
            "machine": machine(self.record.device),
        }
        self.record.sessions.append(told)
        self.folder.write_record(self.record)
        if not self._finished():
            (self.out / RESULT_FILE).unlink(missing_ok=True)  # of a run that now goes on
        self._mend_best()
        valid, test = self.splits.valid, self.splits.test
        self.tell(
            Started(
                out=self.out,
                parameters=self.lm.num_parameters,
                engine=session["engine"],
                device=self.record.device,
                update=self.position.update,
                total_updates=self.total_updates,
                train_symbols=len(self.symbols),
                valid_symbols=0 if valid is None else len(valid),
                test_symbols=0 if test is None else len(test),
            )
        )

    def _mend_best(self) -> None:
        """Write the best weights again if the last process was killed after their checkpoint and before them."""
        p = self.position
        if p.best_update is None or self._stored_update() == p.best_update:
            return
        if p.best_update == p.update:
            self._write_best()
            return
        self.tell(
            Notice(f"the best weights in {self.out} are missing or damaged: the next validation's take their place")
        )
        p.best_update = p.best_nats = None

    def _stored_update(self) -> int | None:
        """The update the best weights in the folder are from; None if there are none, or damaged ones."""
        try:
            _, metadata = files.read_weights(self.out, weight_shapes(self.lm))
        except ModelError:
            return None
        update = metadata.get("update", "")
        return int(update) if re.fullmatch("[0-9]{1,15}", update) else None

    def _streams(self, epoch: int) -> Streams:
        config = self.config
        offset = random_offset(config.seed, epoch, config.window) if config.random_offset else 0
        return Streams.training(
            self.symbols,
            config.batch,
            config.window,
            offset=offset,
            jitter=config.jitter,
            seed=(config.seed, epoch, 1),
            columns=self.columns,
            starts=self.starts,
        )

    # ------------------------------------------------------------------ the loop

    def go(self) -> RunResult:
        """Train to the end, or until there is a reason to stop; then test."""
        try:
            return self._go()
        except StorageError as error:
            raise StorageError(f"{error}; {self._kept('make room, then resume')}") from error
        except LostError as error:
            raise LostError(f"{error}; {self._kept('resume it, with any number of processes')}") from error

    def _kept(self, remedy: str) -> str:
        if self.saved_update < 0:
            return "there was no checkpoint yet"
        return f"the checkpoint of update {self.saved_update} is kept: {remedy}"

    def _go(self) -> RunResult:
        status: Status
        try:
            status = self._train()
        except StopRequested:  # in a validation, which will be made anew
            status = "interrupted"
        if self.saved_update != self.position.update:
            self._save()
        if status != "completed":
            return self._result(status, None)
        known = self.ranks.lead(self._known_test)
        if known is not None:
            test = None if known["test"] is None else Evaluation.from_json(known["test"])
            return replace(self._result("completed", test), seconds=self.position.elapsed)
        try:
            test = self._test()
        except StopRequested:
            return self._result("interrupted", None)
        result = self._result("completed", test)
        written = {**result.to_json(), "update": self.position.update}
        self.ranks.lead(lambda: write_json(self.out / RESULT_FILE, written, what="the result"))
        return result

    def _train(self) -> Status:
        p, config = self.position, self.config
        while True:
            self._look_up()
            epoch_over, finished = p.window >= len(self.streams), self._finished()
            due = p.update % config.validate_every == 0 if config.validate_every else epoch_over
            if (due or finished) and p.validated != p.update and p.update > 0:
                self._flush()
                self._validate()
            if finished:
                return "completed"
            if epoch_over:
                p.epoch, p.window, self.state = p.epoch + 1, 0, None
                self.streams = self._streams(p.epoch)
            if self.stop:
                return "interrupted"
            if config.max_time is not None and not config.anneal_by_time and self._session_seconds() >= config.max_time:
                return "time"
            if self._save_due():
                self._save()
            self._update()

    def _finished(self) -> bool:
        p = self.position
        return p.epoch + (p.window >= len(self.streams)) >= self.config.epochs or self._done() >= 1.0

    def _done(self) -> float:
        """The part of the run that is behind it."""
        done = self.position.update / self.total_updates
        if self.config.anneal_by_time and self.config.max_time is not None:
            seconds = self.elapsed_before + self._session_seconds()
            done = max(done, seconds / self.config.max_time if self.config.max_time else 1.0)
        return done

    def _look_up(self) -> None:
        """Find out whether to stop; where there are several ranks, agree on it and on the time."""
        self.stop = self.signals.requested is not None
        if self.ranks.size > 1:
            seconds = time.monotonic() - self.begun if self.ranks.leads else 0.0
            stop, self.agreed_seconds = self.ranks.largest(self.stop, seconds)
            self.stop = stop > 0

    def _session_seconds(self) -> float:
        return time.monotonic() - self.begun if self.ranks.size == 1 else self.agreed_seconds

    def _update(self) -> None:
        p = self.position
        started = time.monotonic()
        window = self.streams[p.window]
        config, done = self.config, self._done()
        rate = learning_rate(config, update=p.update, epoch=p.epoch, decays=self.plateau.decays, done=done)
        if config.reset and self.state is not None:
            rows = random_resets(config.seed, p.update, config.batch, config.reset)
            self.state = reset_rows(self.state, torch.from_numpy(rows)[self.columns])
        resets = None if window.resets is None else self._sent(window.resets)
        step = self.updater.step(self._sent(window.inputs), self._sent(window.targets), self.state, rate, resets)
        self.state = step.state
        p.update += 1
        p.window += 1
        p.averaged = p.averaged + 1 if config.average_from and done >= config.average_from else 0
        if self.average is not None:
            self.average.update(p.averaged if config.average_from else p.update)
        self.last_rate = rate
        symbols = window.steps * config.batch
        self.pending.append((p.update, step.loss_nats, step.gradient_norm, symbols))
        log = p.update % config.log_every == 0
        if log or self.device.type == "cpu" or len(self.pending) >= PENDING_ON_GPU:
            self._flush()
        self.training_seconds += time.monotonic() - started
        self.training_symbols += symbols
        if not self.pending:
            self._tell_update()
        if log:
            self._log()

    def _sent(self, tokens: Tensor) -> Tensor:
        """Tokens on the device, without waiting for the update before."""
        if self.device.type != "cuda":
            return tokens.to(self.device)
        return tokens.pin_memory().to(self.device, non_blocking=True)

    def _flush(self) -> None:
        """Count the losses of the updates since the last time. Raises DivergedError if one is no number."""
        p = self.position
        for update, loss, norm, symbols in self.pending:
            nats, self.last_norm = float(loss), float(norm)
            for what, value in (("loss", nats), ("gradient of the loss", self.last_norm)):
                if not math.isfinite(value):
                    raise self._diverged(update, what, value)
            p.sum_nats += nats
            p.sum_symbols += symbols
        self.pending.clear()

    def _diverged(self, update: int, what: str, value: float) -> DivergedError:
        kept = (
            f"the checkpoint of update {self.saved_update} is kept in {self.out}: resume it with a lower rate or clip"
            if self.saved_update >= 0
            else "there was no checkpoint yet: start again with a lower rate or clip"
        )
        return DivergedError(f"the {what} became {value} at update {update}, and training stopped; {kept}")

    def _speed(self) -> float:
        return self.training_symbols / self.training_seconds if self.training_seconds > 0 else 0.0

    def _epoch(self) -> float:
        return self.position.epoch + self.position.window / len(self.streams)

    def _tell_update(self) -> None:
        if self.progress is None:
            return
        p = self.position
        left = None
        if self.training_symbols > 0:
            done, spent = self._done(), self._session_seconds()
            left = (self.total_updates - p.update) * self.training_seconds * self.config.batch * self.config.window
            left /= self.training_symbols
            if self.config.anneal_by_time and self.config.max_time is not None:
                left = min(left, self.config.max_time - self.elapsed_before - spent)
            left = max(0.0, left) if done < 1 else 0.0
        self.tell(
            Updated(
                update=p.update,
                total_updates=self.total_updates,
                epoch=self._epoch(),
                bpc=nats_to_bits(p.sum_nats / p.sum_symbols) if p.sum_symbols else math.nan,
                rate=self.last_rate,
                gradient_norm=self.last_norm,
                characters_per_second=self._speed(),
                seconds_left=left,
            )
        )

    def _log(self) -> None:
        """A line of metrics on the updates since the last one."""
        p = self.position
        bpc = nats_to_bits(p.sum_nats / p.sum_symbols)
        line = {
            "kind": "train",
            "update": p.update,
            "epoch": self._epoch(),
            "bpc": bpc,
            "rate": self.last_rate,
            "gradient_norm": self.last_norm,
            "seconds": self.elapsed_before + self._session_seconds(),
            "characters_per_second": self._speed(),
        }
        self._write(line, {"train/bpc": bpc, "train/rate": self.last_rate, "train/gradient_norm": self.last_norm})
        p.sum_nats, p.sum_symbols = 0.0, 0

    def _write(self, line: Mapping[str, Any] | None, points: Mapping[str, float]) -> None:
        """A line of metrics, and a point of each curve."""

        def lead() -> None:
            assert self.files is not None
            metrics, curves = self.files
            if line is not None:
                metrics.write(line)
            curves.add(self.position.update, points)

        self.ranks.lead(lead)

    # ------------------------------------------------------------------ validation and test

    def _evaluate(self, text: Text, streams: int, part: Literal["valid", "test"]) -> Evaluation:
        def on_window(done: int, total: int) -> None:
            self._look_up()
            if self.stop:
                raise StopRequested
            self.tell(Evaluating(part, done, total))

        sharing = self.ranks if self.ranks.size > 1 else None
        streams = min(streams, len(text) - 1)
        return evaluate(self.lm, text, streams=streams, on_window=on_window, sharing=sharing, documents=self.documents)

    def _validate(self) -> None:
        """Validate; keep the weights if they are the best so far. Without a validation text the latest are the best."""
        p = self.position
        if self.average is not None:
            self.average.swap()
        try:
            if self.splits.valid is not None:
                self._judge(self._evaluate(self.splits.valid, self.config.valid_streams, "valid"))
            else:
                p.best_update = p.update
        except ModelError as error:
            raise self._diverged(p.update, "validation loss", math.nan) from error
        finally:
            if self.average is not None:
                self.average.swap()
        p.validated = p.update
        self._save()
        if p.best_update == p.update:
            self.ranks.lead(self._write_best)

    def _judge(self, validation: Evaluation) -> None:
        p = self.position
        nats = validation.nats / validation.symbols
        improved = p.best_nats is None or nats < p.best_nats
        self.plateau.observe(improved)
        p.decays, p.waited = self.plateau.decays, self.plateau.waited
        if improved:
            p.best_nats, p.best_update = nats, p.update
        assert p.best_nats is not None
        best = nats_to_bits(p.best_nats)
        line = {
            "kind": "valid",
            "update": p.update,
            "epoch": self._epoch(),
            "bpc": validation.bpc,
            "best_bpc": best,
            "symbols": validation.symbols,
            "seconds": self.elapsed_before + self._session_seconds(),
        }
        self._write(line, {"valid/bpc": validation.bpc})
        self.tell(Validated(p.update, self._epoch(), validation.bpc, best, improved))

    def _write_best(self) -> None:
        """Put the weights (their average, if there is one) where `CharLM.from_pretrained` finds them."""
        weights = self.lm.state_dict() if self.average is None else self.average.tensors()
        files.write_weights(self.out, weights, {"update": str(self.position.update)})

    def _test(self) -> Evaluation | None:
        text = self.splits.test
        if text is None or self.position.best_update is None:
            return None
        best: list[CharLM] = []
        self.ranks.lead(lambda: best.append(CharLM.from_pretrained(self.out)))
        self.lm.load_state_dict(self.ranks.tensors(best[0].state_dict() if best else {}))
        test = self._evaluate(text, self.config.test_streams, "test")
        self._write(None, {"test/bpc": test.bpc})
        self.tell(Tested(test))
        return test

    # ------------------------------------------------------------------ saving

    def _save_due(self) -> bool:
        p, config = self.position, self.config
        if p.update == self.saved_update or p.update == 0:
            return False
        if config.checkpoint_every and p.update % config.checkpoint_every == 0:
            return True
        return bool(config.checkpoint_seconds) and self._session_seconds() - self.saved_at >= config.checkpoint_seconds

    def _save(self) -> None:
        """A checkpoint of this moment."""
        self._flush()
        whole = self.ranks.whole(self.state, self.config.batch)
        p = self.position

        def lead() -> None:
            assert self.files is not None
            metrics, curves = self.files
            p.metrics_bytes = metrics.sync()
            p.elapsed = self.elapsed_before + self._session_seconds()
            checkpoint = Checkpoint(
                position=p,
                model=self.lm.state_dict(),
                adam=self.updater.tensors(),
                average={} if self.average is None else self.average.tensors(),
                state=whole,
                rng=random_state(self.device),
            )
            path = checkpoint.write(self.out)
            curves.flush()
            self.saved_update = p.update
            self.tell(Saved(p.update, path))

        self.ranks.lead(lead)
        self.saved_at, self.saved_update = self._session_seconds(), p.update

    def _result(self, status: Status, test: Evaluation | None) -> RunResult:
        p, window = self.position, self.config.window
        return RunResult(
            out=self.out,
            status=status,
            updates=p.update,
            epochs=p.epoch,
            characters=self.config.batch * (p.update * window + self.streams.start(p.window) - p.window * window),
            seconds=self.elapsed_before + self._session_seconds(),
            best_update=p.best_update,
            best_bpc=None if p.best_nats is None else nats_to_bits(p.best_nats),
            test=test,
        )

    def _known_test(self) -> dict[str, Any] | None:
        """The test of a run that was complete before, so that it is not tested twice."""
        if not (self.out / RESULT_FILE).is_file():
            return None
        try:
            value = read_result(self.out)
        except ModelError:
            return None  # it can be made again
        if value["update"] != self.position.update or value["best_update"] != self.position.best_update:
            return None
        return {"test": value["test"]}
