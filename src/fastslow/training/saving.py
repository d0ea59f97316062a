"""When checkpoints and best weights are written, and how a run starts from them."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastslow.lm import files
from fastslow.lm.model import CharLM, weight_shapes
from fastslow.state import map_state, state_tensors
from fastslow.storage import ModelError
from fastslow.training.checkpoint import Checkpoint, Position, read_checkpoint
from fastslow.training.distributed import Ranks
from fastslow.training.events import Notice, Saved
from fastslow.training.folder import RunError
from fastslow.training.learner import Learner
from fastslow.training.reports import Journal
from fastslow.training.watch import Watch


class DivergedError(RunError):
    """The loss or its gradient is NaN or infinite."""


def read_stored(out: Path, learner: Learner) -> Checkpoint | None:
    """The checkpoint in `out`, read by rank 0; None before the first. All ranks start with the weights of rank 0."""
    ranks, lm = learner.ranks, learner.lm
    found: list[Checkpoint | None] = []

    def read() -> dict[str, Any] | None:
        stored = read_checkpoint(out, lm, learner.config.batch)
        found.append(stored)
        return None if stored is None else {"position": asdict(stored.position), "state": stored.state is not None}

    reply = ranks.lead(read)
    stored = found[0] if found else None
    if ranks.size == 1:
        return stored
    if reply is None:
        lm.load_state_dict(ranks.tensors(lm.state_dict()))
        return None
    groups = {name: ranks.tensors(getattr(stored, name, {})) for name in ("model", "adam", "average", "rng")}
    held = [] if stored is None or stored.state is None else state_tensors(stored.state)
    leaves = iter(ranks.tensors({str(i): leaf for i, leaf in enumerate(held)}).values())
    like = lm.initial_state(1)
    state = map_state(lambda _: next(leaves).to(learner.device), like) if reply["state"] else None
    return Checkpoint(position=Position(**reply["position"]), state=state, **groups)


class Saver:
    """Writes checkpoints and best weights to the run folder, and remembers the last checkpoint.

    resumed: whether the learner was restored from a checkpoint.
    """

    def __init__(
        self, out: Path, learner: Learner, ranks: Ranks, watch: Watch, journal: Journal, resumed: bool
    ) -> None:
        self.out, self.learner, self.ranks = out, learner, ranks
        self.watch, self.journal = watch, journal
        self._saved_at = 0.0
        self._saved_update = learner.position.update if resumed else -1

    def due(self) -> bool:
        """Whether a checkpoint is due before the next training step."""
        p, config = self.learner.position, self.learner.config
        if p.update == self._saved_update or p.update == 0:
            return False
        if config.checkpoint_every and p.update % config.checkpoint_every == 0:
            return True
        return bool(config.checkpoint_seconds) and self.watch.seconds - self._saved_at >= config.checkpoint_seconds

    @property
    def up_to_date(self) -> bool:
        """Whether the last checkpoint is of the last training step."""
        return self._saved_update == self.learner.position.update

    def save(self) -> None:
        """Save a checkpoint now; the losses so far must have been counted."""
        learner, p = self.learner, self.learner.position
        whole = self.ranks.whole(learner.state, learner.config.batch)

        def lead() -> None:
            p.metrics_bytes = self.journal.sync()
            p.elapsed = self.watch.elapsed
            path = learner.checkpoint(whole).write(self.out)
            self.journal.flush()
            self._saved_update = p.update
            self.journal.send(Saved(p.update, path))

        self.ranks.lead(lead)
        self._saved_at, self._saved_update = self.watch.seconds, p.update

    # ------------------------------------------------------------------ best weights

    def save_best(self) -> None:
        """Save the weights (their average, if there is one) where `CharLM.from_pretrained` finds them."""
        self.ranks.lead(self._write_best)

    def _write_best(self) -> None:
        weights = self.learner.best_weights()
        files.write_weights(self.out, weights, {"update": str(self.learner.position.update)})

    def load_best(self) -> None:
        """Load the best weights into the model, on every rank."""
        best: list[CharLM] = []
        self.ranks.lead(lambda: best.append(CharLM.from_pretrained(self.out)))
        self.learner.lm.load_state_dict(self.ranks.tensors(best[0].state_dict() if best else {}))

    def mend_best(self) -> None:
        """Write the best weights again if the last process was killed after their checkpoint and before them.

        Rank 0 does so on its own.
        """
        p = self.learner.position
        if p.best_update is None or self._best_stored() == p.best_update:
            return
        if p.best_update == p.update:
            self._write_best()
            return
        self.journal.send(
            Notice(f"the best weights in {self.out} are missing or damaged: the next validation replaces them")
        )
        p.best_update = p.best_nats = None

    def _best_stored(self) -> int | None:
        """The training step of the best weights in the folder; None if they are missing or damaged."""
        try:
            _, metadata = files.read_weights(self.out, weight_shapes(self.learner.lm))
        except ModelError:
            return None
        update = metadata.get("update", "")
        return int(update) if re.fullmatch("[0-9]{1,15}", update) else None

    # ------------------------------------------------------------------ after a failure

    def kept(self, remedy: str) -> str:
        """Which checkpoint exists after a failure, for the error message."""
        if self._saved_update < 0:
            return "there was no checkpoint yet"
        return f"the checkpoint of step {self._saved_update} is kept: {remedy}"

    def diverged(self, update: int, what: str, value: float) -> DivergedError:
        """The error for a loss or gradient that is NaN or infinite."""
        kept = (
            f"the checkpoint of step {self._saved_update} is kept in {self.out}: resume it with a lower rate or clip"
            if self._saved_update >= 0
            else "there was no checkpoint yet: start again with a lower rate or clip"
        )
        return DivergedError(f"the {what} became {value} at training step {update}, and training stopped; {kept}")
