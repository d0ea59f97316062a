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
CARD_FILE = "README.md"
DEFAULT = "english"
"""The model that is taken where none is named."""


def models_folder() -> Path:
    """Where the packaged models are."""
    return Path(str(importlib.resources.files("fastslow"))) / "models"


def packaged_models() -> dict[str, Path]:
    """Their folders by name, in order; none where the package was built without."""
    found = sorted(path.parent for path in models_folder().glob(f"*/{WEIGHTS_FILE}"))
    return {folder.name: folder for folder in found if (folder / CONFIG_FILE).is_file()}


def packaged(name: str | os.PathLike[str]) -> Path | None:
    """The folder of the packaged model that is meant by `name`, or None."""
    if (Path(name) / CONFIG_FILE).is_file():
        return None
    return packaged_models().get(os.fspath(name))


def default_model() -> Path | None:
    """The folder of the model that is taken where none is named, or None where the package has none."""
    return packaged_models().get(DEFAULT)


def is_packaged(folder: str | os.PathLike[str]) -> bool:
    """Whether this is the folder of a packaged model."""
    return Path(folder).parent == models_folder()


def shown_name(folder: str | os.PathLike[str]) -> str:
    """How people call the model in `folder`: a packaged one by its name."""
    return Path(folder).name if is_packaged(folder) else os.fspath(folder)
