"""The model that an archive names, looked for by its hash."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fastslow.codec.container import Header, Mode
from fastslow.codec.models import CodecModel, as_model
from fastslow.codec.predictors import weight_bits
from fastslow.errors import FastslowError
from fastslow.lm.packaged import packaged_models

if TYPE_CHECKING:
    import torch


def model_among(folders: Iterable[Path], header: Header, device: torch.device | str | None = None) -> CodecModel | None:
    """The first model of these folders that has the archive's hash, or None. Those of its name are looked at first."""
    bits = weight_bits(header.settings)
    for folder in sorted(folders, key=lambda folder: folder.name != header.model_name):
        try:
            model = as_model(folder, device)
            if model.id(header.mode, bits) == header.model_id:
                return model
        except FastslowError:  # a damaged one is no reason not to look at the others
            continue
    return None


def packaged_model(header: Header, device: torch.device | str | None = None) -> CodecModel | None:
    """The model in the box that has the archive's hash, or None."""
    bits = weight_bits(header.settings)
    folders = packaged_models().values()
    return model_among([f for f in folders if _id(f, header.mode, bits) == header.model_id], header, device)


@functools.cache
def _id(folder: Path, mode: Mode, bits: int) -> bytes:
    return as_model(folder, "cpu").id(mode, bits)
