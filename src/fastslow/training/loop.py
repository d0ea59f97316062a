"""`train` and `resume`: a run from its first update, or from its last checkpoint, to its tested weights."""

from __future__ import annotations

import datetime
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastslow.data.alphabet import Alphabet
from fastslow.data.streams import Streams, random_offset
from fastslow.data.text import Splits, Text
from fastslow.evaluation import Evaluation, evaluate
from fastslow.lm import files
from fastslow.lm.config import ConfigError, ModelOptions
from fastslow.lm.model import CharLM, weight_shapes
from fastslow.lm.store import ModelError, StorageError, write_json
from fastslow.metrics import nats_to_bits
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
from fastslow.training.schedule import Plateau, learning_rate
from fastslow.training.signals import StopRequested, StopSignals
from fastslow.training.sources import DataSource, make_alphabet
from fastslow.training.updater import Updating, WeightAverage

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

    Raises FastslowError (ConfigError, DataError, RunError, StorageError, ModelError, DivergedError) in one line.
    """
    source = data if isinstance(data, DataSource) else None
    kind = alphabet or ("bytes" if source is None else source.alphabet)
    if source is not None and kind != source.alphabet:
        source = replace(source, alphabet=kind)
    if resume == "auto":
        resume = (Path(out) / RUN_FILE).is_file()
    splits = data if isinstance(data, Splits) else data.open()
    record = RunRecord(model, config, source, splits.describe(), backend, _device(device))
    _check_recipe(config, splits)
    with ExitStack() as stack:
        if resume:
            folder = stack.enter_context(RunFolder.open(out))
            record, changed = _continued(read_record(out), record, folder.path)
            if not (folder.path / files.CONFIG_FILE).exists():  # killed between the record and it: as it was meant
                files.write_config(folder.path, model.with_alphabet(make_alphabet(kind, splits)))
            stored = files.read_config(folder.path)
            if stored.options != model:
                raise ModelError(f"{out} is damaged: its configuration is not that of its record")
            session = {"command": command, "changed": changed}
            session["engine"] = _engine(model, stored.alphabet, config, backend, record.device)
            return _run(folder, record, splits, stored.alphabet, progress, session)
        symbols = make_alphabet(kind, splits)
        session = {"command": command, "engine": _engine(model, symbols, config, backend, record.device)}
        folder = stack.enter_context(RunFolder.create(out))
        folder.write_record(record)  # first: from here on the run can be resumed
        files.write_config(folder.path, model.with_alphabet(symbols))
        return _run(folder, record, splits, symbols, progress, session)


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


def _check_recipe(config: TrainConfig, splits: Splits) -> None:
    """What would fail later fails before there is a folder."""
    last_offset = config.window - 1 if config.random_offset else 0
    Streams.training(splits.train.data, config.batch, config.window, offset=last_offset)
    if splits.valid is None and config.schedule == "plateau":
        raise ConfigError("schedule plateau needs a validation text: give one, or another schedule")


def _engine(model: ModelOptions, alphabet: Alphabet, config: TrainConfig, backend: str, device: str) -> str:
    """The engine that will train, and why not a faster one. Raises ConfigError, with the reason, where none can."""
    try:
        layer = CharLM(model.with_alphabet(alphabet), backend=backend, device="meta").layer
        x = torch.empty(1, 1, 1, device=device).expand(config.window, config.batch, model.embedding_size)
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
    for part, told in new.data.items():
        was = old.data.get(part)
        if (was or {}).get("sha256") != (told or {}).get("sha256"):
            raise RunError(f"the {part} text is not the one {out} was started with: bring it back to resume the run")
    return replace(old, train=new.train, backend=new.backend, device=new.device), changed


def _run(
    folder: RunFolder,
    record: RunRecord,
    splits: Splits,
    alphabet: Alphabet,
    progress: Callback | None,
    session: Mapping[str, Any],
) -> RunResult:
    device = torch.device(record.device)
    forked = [device.index or 0] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(forked, device_type="cuda"),
        StopSignals() as signals,
        Run(folder, record, splits, alphabet, signals, progress) as run,
        graphed_scoring(run.lm),
    ):
        run.begin(session)
        return run.go()


class Run:
    """A run in hand: model, optimiser, position, files. Used through `train` and `resume`."""

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        splits: Splits,
        alphabet: Alphabet,
        signals: StopSignals,
        progress: Callback | None,
    ) -> None:
        self.out, self.folder, self.record, self.splits = folder.path, folder, record, splits
        self.config, self.signals, self.progress = record.train, signals, progress
        self.device = torch.device(record.device)
        lm_config = record.model.with_alphabet(alphabet)
        torch.manual_seed(self.config.seed)
        check_checkpoint(self.out, lm_config, self.config.batch)
        # Made on the CPU, so that a seed means the same weights everywhere.
        self.lm = CharLM(lm_config, backend=record.backend).to(self.device)
        self.symbols = alphabet.encode(splits.train.data, name=splits.train.name)
        self.updater: Updating = make_updater(self.lm, self.config)
        self.average = WeightAverage(self.lm, self.config.average) if self.config.average > 0 else None
        self.position = Position()
        self.state: Any = None
        stored = read_checkpoint(self.out, self.lm, self.config.batch)
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
        self.metrics = Metrics(self.out, p.metrics_bytes)
        self.curves = Curves(self.out, p.update, self.config.tensorboard)
        self.pending: list[tuple[int, Tensor, Tensor, int]] = []
        self.begun = self.saved_at = time.monotonic()
        self.saved_update = p.update if stored is not None else -1
        self.elapsed_before = p.elapsed
        self.training_seconds, self.training_symbols = 0.0, 0
        self.last_rate = self.last_norm = 0.0

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()
        self.curves.close()

    def tell(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)

    # ------------------------------------------------------------------ beginning

    def _restore(self, stored: Checkpoint) -> None:
        self.position, self.state = stored.position, stored.state
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
        return Streams.training(self.symbols, config.batch, config.window, offset=offset)

    # ------------------------------------------------------------------ the loop

    def go(self) -> RunResult:
        """Train to the end, or until there is a reason to stop; then test."""
        try:
            return self._go()
        except StorageError as error:
            kept = f"the checkpoint of update {self.saved_update} is kept: make room, then resume"
            raise StorageError(
                f"{error}; {kept if self.saved_update >= 0 else 'there was no checkpoint yet'}"
            ) from error

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
        known = self._known_result()
        if known is not None:
            return known
        try:
            test = self._test()
        except StopRequested:
            return self._result("interrupted", None)
        result = self._result("completed", test)
        write_json(self.out / RESULT_FILE, {**result.to_json(), "update": self.position.update}, what="the result")
        return result

    def _train(self) -> Status:
        p, config = self.position, self.config
        while True:
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
            if self.signals.requested is not None:
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

    def _session_seconds(self) -> float:
        return time.monotonic() - self.begun

    def _update(self) -> None:
        p = self.position
        started = time.monotonic()
        window = self.streams[p.window]
        rate = learning_rate(self.config, update=p.update, epoch=p.epoch, decays=self.plateau.decays, done=self._done())
        step = self.updater.step(self._sent(window.inputs), self._sent(window.targets), self.state, rate)
        self.state = step.state
        p.update += 1
        p.window += 1
        if self.average is not None:
            self.average.update(p.update)
        self.last_rate = rate
        self.pending.append((p.update, step.loss_nats, step.gradient_norm, window.targets.numel()))
        log = p.update % self.config.log_every == 0
        if log or self.device.type == "cpu" or len(self.pending) >= PENDING_ON_GPU:
            self._flush()
        self.training_seconds += time.monotonic() - started
        self.training_symbols += window.targets.numel()
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
        self.metrics.write(line)
        self.curves.add(
            p.update,
            {"train/bpc": bpc, "train/rate": self.last_rate, "train/gradient_norm": self.last_norm},
        )
        p.sum_nats, p.sum_symbols = 0.0, 0

    # ------------------------------------------------------------------ validation and test

    def _evaluate(self, text: Text, streams: int, part: Literal["valid", "test"]) -> Evaluation:
        def on_window(done: int, total: int) -> None:
            self.signals.check()
            self.tell(Evaluating(part, done, total))

        return evaluate(self.lm, text, streams=min(streams, len(text) - 1), on_window=on_window)

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
            self._write_best()

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
        self.metrics.write(line)
        self.curves.add(p.update, {"valid/bpc": validation.bpc})
        self.tell(Validated(p.update, self._epoch(), validation.bpc, best, improved))

    def _write_best(self) -> None:
        """Put the weights (their average, if there is one) where `CharLM.from_pretrained` finds them."""
        weights = self.lm.state_dict() if self.average is None else self.average.tensors()
        files.write_weights(self.out, weights, {"update": str(self.position.update)})

    def _test(self) -> Evaluation | None:
        text = self.splits.test
        if text is None or self.position.best_update is None:
            return None
        best = CharLM.from_pretrained(self.out, backend=self.record.backend, device=self.device)
        self.lm.load_state_dict(best.state_dict())
        test = self._evaluate(text, self.config.test_streams, "test")
        self.curves.add(self.position.update, {"test/bpc": test.bpc})
        self.tell(Tested(test))
        return test

    # ------------------------------------------------------------------ saving

    def _save_due(self) -> bool:
        p, config = self.position, self.config
        if p.update == self.saved_update or p.update == 0:
            return False
        if config.checkpoint_every and p.update % config.checkpoint_every == 0:
            return True
        return bool(config.checkpoint_seconds) and time.monotonic() - self.saved_at >= config.checkpoint_seconds

    def _save(self) -> None:
        """A checkpoint of this moment."""
        self._flush()
        p = self.position
        p.metrics_bytes = self.metrics.sync()
        p.elapsed = self.elapsed_before + self._session_seconds()
        checkpoint = Checkpoint(
            position=p,
            model=self.lm.state_dict(),
            adam=self.updater.tensors(),
            average={} if self.average is None else self.average.tensors(),
            state=self.state,
            rng=random_state(self.device),
        )
        path = checkpoint.write(self.out)
        self.curves.flush()
        self.saved_at, self.saved_update = time.monotonic(), p.update
        self.tell(Saved(p.update, path))

    def _result(self, status: Status, test: Evaluation | None) -> RunResult:
        p = self.position
        return RunResult(
            out=self.out,
            status=status,
            updates=p.update,
            epochs=p.epoch,
            characters=p.update * self.config.batch * self.config.window,
            seconds=self.elapsed_before + self._session_seconds(),
            best_update=p.best_update,
            best_bpc=None if p.best_nats is None else nats_to_bits(p.best_nats),
            test=test,
        )

    def _known_result(self) -> RunResult | None:
        """The result of a run that was complete before, so that it is not tested twice."""
        if not (self.out / RESULT_FILE).is_file():
            return None
        try:
            value = read_result(self.out)
            if value["update"] != self.position.update or value["best_update"] != self.position.best_update:
                return None
            test = None if value["test"] is None else Evaluation.from_json(value["test"])
        except ModelError:
            return None  # it can be made again
        return replace(self._result("completed", test), seconds=self.position.elapsed)
