"""A lossless compressor driven by a language model.

    from fastslow import codec

    archive = codec.compress(data, "runs/demo")             # bytes; or a CharLM in place of the folder
    data = codec.decompress(archive, "runs/demo")
    with codec.open("log.fsz", "runs/logs") as file: ...    # readable and seekable

A model's predictions are mixed with statistics of the text itself, in integers, so that an archive decodes on any
machine. `docs/format.md` specifies the bytes. Modules are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

if TYPE_CHECKING:
    from fastslow.codec.buffers import compress, decompress
    from fastslow.codec.errors import CodecError, FormatError, ModelError
    from fastslow.codec.models import CodecModel, export_model
    from fastslow.codec.reader import ArchiveReader, Summary, decompress_stream
    from fastslow.codec.stream import open
    from fastslow.codec.wanted import Wanted
    from fastslow.codec.writer import Options, compress_stream

_HOMES = {
    "compress": "fastslow.codec.buffers",
    "decompress": "fastslow.codec.buffers",
    "open": "fastslow.codec.stream",
    "compress_stream": "fastslow.codec.writer",
    "decompress_stream": "fastslow.codec.reader",
    "ArchiveReader": "fastslow.codec.reader",
    "Options": "fastslow.codec.writer",
    "Summary": "fastslow.codec.reader",
    "Wanted": "fastslow.codec.wanted",
    "CodecModel": "fastslow.codec.models",
    "export_model": "fastslow.codec.models",
    "CodecError": "fastslow.codec.errors",
    "FormatError": "fastslow.codec.errors",
    "ModelError": "fastslow.codec.errors",
}

__all__ = [
    "ArchiveReader",
    "CodecError",
    "CodecModel",
    "FormatError",
    "ModelError",
    "Options",
    "Summary",
    "Wanted",
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
