"""A language model's folder: `config.json` and `model.safetensors`, its weights in floats or in fixed point."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastslow import hub
from fastslow.lm import fixed
from fastslow.lm.config import ConfigError, LMConfig
from fastslow.lm.packaged import CONFIG_FILE as CONFIG_FILE
from fastslow.lm.packaged import WEIGHTS_FILE as WEIGHTS_FILE
from fastslow.lm.packaged import packaged, packaged_models
from fastslow.storage import (
    FLOATS,
    ModelError,
    TensorSpec,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from fastslow.storage import make_folder as make_folder

if TYPE_CHECKING:
    from torch import Tensor


def write_config(folder: Path, config: LMConfig) -> None:
    """Write `config.json`."""
    write_json(folder / CONFIG_FILE, config.to_json(), what="the model's configuration")


def write_weights(folder: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `model.safetensors`, of the types the weights have. The Hub reads `format` in its metadata."""
    write_tensors(folder / WEIGHTS_FILE, weights, {"format": "pt", **(metadata or {})}, what="the model's weights")


def write_fixed_weights(
    folder: Path, weights: Mapping[str, fixed.Fixed], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `model.safetensors` in fixed point. Raises ModelError for weights that are too large for it."""
    tensors, bits = fixed.stored(weights)
    write_tensors(folder / WEIGHTS_FILE, tensors, {**(metadata or {}), **bits}, what="the model's weights")


def find_folder(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder called `name`, or that of the bundled model of this name (`lm.packaged` has the rule), or that of the
    model `owner/name` fetched from the Hugging Face Hub, at `revision`.

    Raises ModelError where there is none.
    """
    bundled = packaged(name)
    if bundled is not None:
        return bundled
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{path} is not a folder: name the folder that holds its {CONFIG_FILE} and {WEIGHTS_FILE}")
    text = os.fspath(name)
    if hub.is_hub_name(text) and not path.parent.is_dir():
        try:
            return hub.fetch(text, [CONFIG_FILE, WEIGHTS_FILE], revision=revision)
        except hub.HubError as error:
            raise ModelError(f"there is no folder {text}, and {error}") from error
    known = f", or a bundled model: {', '.join(packaged_models())}" if packaged_models() else ""
    raise ModelError(f"there is no model {text}: name a run's folder, such as runs/demo{known}")


def read_config(folder: Path) -> LMConfig:
    """The configuration in `folder`. Raises ModelError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no model: it has no {CONFIG_FILE}; name a run's folder, such as runs/demo; if it is "
            "a run, it was stopped at its very beginning, and can be resumed"
        )
    value = read_json(path, what="the configuration")
    try:
        return LMConfig.from_json(value, f"the configuration {path}")
    except ConfigError as error:
        raise ModelError(str(error)) from error


def read_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights in `folder`, on the CPU, of the type they were stored in (float32 for those in fixed point); and
    their metadata. Raises ModelError."""
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise ModelError(
            f"{folder} holds no weights: it has no {WEIGHTS_FILE}; if it is a run, it was stopped before its first "
            "validation, and can be resumed"
        )
    where = f"the weights file {path}"

    def expected(metadata: dict[str, str]) -> Mapping[str, TensorSpec]:
        if fixed.BITS in metadata:
            return fixed.specs(metadata, shapes, where)
        return {name: TensorSpec(shape, FLOATS) for name, shape in shapes.items()}

    weights, metadata = read_tensors(path, expected, what="the weights file")
    if fixed.BITS in metadata:
        return fixed.to_float(weights, fixed.read_bits(metadata, shapes, where)), metadata
    types = {str(weight.dtype).removeprefix("torch.") for weight in weights.values()}
    if len(types) > 1:
        raise ModelError(f"{where} mixes the types {', '.join(sorted(types))}: a model has one")
    return weights, metadata
