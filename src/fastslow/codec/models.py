"""The model of an archive: from a name, a folder or an object to the predictor that a mode needs, and its hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastslow.codec.container import Mode
from fastslow.codec.errors import FormatError, ModelError
from fastslow.errors import FastslowError, os_reason

if TYPE_CHECKING:
    import torch

    from fastslow.codec.exact.model import ExactModel
    from fastslow.lm import CharLM

_FLOAT_MAGIC = b"FSFM"
_EXACT_MAGIC = b"FSXM"
_MAX_HEADER = 1 << 20
_DTYPES = ("float64", "float32", "bfloat16", "float16")
MAX_NAME = 200


class CodecModel:
    """A model as the codec uses it: a `CharLM`, or a model already in integers, which has no float form.

    name: what an archive calls it, for people; the hash is what counts.
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
        """The model in integers, made once."""
        if self._given is not None:
            return self._given
        if weight_bits not in self._exact:
            from fastslow.codec.exact.quantise import quantise

            lm = self.lm
            self._exact[weight_bits] = quantise(
                lm.alphabet.symbols,
                lm.embedding.weight,
                lm.layer,
                lm.head.weight,
                lm.head.bias,
                weight_bits=weight_bits,
            )
        return self._exact[weight_bits]

    @property
    def lm(self) -> CharLM:
        if self._lm is None:
            raise ModelError(f"model {self.name!r} is in integers alone: it can be used in exact mode only")
        return self._lm

    def serial(self, mode: Mode, weight_bits: int = 16) -> bytes:
        """The bytes whose SHA-256 names the model in an archive of this mode."""
        if mode == Mode.EXACT:
            return self.exact(weight_bits).to_bytes()
        return float_bytes(self.lm)

    def id(self, mode: Mode, weight_bits: int = 16) -> bytes:
        if mode == Mode.EXACT:
            return self.exact(weight_bits).id
        digest = hashlib.sha256()
        for part in _float_parts(self.lm):
            digest.update(part)
        return digest.digest()


ModelLike: TypeAlias = "str | os.PathLike[str] | CharLM | ExactModel | CodecModel"


def as_model(model: ModelLike, device: torch.device | str | None = None) -> CodecModel:
    """A `CodecModel` from: itself, a `CharLM`, an `ExactModel`, a folder with a model, or a file that
    `export_model` wrote. Raises FastslowError for a name that leads nowhere."""
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
    raise TypeError(f"a model is a folder, a CharLM or an ExactModel; got {type(model).__name__}")


def export_model(model: ModelLike, path: str | os.PathLike[str], *, weight_bits: int = 16) -> None:
    """Write the model in integers, tables included, to one file, which `as_model` and `--model` take."""
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
                raise ModelError(f"{path} is no model: name a run's folder, or a file with a model in integers")
            data = magic + file.read()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {os_reason(error)}") from error
    try:
        return model_from_bytes(data)
    except FormatError as error:
        raise ModelError(f"the model {path} is damaged: {error}") from None


def model_from_serial(data: bytes, mode: Mode, name: str) -> CodecModel:
    """The model that was embedded in an archive. FormatError for bytes that are none."""
    if mode == Mode.EXACT:
        from fastslow.codec.exact.model import model_from_bytes

        return CodecModel(name, exact=model_from_bytes(data))
    return CodecModel(name, lm=lm_from_bytes(data))


# ---------------------------------------------------------------------- float models as bytes


def float_bytes(lm: CharLM) -> bytes:
    """Magic, length of a JSON header (configuration and type), the header, then the tensors by name."""
    return b"".join(_float_parts(lm))


def _float_parts(lm: CharLM) -> Iterator[bytes]:
    import torch

    state = lm.state_dict()
    dtype = str(lm.head.weight.dtype).removeprefix("torch.")
    header = {"config": lm.config.to_json(), "dtype": dtype}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    yield _FLOAT_MAGIC + len(text).to_bytes(4, "little") + text
    for name in sorted(state):
        yield state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def lm_from_bytes(data: bytes) -> CharLM:
    """The model that `float_bytes` wrote. FormatError for anything else; lengths are compared before allocating."""
    import torch

    from fastslow.lm import CharLM
    from fastslow.lm.config import LMConfig

    length = int.from_bytes(data[4:8], "little")
    if data[:4] != _FLOAT_MAGIC or length > _MAX_HEADER or 8 + length > len(data):
        raise FormatError("the embedded model is damaged: it does not begin as one")
    try:
        header = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict) or set(header) != {"config", "dtype"} or header["dtype"] not in _DTYPES:
            raise FormatError("the embedded model is damaged: its header lacks a field")
        if not isinstance(header["config"], Mapping):
            raise FormatError("the embedded model is damaged: it has no configuration")
        config = LMConfig.from_json(header["config"], "the configuration of the embedded model")
    except FormatError:
        raise
    except FastslowError as error:  # before ValueError, which some of them are too
        raise FormatError(f"the embedded model is damaged: {error}") from None
    except (ValueError, RecursionError, TypeError):
        raise FormatError("the embedded model is damaged: its header is not JSON") from None
    dtype = getattr(torch, header["dtype"])
    lm = CharLM(config, device="meta", dtype=dtype)
    shapes = {name: tuple(value.shape) for name, value in lm.state_dict().items()}
    size = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values()) * dtype.itemsize
    if 8 + length + size != len(data):
        raise FormatError("the embedded model is damaged: its weights are not as long as its configuration says")
    position, state = 8 + length, {}
    for name in sorted(shapes):
        count = int(np.prod(shapes[name]))
        raw = np.frombuffer(data, np.uint8, count * dtype.itemsize, position).copy()
        state[name] = torch.from_numpy(raw).view(dtype).reshape(shapes[name])
        position += raw.size
    lm.load_state_dict(state, assign=True)
    return lm.eval()
