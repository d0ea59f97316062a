"""`train` and `resume`: train a model from the beginning, or from the last checkpoint, and test it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from fastslow.data.text import Splits
from fastslow.lm.config import ConfigError, ModelOptions
from fastslow.training.checkpoint import check_checkpoint
from fastslow.training.config import TrainConfig
from fastslow.training.course import Course
from fastslow.training.distributed import Group, Ranks, joined
from fastslow.training.events import Callback, Started
from fastslow.training.folder import RESULT_FILE, RunError, machine, read_record, versions
from fastslow.training.launch import LaunchError
from fastslow.training.learner import Learner
from fastslow.training.loop import Loop
from fastslow.training.prepare import PreparedRun, prepare
from fastslow.training.reports import Journal, Losses
from fastslow.training.result import RunResult
from fastslow.training.saving import Saver, read_stored
from fastslow.training.signals import StopSignals
from fastslow.training.sources import DataSource
from fastslow.training.validation import Validation
from fastslow.training.watch import Watch


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
    init_from: str | os.PathLike[str] | None = None,
    progress: Callback | None = None,
    command: str | None = None,
) -> RunResult:
    """Train a model on a text with a recipe (see `TrainConfig`) and save the run in a folder.

    Args:
        model, config, data: the network, the recipe, and the text: a source that a resumed run can open again, or
            texts in memory.
        out: the run folder (see `training.folder`); it must be empty unless the run is resumed.
        device: "cpu", "cuda", ..., or "auto" for a GPU if there is one.
        backend: the layer's engine.
        resume: True resumes the run in `out`, which must have been started with the same arguments (except
            `config.CHANGEABLE`); "auto" resumes it if there is one, and starts it otherwise.
        alphabet: "bytes" or "text"; default: that of `data`, and "bytes" for texts in memory.
        init_from: a trained model, in any form that `CharLM.from_pretrained` accepts, from whose weights the run starts
            instead of random ones. The sizes of `model` must be its own or whole multiples of them, which give a larger
            network with the same function (`training.widening`). The run uses its alphabet; dropout and zoneout may
            differ. Adam's state starts from zero. A resumed run does not need it.
        progress: called with events (`training.events`), in this thread.
        command: the command line, for the record.

    A resumed run gives, bit for bit on a CPU, the result of an uninterrupted run. SIGINT and SIGTERM save a checkpoint
    after the current training step and stop. PyTorch's global random state is not changed.

    Under torchrun the processes train together (`training.distributed`). The arguments of rank 0 apply; texts in memory
    must be passed on every rank, and files must have the same paths. Only rank 0 calls `progress`. After a restart by
    torchrun a run that was started by the same job is resumed, with or without `resume`.

    Raises FastslowError (ConfigError, DataError, RunError, StorageError, ModelError, DivergedError, LaunchError, and
    with several processes LostError and ElsewhereError) with a one-line message.
    """
    start = None if init_from is None else os.fspath(init_from)
    prepared = partial(prepare, model, config, data, out, device, backend, resume, alphabet, start, command)
    return _job(prepared, data if isinstance(data, Splits) else None, progress)


def resume(
    out: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    device: str | None = None,
    backend: str | None = None,
    progress: Callback | None = None,
    command: str | None = None,
) -> RunResult:
    """Resume the run in `out` as recorded, except for `changes` of fields in `config.CHANGEABLE`.

    device, backend: default: the run's. Raises as `train` does.
    """
    old = read_record(out)
    if old.source is None:
        raise RunError(f"{out} was trained on a text passed in Python: resume it there, with train(...)")
    try:
        config = replace(old.train, **dict(changes or {}))
    except TypeError as error:
        raise ConfigError(f"unknown field of the recipe: {error}") from error
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


def follow(data: Splits | None = None) -> RunResult:
    """Take part, on any rank but 0, in the job whose rank 0 calls `train` or `resume`; data: texts in memory.

    Raises as `train` does, and ElsewhereError if another rank failed.
    """
    return _job(None, data, None)


def _job(
    prepare: Callable[[Ranks, ExitStack], PreparedRun] | None, data: Splits | None, progress: Callback | None
) -> RunResult:
    """Run by this process or by all processes of the job; rank 0 prepares the run."""
    with joined() as ranks, ExitStack() as stack:
        if not isinstance(ranks, Group):
            if prepare is None:
                raise LaunchError("there is no rank 0 to follow: call train instead")
            prepared = prepare(ranks, stack)
            return _run(prepared, ranks, ranks.device(prepared.record.device), progress)
        made: list[PreparedRun] = []

        def lead() -> dict[str, Any]:
            if prepare is None:
                raise LaunchError("rank 0 leads and cannot follow: call train there")
            made.append(prepare(ranks, stack))
            return made[0].to_json()

        reply = ranks.lead(lead)
        prepared = ranks.together(lambda: made[0] if made else PreparedRun.from_json(reply, data))
        on = ranks.together(lambda: ranks.device(prepared.record.device))
        ranks.connect(on)
        return _run(prepared, ranks, on, progress)


def _run(prepared: PreparedRun, ranks: Ranks, device: torch.device, progress: Callback | None) -> RunResult:
    config, out = prepared.record.train, prepared.out
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(forked, device_type="cuda"), StopSignals() as signals:
        check_checkpoint(out, prepared.lm_config, config.batch)
        learner = Learner(prepared.lm_config, config, prepared.record.backend, ranks, device)
        text = prepared.splits.train
        symbols = prepared.lm_config.alphabet.encode(text.data, name=text.name)
        stored = read_stored(out, learner)
        if stored is not None:
            learner.restore(stored, out)
        watch = Watch(ranks, signals, learner.position.elapsed)
        documents = None if prepared.record.source is None else prepared.record.source.documents
        starts = None if documents is None else text.documents(documents)
        course = Course(config, symbols, learner.columns, learner.position, watch, out, starts)
        with Journal(ranks, out, learner.position, config, progress if ranks.leads else None) as journal:
            saver = Saver(out, learner, ranks, watch, journal, resumed=stored is not None)
            losses = Losses(course, watch, journal, device.type == "cpu", saver.diverged)
            validation = Validation(prepared.splits, documents, learner, course, watch, journal, saver)
            _begin(prepared, ranks, learner, course, journal, saver)
            return Loop(out, learner, course, watch, losses, saver, validation).run()


def _begin(
    prepared: PreparedRun, ranks: Ranks, learner: Learner, course: Course, journal: Journal, saver: Saver
) -> None:
    """Record this process, and restore the best weights that belong to the checkpoint."""
    record, position = prepared.record, learner.position

    def lead() -> list[Any]:
        assert prepared.folder is not None
        session = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **prepared.session,
            "update": position.update,
            "parameters": learner.lm.num_parameters,
            "versions": versions(),
            "machine": machine(record.device),
        }
        record.sessions.append(session)
        prepared.folder.write_record(record)
        if not course.finished():
            (prepared.out / RESULT_FILE).unlink(missing_ok=True)  # the run continues
        saver.mend_best()
        valid, test = prepared.splits.valid, prepared.splits.test
        journal.send(
            Started(
                out=prepared.out,
                parameters=learner.lm.num_parameters,
                engine=session["engine"],
                device=record.device,
                update=position.update,
                total_updates=course.total_updates,
                train_symbols=len(course.symbols),
                valid_symbols=0 if valid is None else len(valid),
                test_symbols=0 if test is None else len(test),
            )
        )
        return [position.best_update, position.best_nats]

    position.best_update, position.best_nats = ranks.lead(lead)
