"""A lossless compressor driven by a language model.

    from fastslow import codec

    archive = codec.compress(data, "runs/demo")             # bytes; or a CharLM in place of the folder
    data = codec.decompress(archive, "runs/demo")
    with codec.open("log.fsz", "runs/logs") as file: ...    # readable and seekable

Frozen models compute in integers by default, so that an archive decodes on any machine. `docs/format.md` specifies the
bytes. Nothing is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastslow.codec.archive import ArchiveReader, Options, Summary, compress_stream, decompress_stream
    from fastslow.codec.buffers import compress, decompress
    from fastslow.codec.container import Mode
    from fastslow.codec.errors import CodecError, FormatError, ModelError, NumericsError
    from fastslow.codec.learning import Learning, Online
    from fastslow.codec.models import CodecModel, export_model
    from fastslow.codec.stream import open

_HOMES = {
    "compress": "buffers",
    "decompress": "buffers",
    "open": "stream",
    "compress_stream": "archive",
    "decompress_stream": "archive",
    "ArchiveReader": "archive",
    "Options": "archive",
    "Summary": "archive",
    "Mode": "container",
    "Learning": "learning",
    "Online": "learning",
    "CodecModel": "models",
    "export_model": "models",
    "CodecError": "errors",
    "FormatError": "errors",
    "ModelError": "errors",
    "NumericsError": "errors",
}

__all__ = [
    "ArchiveReader",
    "CodecError",
    "CodecModel",
    "FormatError",
    "Learning",
    "Mode",
    "ModelError",
    "NumericsError",
    "Online",
    "Options",
    "Summary",
    "compress",
    "compress_stream",
    "decompress",
    "decompress_stream",
    "export_model",
    "open",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fastslow.codec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastslow.codec.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
