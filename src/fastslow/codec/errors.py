"""Errors of the codec, with one-line messages that name the place in the archive."""

from __future__ import annotations

from fastslow.errors import FastslowError


class CodecError(FastslowError):
    """Base class of errors that a user of the codec can cause."""


class FormatError(CodecError):
    """The bytes are not an archive, are damaged, or have a newer format version."""


class ModelError(CodecError):
    """The model is missing, is not the one the archive was made with, or cannot be used this way."""
