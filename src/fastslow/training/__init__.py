"""Training: recipes and presets, the training step, the loop, checkpoints, the run folder.

Modules are imported on first use; presets and recipes do not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.training.config import TrainConfig, parse_duration
    from fastslow.training.folder import RunError, RunRecord, read_metrics, read_record
    from fastslow.training.presets import PRESETS, Preset, find_preset
    from fastslow.training.result import RunResult
    from fastslow.training.run import resume, train
    from fastslow.training.saving import DivergedError
    from fastslow.training.sources import DataSource

_HOMES = {
    "TrainConfig": "fastslow.training.config",
    "parse_duration": "fastslow.training.config",
    "PRESETS": "fastslow.training.presets",
    "Preset": "fastslow.training.presets",
    "find_preset": "fastslow.training.presets",
    "DataSource": "fastslow.training.sources",
    "RunError": "fastslow.training.folder",
    "RunRecord": "fastslow.training.folder",
    "read_metrics": "fastslow.training.folder",
    "read_record": "fastslow.training.folder",
    "DivergedError": "fastslow.training.saving",
    "RunResult": "fastslow.training.result",
    "resume": "fastslow.training.run",
    "train": "fastslow.training.run",
}

__all__ = [
    "DataSource",
    "DivergedError",
    "PRESETS",
    "Preset",
    "RunError",
    "RunRecord",
    "RunResult",
    "TrainConfig",
    "find_preset",
    "parse_duration",
    "read_metrics",
    "read_record",
    "resume",
    "train",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
