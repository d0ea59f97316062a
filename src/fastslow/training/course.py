"""The sequence of epochs and windows of a run, and its progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import UInt8Array
from fastslow.data.streams import Streams, Window, random_offset
from fastslow.storage import ModelError
from fastslow.training.checkpoint import Position
from fastslow.training.config import TrainConfig
from fastslow.training.watch import Watch


class Course:
    """The windows of the training text in the order in which they are trained on, from a position.

    symbols: (N,) indices of the training text. columns: this rank's columns of the batch. out: the run folder, for
    messages. starts: offsets of the documents, each of which starts from a zero state; None: the text is one document.
    `streams` are those of the current epoch.

    Raises ModelError if the position is past the end of its epoch.
    """

    def __init__(
        self,
        config: TrainConfig,
        symbols: UInt8Array,
        columns: slice,
        position: Position,
        watch: Watch,
        out: Path,
        starts: NDArray[np.int64] | None = None,
    ) -> None:
        self.config, self.symbols, self.columns = config, symbols, columns
        self.position, self.watch, self.starts = position, watch, starts
        self.streams = self._streams(position.epoch)
        if position.window > len(self.streams):
            raise ModelError(
                f"the checkpoint in {out} is damaged: it is at window {position.window:,} of {len(self.streams):,}"
            )
        self.total_updates = config.epochs * len(Streams.training(symbols, config.batch, config.window))
        if config.max_updates is not None:
            self.total_updates = min(self.total_updates, config.max_updates)

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

    def window(self) -> Window:
        """The window of the next training step."""
        return self.streams[self.position.window]

    def next_epoch(self) -> None:
        """Go to the first window of the next epoch."""
        self.position.epoch, self.position.window = self.position.epoch + 1, 0
        self.streams = self._streams(self.position.epoch)

    @property
    def epoch_over(self) -> bool:
        """Whether the epoch has no window left."""
        return self.position.window >= len(self.streams)

    @property
    def epoch(self) -> float:
        """Epochs done, including the fraction of the current one."""
        return self.position.epoch + self.position.window / len(self.streams)

    @property
    def characters(self) -> int:
        """Characters trained on so far, in all columns."""
        p, window = self.position, self.config.window
        return self.config.batch * (p.update * window + self.streams.start(p.window) - p.window * window)

    def done(self) -> float:
        """The fraction of the run that is done."""
        done = self.position.update / self.total_updates
        if self.config.anneal_by_time and self.config.max_time is not None:
            done = max(done, self.watch.elapsed / self.config.max_time if self.config.max_time else 1.0)
        return done

    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.position.epoch + self.epoch_over >= self.config.epochs or self.done() >= 1.0

    def out_of_time(self) -> bool:
        """Whether the time limit of this process is reached (the run can be resumed)."""
        config = self.config
        return config.max_time is not None and not config.anneal_by_time and self.watch.seconds >= config.max_time
