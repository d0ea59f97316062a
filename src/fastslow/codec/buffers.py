"""Bytes in, bytes out."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fastslow.codec.archive import Options, compress_stream, decompress_stream
from fastslow.codec.container import Mode
from fastslow.codec.models import ModelLike

if TYPE_CHECKING:
    import torch

_MODES = {"exact": Mode.EXACT, "float": Mode.FLOAT, "adapt": Mode.ADAPT, "online": Mode.ONLINE}


def compress(
    data: bytes | bytearray | memoryview,
    model: ModelLike | None = None,
    *,
    mode: str = "exact",
    device: torch.device | str | None = None,
    **options: Any,
) -> bytes:
    """The archive of `data`.

    model: a folder, a `CharLM` or an `ExactModel`; None in online mode.
    mode: "exact" (decodes anywhere), "float", "adapt" or "online".
    options: lanes, block_size, embed_model, weight_bits, learning, online, as in `Options`.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}; got {mode!r}")
    target = io.BytesIO()
    compress_stream(io.BytesIO(bytes(data)), target, model, Options(mode=_MODES[mode], **options), device=device)
    return target.getvalue()


def decompress(
    data: bytes | bytearray | memoryview,
    model: ModelLike | None = None,
    *,
    device: torch.device | str | None = None,
) -> bytes:
    """The text of an archive. `model` may be left out where the archive has it inside or needs none.

    Raises FormatError for anything that is no whole archive, ModelError for a missing or another model, NumericsError
    for a float archive of another machine.
    """
    target = io.BytesIO()
    decompress_stream(io.BytesIO(bytes(data)), target, model, device=device)
    return target.getvalue()
