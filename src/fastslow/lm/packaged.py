"""The models that come with fastslow, found by their names: folders in `fastslow/models`, in a clone in `weights/` too.

The package has a small model for everyday use. The larger ones behind the published figures are in the repository
alone, so that a wheel stays small. A name is such a model's where it has no separator. A folder of that name where one
stands comes first if it holds a model (a config.json); `./NAME` is always the folder.
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


def clone_folder() -> Path | None:
    """Where a clone of the repository has further models; None in an installed package."""
    root = models_folder().parent.parent.parent
    return root / "weights" if (root / "pyproject.toml").is_file() else None


def packaged_models() -> dict[str, Path]:
    """The folders of the package's models and the clone's by name; none where the package was built without."""
    found: dict[str, Path] = {}
    for place in filter(None, (models_folder(), clone_folder())):
        for path in sorted(place.glob(f"*/{WEIGHTS_FILE}")):
            if (path.parent / CONFIG_FILE).is_file():
                found.setdefault(path.parent.name, path.parent)
    return found


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
    return Path(folder).parent in (models_folder(), clone_folder())


def shown_name(folder: str | os.PathLike[str]) -> str:
    """How people call the model in `folder`: a packaged one by its name."""
    return Path(folder).name if is_packaged(folder) else os.fspath(folder)
