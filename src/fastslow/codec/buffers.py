"""Bytes in, bytes out."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fastslow.codec.models import ModelLike
from fastslow.codec.reader import decompress_stream
from fastslow.codec.writer import Options, compress_stream

if TYPE_CHECKING:
    import torch


def compress(
    data: bytes | bytearray | memoryview,
    model: ModelLike | None = None,
    *,
    device: torch.device | str | None = None,
    **options: Any,
) -> bytes:
    """The archive of `data`. It decodes on any machine.

    model: a folder, a `CharLM` or an `ExactModel`, whose predictions are used where they help; None: the archive is
    coded by what the mixer learns from the text alone, and needs no model.
    options: lanes, block_size, embed_model, weight_bits, as in `Options`.
    """
    target = io.BytesIO()
    compress_stream(io.BytesIO(bytes(data)), target, model, Options(**options), device=device)
    return target.getvalue()


def decompress(
    data: bytes | bytearray | memoryview,
    model: ModelLike | None = None,
    *,
    device: torch.device | str | None = None,
) -> bytes:
    """The text of an archive, or of several in a row. `model` may be left out where the archive has it inside, needs
    none, or was made with a model in the box.

    Raises FormatError for anything that is no whole archive, ModelError for a missing or another model.
    """
    target = io.BytesIO()
    decompress_stream(io.BytesIO(bytes(data)), target, model, device=device)
    return target.getvalue()
