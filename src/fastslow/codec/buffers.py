"""Compress and decompress bytes in memory."""

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
    """Compress `data` to an archive, which can be decompressed on any machine.

    model: a folder, a `CharLM` or an `ExactModel`, whose predictions are used where they help; None: only the mixer's
    contexts are used, and the archive needs no model.
    options: lanes, block_size, embed_model, weight_bits, as in `Options`.
    """
    target = io.BytesIO()
    compress_stream(io.BytesIO(memoryview(data)), target, model, Options(**options), device=device)
    return target.getvalue()


def decompress(
    data: bytes | bytearray | memoryview,
    model: ModelLike | None = None,
    *,
    device: torch.device | str | None = None,
) -> bytes:
    """The text of an archive, or of several concatenated ones. `model` may be omitted if the archive embeds its model,
    needs none, or was made with a bundled model.

    Raises FormatError if the bytes are not a complete archive, ModelError if the model is missing or a different one.
    """
    target = io.BytesIO()
    decompress_stream(io.BytesIO(memoryview(data)), target, model, device=device)
    return target.getvalue()
