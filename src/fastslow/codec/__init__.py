"""A lossless compressor driven by a language model.

    from fastslow import codec

    archive = codec.compress(data, "runs/demo")             # bytes; or a CharLM in place of the folder
    data = codec.decompress(archive, "runs/demo")
    with codec.open("log.fsz", "runs/logs") as file: ...    # readable and seekable

Frozen models compute in integers by default, so that an archive decodes on any machine. `docs/format.md` specifies the
bytes. Nothing is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.codec.archive import ArchiveReader, Options, Summary, compress_stream, decompress_stream
    from fastslow.codec.buffers import compress, decompress
    from fastslow.codec.container import Mode
    from fastslow.codec.errors import CodecError, FormatError, ModelError, NumericsError
    from fastslow.codec.learning import Learning, Online
    from fastslow.codec.models import CodecModel, export_model
    from fastslow.codec.stream import open

_HOMES = {
    "compress": "fastslow.codec.buffers",
    "decompress": "fastslow.codec.buffers",
    "open": "fastslow.codec.stream",
    "compress_stream": "fastslow.codec.archive",
    "decompress_stream": "fastslow.codec.archive",
    "ArchiveReader": "fastslow.codec.archive",
    "Options": "fastslow.codec.archive",
    "Summary": "fastslow.codec.archive",
    "Mode": "fastslow.codec.container",
    "Learning": "fastslow.codec.learning",
    "Online": "fastslow.codec.learning",
    "CodecModel": "fastslow.codec.models",
    "export_model": "fastslow.codec.models",
    "CodecError": "fastslow.codec.errors",
    "FormatError": "fastslow.codec.errors",
    "ModelError": "fastslow.codec.errors",
    "NumericsError": "fastslow.codec.errors",
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


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
