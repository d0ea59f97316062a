"""Validation during a run, which keeps the best weights, and the test of those weights at its end."""

from __future__ import annotations

import math
from typing import Literal

import torch

from fastslow.data.text import Splits, Text
from fastslow.evaluation import Evaluation, evaluate
from fastslow.metrics import nats_to_bits
from fastslow.storage import ModelError
from fastslow.training.accelerated import make_scorer
from fastslow.training.config import TrainConfig
from fastslow.training.course import Course
from fastslow.training.events import Evaluating, Tested, Validated
from fastslow.training.learner import Learner
from fastslow.training.reports import Journal
from fastslow.training.saving import Saver
from fastslow.training.signals import StopRequested
from fastslow.training.sources import Documents
from fastslow.training.watch import Watch


def scoring_type(part: Literal["valid", "test"], device: torch.device, config: TrainConfig) -> torch.dtype | None:
    """The autocast type for the evaluation of a text; None for full precision.

    On a GPU validations use the precision of the training. The test always uses full precision.
    """
    lower = part == "valid" and device.type == "cuda" and config.precision == "bf16"
    return torch.bfloat16 if lower else None


class Validation:
    """Evaluates the learner on the validation and test texts; both raise StopRequested if the run should stop."""

    def __init__(
        self,
        splits: Splits,
        documents: Documents | None,
        learner: Learner,
        course: Course,
        watch: Watch,
        journal: Journal,
        saver: Saver,
    ) -> None:
        self.splits, self.documents, self.learner, self.course = splits, documents, learner, course
        self.watch, self.journal, self.saver = watch, journal, saver
        self.scorer = make_scorer(learner.lm)

    def validate(self) -> None:
        """Validate and save the weights if they are the best so far (without a validation text: always)."""
        learner, p = self.learner, self.learner.position
        if learner.average is not None:
            learner.average.swap()
        try:
            if self.splits.valid is not None:
                self._judge(self._evaluate(self.splits.valid, learner.config.valid_streams, "valid"))
            else:
                p.best_update = p.update
        except ModelError as error:
            raise self.saver.diverged(p.update, "validation loss", math.nan) from error
        finally:
            if learner.average is not None:
                learner.average.swap()
        p.validated = p.update
        self.saver.save()
        if p.best_update == p.update:
            self.saver.save_best()

    def _judge(self, validation: Evaluation) -> None:
        p, plateau = self.learner.position, self.learner.plateau
        nats = validation.nats / validation.symbols
        improved = p.best_nats is None or nats < p.best_nats
        plateau.observe(improved)
        p.decays, p.waited = plateau.decays, plateau.waited
        if improved:
            p.best_nats, p.best_update = nats, p.update
        assert p.best_nats is not None
        best = nats_to_bits(p.best_nats)
        line = {
            "kind": "valid",
            "update": p.update,
            "epoch": self.course.epoch,
            "bpc": validation.bpc,
            "best_bpc": best,
            "symbols": validation.symbols,
            "seconds": self.watch.elapsed,
        }
        self.journal.write(line, {"valid/bpc": validation.bpc})
        self.journal.send(Validated(p.update, self.course.epoch, validation.bpc, best, improved))

    def test(self) -> Evaluation | None:
        """Test the best weights; None if there are none, or no test text."""
        text = self.splits.test
        if text is None or self.learner.position.best_update is None:
            return None
        self.saver.load_best()
        test = self._evaluate(text, self.learner.config.test_streams, "test")
        self.journal.write(None, {"test/bpc": test.bpc})
        self.journal.send(Tested(test))
        return test

    def _evaluate(self, text: Text, streams: int, part: Literal["valid", "test"]) -> Evaluation:
        def on_window(done: int, total: int) -> None:
            self.watch.look()
            if self.watch.stop:
                raise StopRequested
            self.journal.send(Evaluating(part, done, total))

        learner = self.learner
        sharing = learner.ranks if learner.ranks.size > 1 else None
        device = learner.lm.device
        kind = scoring_type(part, device, learner.config)
        with torch.autocast(device.type, kind, enabled=kind is not None, cache_enabled=False):
            return evaluate(
                learner.lm,
                text,
                streams=min(streams, len(text) - 1),
                on_window=on_window,
                sharing=sharing,
                scorers=[self.scorer],
                documents=self.documents,
            )
