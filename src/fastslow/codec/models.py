"""Models for archives: from a name, a folder or an object to integers and their hash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fastslow.codec.errors import FormatError, ModelError
from fastslow.errors import os_reason

if TYPE_CHECKING:
    import torch

    from fastslow.codec.exact.model import ExactModel
    from fastslow.lm import CharLM

_EXACT_MAGIC = b"FSXM"
MAX_NAME = 200


class CodecModel:
    """A model for the codec: a `CharLM`, or a model in integers without a float form.

    name: a descriptive name; archives identify the model by its hash.
    """

    def __init__(self, name: str, *, lm: CharLM | None = None, exact: ExactModel | None = None) -> None:
        self.name = "".join(c for c in name if c.isprintable())[:MAX_NAME]
        self._lm = lm
        self._given = exact
        self._exact: dict[int, ExactModel] = {}

    @property
    def symbols(self) -> bytes:
        return self._lm.alphabet.symbols if self._lm is not None else self.exact().symbols

    def exact(self, weight_bits: int = 16) -> ExactModel:
        """The model in integers, computed once."""
        if self._given is not None:
            return self._given
        if weight_bits not in self._exact:
            self._exact[weight_bits] = exact_model(self.lm, weight_bits)
        return self._exact[weight_bits]

    @property
    def lm(self) -> CharLM:
        if self._lm is None:
            raise ModelError(f"model {self.name!r} is stored in integers and has no float form")
        return self._lm

    def id(self, weight_bits: int = 16) -> bytes:
        """The SHA-256 of the model in integers, which identifies it in archives."""
        return self.exact(weight_bits).id


def exact_model(lm: CharLM, weight_bits: int = 16) -> ExactModel:
    """The model in integers that compresses for `lm`."""
    from fastslow.codec.exact.quantise import quantise

    parts = lm.embedding.weight, lm.layer, lm.head.weight, lm.head.bias
    return quantise(lm.alphabet.symbols, *parts, weight_bits=weight_bits)


ModelLike: TypeAlias = "str | os.PathLike[str] | CharLM | ExactModel | CodecModel"


def as_model(model: ModelLike, device: torch.device | str | None = None) -> CodecModel:
    """A `CodecModel` from: itself, a `CharLM`, an `ExactModel`, a folder with a model, or a file that
    `export_model` wrote. Raises FastslowError if there is no such model."""
    if isinstance(model, CodecModel):
        return model
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.is_file():
            return CodecModel(path.name, exact=_read_exact(path))
        from fastslow.lm import CharLM

        return CodecModel(path.name or str(path), lm=CharLM.from_pretrained(model, device=device))
    from fastslow.codec.exact.model import ExactModel
    from fastslow.lm import CharLM

    if isinstance(model, ExactModel):
        return CodecModel("", exact=model)
    if isinstance(model, CharLM):
        return CodecModel("", lm=model)
    raise TypeError(f"model must be a folder, a CharLM or an ExactModel; got {type(model).__name__}")


def export_model(model: ModelLike, path: str | os.PathLike[str], *, weight_bits: int = 16) -> None:
    """Write the model in integers, including tables, to one file, which `as_model` and `--model` accept."""
    from fastslow.storage import write_atomic

    data = as_model(model).exact(weight_bits).to_bytes()

    def fill(file: Any) -> None:
        file.write(data)

    write_atomic(Path(path), fill, what="the model in integers")


def _read_exact(path: Path) -> ExactModel:
    from fastslow.codec.exact.model import model_from_bytes

    try:
        with open(path, "rb") as file:
            magic = file.read(len(_EXACT_MAGIC))
            if magic != _EXACT_MAGIC:
                raise ModelError(f"{path} is not a model: pass a run's folder, or a file with a model in integers")
            data = magic + file.read()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {os_reason(error)}") from error
    try:
        return model_from_bytes(data)
    except FormatError as error:
        raise ModelError(f"the model {path} is damaged: {error}") from None


def model_from_serial(data: bytes) -> CodecModel:
    """The model from the bytes embedded in an archive. Raises FormatError if they are invalid."""
    from fastslow.codec.exact.model import model_from_bytes

    return CodecModel("", exact=model_from_bytes(data))
