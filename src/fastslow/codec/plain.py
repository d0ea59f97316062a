"""Blocks compressed without a model: raw LZMA2, without the xz container."""

from __future__ import annotations

import lzma

from fastslow.codec.errors import FormatError

_MIN_DICTIONARY = 1 << 12


def _filters(length: int) -> list[dict[str, int]]:
    """xz -9e with a dictionary no larger than the block, which bounds the memory."""
    dictionary = max(_MIN_DICTIONARY, 1 << (length - 1).bit_length())
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]


def pack(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=_filters(len(data)))


def unpack(payload: bytes, length: int) -> bytes:
    """The `length` bytes given to `pack`. Raises FormatError otherwise, without allocating more than that."""
    try:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_filters(length))
        data = decoder.decompress(payload, max_length=length)
        if len(data) == length and not decoder.eof:
            data += decoder.decompress(b"", max_length=1)  # the end mark
        ends = decoder.eof and not decoder.unused_data
    except (lzma.LZMAError, EOFError):
        raise FormatError("its lzma stream is damaged") from None
    if len(data) != length or not ends:
        raise FormatError("the length of its lzma stream differs from its header")
    return data
