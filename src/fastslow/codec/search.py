"""Search for the model of a block by its hash."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fastslow.codec.models import CodecModel, as_model
from fastslow.codec.wanted import Wanted
from fastslow.errors import FastslowError
from fastslow.lm.packaged import packaged_models

if TYPE_CHECKING:
    import torch


def model_among(folders: Iterable[Path], wanted: Wanted, device: torch.device | str | None = None) -> CodecModel | None:
    """The first model in these folders that has the hash, or None. Folders of its name are searched first."""
    for folder in sorted(folders, key=lambda folder: folder.name != wanted.name):
        try:
            model = as_model(folder, device)
            if wanted.fits(model):
                return model
        except FastslowError:  # skip a damaged one
            continue
    return None


def packaged_model(wanted: Wanted, device: torch.device | str | None = None) -> CodecModel | None:
    """The bundled model that has the hash, or None."""
    folders = packaged_models().values()
    bits, head = wanted.weight_bits, wanted.model_id
    return model_among([f for f in folders if _id(f, bits)[: len(head)] == head], wanted, device)


@functools.cache
def _id(folder: Path, bits: int) -> bytes:
    return as_model(folder, "cpu").id(bits)
