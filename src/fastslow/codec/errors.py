"""What can go wrong with an archive, each a `FastslowError`: one line that names the place."""

from __future__ import annotations

from fastslow.errors import FastslowError


class CodecError(FastslowError):
    """Compressing or decompressing failed for a reason the user can see and act on."""


class FormatError(CodecError):
    """The bytes are not an archive, or a damaged one, or one of a newer version."""


class ModelError(CodecError):
    """The model is missing, is not the one the archive was made with, or cannot be used this way."""
