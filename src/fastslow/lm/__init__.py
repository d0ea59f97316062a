"""Character language models: an alphabet, an embedding, a recurrent layer, logits; their presets and their files.

Nothing is imported until it is used: presets and configurations are there without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.lm.config import LMConfig, ModelOptions
    from fastslow.lm.model import CharLM, TokenNats, parameter_count
    from fastslow.storage import ModelError, StorageError

_HOMES = {
    "CharLM": "fastslow.lm.model",
    "TokenNats": "fastslow.lm.model",
    "parameter_count": "fastslow.lm.model",
    "LMConfig": "fastslow.lm.config",
    "ModelOptions": "fastslow.lm.config",
    "ModelError": "fastslow.storage",
    "StorageError": "fastslow.storage",
}

__all__ = [
    "CharLM",
    "LMConfig",
    "ModelError",
    "ModelOptions",
    "StorageError",
    "TokenNats",
    "parameter_count",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
