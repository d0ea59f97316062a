"""Curves for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Curves:
    """Scalars in `tensorboard/` of a run folder; does nothing where TensorBoard is not wanted or not installed."""

    def __init__(self, folder: Path, update: int, wanted: bool) -> None:
        self._writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        # Points of a lost future, after the checkpoint a run goes on from, are purged by the viewer.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1 if update else None)

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, update)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
