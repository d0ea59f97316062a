"""The training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from fastslow.evaluation import Evaluation
from fastslow.metrics import nats_to_bits
from fastslow.storage import StorageError, write_json
from fastslow.training.course import Course
from fastslow.training.distributed import LostError
from fastslow.training.folder import RESULT_FILE
from fastslow.training.learner import Learner
from fastslow.training.reports import Losses
from fastslow.training.result import RunResult, Status, known_test
from fastslow.training.saving import Saver
from fastslow.training.schedule import learning_rate
from fastslow.training.signals import StopRequested
from fastslow.training.validation import Validation
from fastslow.training.watch import Watch


@dataclass
class Loop:
    """The loop over training steps, with validations and checkpoints between them."""

    out: Path
    learner: Learner
    course: Course
    watch: Watch
    losses: Losses
    saver: Saver
    validation: Validation

    def train(self) -> Status:
        """Train to the end or until stopped. Raises StopRequested from within a validation."""
        p, config = self.learner.position, self.learner.config
        while True:
            self.watch.look()
            epoch_over, finished = self.course.epoch_over, self.course.finished()
            due = p.update % config.validate_every == 0 if config.validate_every else epoch_over
            if (due or finished) and p.validated != p.update and p.update > 0:
                self.losses.flush()
                self.validation.validate()
            if finished:
                return "completed"
            if epoch_over:
                self.course.next_epoch()
                self.learner.state = None
            if self.watch.stop:
                return "interrupted"
            if self.course.out_of_time():
                return "time"
            if self.saver.due():
                self._save()
            self._update()

    def _update(self) -> None:
        started = time.monotonic()
        p, config = self.learner.position, self.learner.config
        window, done = self.course.window(), self.course.done()
        decays = self.learner.plateau.decays
        rate = learning_rate(config, update=p.update, epoch=p.epoch, decays=decays, done=done)
        step = self.learner.update(window, rate, done)
        self.losses.add(step, rate, window.steps * config.batch, started)

    def _save(self) -> None:
        self.losses.flush()
        self.saver.save()

    def run(self) -> RunResult:
        """Train, then test the best weights. Errors say which checkpoint is kept."""
        try:
            return self._run()
        except StorageError as error:
            raise StorageError(f"{error}; {self.saver.kept('free some space, then resume')}") from error
        except LostError as error:
            raise LostError(f"{error}; {self.saver.kept('resume it, with any number of processes')}") from error

    def _run(self) -> RunResult:
        status: Status
        try:
            status = self.train()
        except StopRequested:  # in a validation, which will be repeated
            status = "interrupted"
        if not self.saver.up_to_date:
            self._save()
        if status != "completed":
            return self._result(status, None)
        ranks, position = self.learner.ranks, self.learner.position
        known = ranks.lead(lambda: known_test(self.out, position))
        if known is not None:
            test = None if known["test"] is None else Evaluation.from_json(known["test"])
            return replace(self._result("completed", test), seconds=position.elapsed)
        try:
            test = self.validation.test()
        except StopRequested:
            return self._result("interrupted", None)
        result = self._result("completed", test)
        written = {**result.to_json(), "update": position.update}
        ranks.lead(lambda: write_json(self.out / RESULT_FILE, written, what="the result"))
        return result

    def _result(self, status: Status, test: Evaluation | None) -> RunResult:
        p = self.learner.position
        return RunResult(
            out=self.out,
            status=status,
            updates=p.update,
            epochs=p.epoch,
            characters=self.course.characters,
            seconds=self.watch.elapsed,
            best_update=p.best_update,
            best_bpc=None if p.best_nats is None else nats_to_bits(p.best_nats),
            test=test,
        )
