"""From a trained model to one that can be packaged: the integers of exact compression, as the model's weights.

`codec.exact` rounds weights to integers; those integers are what is stored here. Loaded again in floats, the model is
the one that exact compression runs, and rounding it once more gives the same integers: both forms have one name.
In 8 bits, each row of a matrix has a power of two of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastslow.codec.exact.model import SHIFT_BITS, ExactCell
from fastslow.codec.exact.tables import ONE_BITS, Ints
from fastslow.codec.models import exact_model
from fastslow.lm import CharLM, ModelError, files
from fastslow.lm.fixed import Fixed, rows_of_8_bits, stored, to_float

MAX_BYTES = {16: 4_000_000, 8: 8_000_000}
"""The maximum size of a packaged model with 16 bits and with 8 bits, including its configuration."""

WeightBits = Literal[8, 16]

ID = "archive_id"
"""The entry of the file's metadata with the model's archive id, in hex."""


class Made(NamedTuple):
    """The result: the bytes of both files, the number of weights, and the SHA-256 that identifies it in archives."""

    size: int
    parameters: int
    id: bytes


def fixed_weights(lm: CharLM) -> dict[str, Fixed]:
    """The weights of `lm` by name, rounded to the integers that exact compression uses."""
    exact, config = exact_model(lm), lm.config
    weights = {
        "embedding.weight": _int16(exact.embedding, exact.embedding_bits),
        "head.weight": _int16(exact.head, exact.head_bits),
        "head.bias": _int32(exact.head_bias, ONE_BITS),
    }
    for node, run in zip(lm.layer.wiring.nodes, exact.nodes, strict=True):
        cell = exact.cells[run.cell]
        for name, weight in _cell_weights(cell, config.forget_bias).items():
            weights[f"layer.{node.cell_name}.{name}"] = weight
    return weights


def _cell_weights(cell: ExactCell, forget_bias: float) -> dict[str, Fixed]:
    """The parameters of a cell. The forget gate's constant, which the integers have in a bias, is taken out of it."""
    constant = np.zeros(4 * cell.hidden)
    constant[cell.hidden : 2 * cell.hidden] = forget_bias
    weights = {"weight_hh": _int16(cell.weight[:, cell.input :], cell.bits)}
    if cell.embedded:
        weights["weight_ih"] = _int16(cell.embed_weight, cell.embed_bits)
    elif cell.input:
        weights["weight_ih"] = _int16(cell.weight[:, : cell.input], cell.bits)
    if not cell.norm:
        weights["bias"] = _int32(cell.bias - _rounded(constant, cell.z_bits), cell.z_bits)
        return weights
    weights["bias"] = _int32(cell.bias, cell.z_bits)
    weights["gate_norm.weight"] = _int16(cell.gate_gain, cell.gate_bits)
    weights["gate_norm.bias"] = _int32(cell.gate_shift - _rounded(constant, SHIFT_BITS), SHIFT_BITS)
    weights["cell_norm.weight"] = _int16(cell.cell_gain, cell.cell_bits)
    weights["cell_norm.bias"] = _int32(cell.cell_shift, SHIFT_BITS)
    return weights


def _rounded(values: np.ndarray, bits: int) -> Ints:
    return np.rint(values * 2.0**bits).astype(np.int64)


def _int16(values: Ints, bits: int) -> Fixed:
    return Fixed(torch.from_numpy(values.astype(np.int16)), bits)


def _int32(values: Ints, bits: int) -> Fixed:
    return Fixed(torch.from_numpy(values.astype(np.int32)), bits)


def rounded(lm: CharLM, bits: WeightBits = 16) -> tuple[CharLM, dict[str, Fixed]]:
    """`lm` with its weights in fixed point, as float32, on the CPU; and those weights, matrices of `bits` bits.

    Raises ModelError unless rounding the result again gives the same integers.
    """
    if bits == 16:
        weights = fixed_weights(lm)
        result = _in_floats(lm, weights)
        if exact_model(result).id != exact_model(lm).id:
            raise ModelError("the rounded weights do not give the same integers again: the model cannot be packaged")
        return result, weights
    matrices = _in_8_bits(lm)
    weights = {**fixed_weights(_in_floats(lm, matrices)), **matrices}
    result = _in_floats(lm, weights)
    for name, weight in _in_8_bits(result).items():
        if weight.bits != matrices[name].bits:
            raise ModelError(f"{name} is not reproduced by its 8-bit form: package the model with 16 bits")
    return result, weights


def _in_8_bits(lm: CharLM) -> dict[str, Fixed]:
    """The matrices in 8 bits. Those whose products the exact engine adds up share the power of two of each row."""
    weights = {name: weight for name, weight in lm.state_dict().items() if weight.dim() == 2}
    together: dict[str, list[str]] = {name: [name] for name in weights}
    for node, run in zip(lm.layer.wiring.nodes, exact_model(lm).nodes, strict=True):
        cell = f"layer.{node.cell_name}"
        if f"{cell}.weight_ih" in weights and not exact_model(lm).cells[run.cell].embedded:
            together[f"{cell}.weight_hh"] = [f"{cell}.weight_ih", f"{cell}.weight_hh"]
            together.pop(f"{cell}.weight_ih", None)
    return {
        name: fixed
        for names in together.values()
        for name, fixed in zip(names, rows_of_8_bits(*(weights[name] for name in names)), strict=True)
    }


def _in_floats(lm: CharLM, weights: dict[str, Fixed]) -> CharLM:
    """A copy of `lm` on the CPU in float32, with `weights` instead of its own."""
    tensors, _ = stored(weights)
    floats: dict[str, Tensor] = to_float(tensors, {name: weight.bits for name, weight in weights.items()})
    own = {name: weight.to("cpu", torch.float32) for name, weight in lm.state_dict().items()}
    result = CharLM(lm.config, backend=lm.layer.backend, device="meta")
    result.load_state_dict(own | floats, assign=True)
    return result.eval()


def make(lm: CharLM, folder: str | os.PathLike[str], bits: WeightBits = 16) -> Made:
    """Write `lm` to `folder` in fixed point, which is created if necessary; matrices of `bits` bits.

    Raises ModelError for a model of more than `MAX_BYTES`, or one whose weights do not fit; StorageError where the
    system refuses.
    """
    result, weights = rounded(lm, bits)
    most = MAX_BYTES[bits]
    size = sum(weight.values.nbytes for weight in weights.values())
    if size > most:
        raise ModelError(
            f"the model takes {size:,} bytes; a packaged model may take at most {most:,}: use a smaller model"
        )
    path = Path(folder)
    files.make_folder(path)
    files.write_config(path, result.config)
    name = exact_model(result).id
    files.write_fixed_weights(path, weights, {ID: name.hex()})
    size = sum((path / name).stat().st_size for name in (files.CONFIG_FILE, files.WEIGHTS_FILE))
    if size > most:
        raise ModelError(
            f"{path} takes {size:,} bytes; a packaged model may take at most {most:,}: use a smaller model"
        )
    return Made(size, result.num_parameters, name)
