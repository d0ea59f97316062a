"""The models that come with the package: folders in `fastslow/models`, found by their names.

A name is a packaged model's where it has no separator. A folder of that name where one stands comes first if it holds
a model (a config.json); `./NAME` is always the folder.
"""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
DEFAULT = "english"
"""The model that is taken where none is named."""


def models_folder() -> Path:
    """Where the packaged models are."""
    return Path(str(importlib.resources.files("fastslow"))) / "models"


def packaged_models() -> list[str]:
    """Their names, in order; none where the package was built without."""
    found = models_folder().glob(f"*/{WEIGHTS_FILE}")
    return sorted(path.parent.name for path in found if (path.parent / CONFIG_FILE).is_file())


def packaged(name: str | os.PathLike[str]) -> Path | None:
    """The folder of the packaged model that is meant by `name`, or None."""
    text = os.fspath(name)
    if (Path(text) / CONFIG_FILE).is_file() or text not in packaged_models():
        return None
    return models_folder() / text


def default_model() -> Path | None:
    """The folder of the model that is taken where none is named, or None where the package has none."""
    return models_folder() / DEFAULT if DEFAULT in packaged_models() else None


def shown_name(folder: str | os.PathLike[str]) -> str:
    """How people call the model in `folder`: a packaged one by its name."""
    path = Path(folder)
    return path.name if path.parent == models_folder() else os.fspath(folder)
