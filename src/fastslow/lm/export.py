"""A language model as an ONNX file: token numbers and a state in, logits and the new state out.

The layer runs its reference loop while PyTorch traces it, so a window of T steps becomes T copies of a step in the
file. One step is what a program that streams needs; a window saves calls.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fastslow.errors import FastslowError, os_reason
from fastslow.lm.model import CharLM
from fastslow.state import map_state, state_tensors

MAX_WINDOW = 256
"""Steps of a window: each makes the file longer."""
TOLERANCE = 1e-4
"""Largest difference between the file's outputs and PyTorch's that passes the check."""


class ExportError(FastslowError):
    """A model that cannot be exported as asked, a file that cannot be written, or one that computes something else."""


class _Flat(nn.Module):
    """The model as a function of tensors alone: tokens and the leaves of the state -> logits and the new leaves."""

    def __init__(self, lm: CharLM, window: int | None) -> None:
        super().__init__()
        self.lm, self.window = lm, window

    def forward(self, tokens: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        given = iter(leaves)
        state = map_state(lambda _: next(given), self.lm.initial_state(1))
        logits, new = (self.lm.step if self.window is None else self.lm)(tokens, state)
        return (logits, *state_tensors(new))


def state_names(lm: CharLM) -> list[str]:
    """The names of the state's leaves, in order: `fast_h`, `fast_c`, `slow_h`, `slow_c` for an FS-LSTM."""
    return [f"{slot}_{part}" for slot in lm.layer.wiring.slots for part in "hc"]


def export_onnx(lm: CharLM, path: str | os.PathLike[str], *, window: int | None = None) -> float:
    """Write `lm` to an ONNX file, run it with ONNX Runtime, and return the largest difference from PyTorch's outputs.

    Args:
        lm: the model; it is exported as in evaluation mode, in float32.
        path: the file. Weights beyond 2 GB go to a second file beside it.
        window: steps in a call, at most 256; None for one step without the time dimension.

    The file's inputs are `tokens`, (B,) or (T, B) int64, and the leaves of the state, (B, size) float32, by the names
    of `state_names`; its outputs `logits`, (B, V) or (T, B, V), and the new leaves, `new_` before each name. B is free.
    Its metadata has `alphabet`: the byte of each token in hexadecimal.

    Raises ExportError where onnx, onnxscript or onnxruntime is not installed, the file cannot be written, or the check
    fails.
    """
    if window is not None and not 1 <= window <= MAX_WINDOW:
        raise ExportError(f"window must be from 1 to {MAX_WINDOW} steps; got {window}")
    _libraries()
    import fastslow

    copy = CharLM(lm.config, backend="reference", device="cpu", dtype=torch.float32)
    copy.load_state_dict(lm.state_dict())
    model = _Flat(copy.eval(), window).eval()
    names = state_names(copy)
    inputs, streams = _inputs(copy, window, 2), torch.export.Dim("streams")
    with _quiet():
        program = torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            dynamic_shapes=({0 if window is None else 1: streams}, tuple({0: streams} for _ in names)),
            input_names=["tokens", *names],
            output_names=["logits", *(f"new_{name}" for name in names)],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["alphabet"] = copy.alphabet.symbols.hex()
    program.model.producer_name, program.model.producer_version = "fastslow", fastslow.__version__
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        program.save(target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {os_reason(error)}") from error
    difference = check_onnx(copy, target, window)
    if not difference <= TOLERANCE:
        raise ExportError(f"{target} computes something else than the model: outputs differ by up to {difference:.2g}")
    return difference


def check_onnx(lm: CharLM, path: str | os.PathLike[str], window: int | None = None) -> float:
    """The largest difference between the outputs of an exported file and those of `lm`, for three streams."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    inputs = _inputs(lm, window, 3)
    given = {name: value.numpy() for name, value in zip(["tokens", *state_names(lm)], inputs, strict=True)}
    found = session.run(None, given)
    with torch.no_grad():
        wanted = _Flat(lm, window)(*inputs)
    return max(float((torch.from_numpy(a) - b).abs().max()) for a, b in zip(found, wanted, strict=True))


def _inputs(lm: CharLM, window: int | None, streams: int) -> tuple[Tensor, ...]:
    """Tokens and a state to try a model with, always the same."""
    generator = torch.Generator().manual_seed(1)
    shape = (streams,) if window is None else (window, streams)
    tokens = torch.randint(len(lm.alphabet), shape, generator=generator)
    state = state_tensors(lm.initial_state(streams))
    return tokens, *(torch.rand(leaf.shape, generator=generator) - 0.5 for leaf in state)


def _libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"the package {error.name} is not installed; exporting needs it: pip install 'fastslow[export]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages it does not need and names it derives itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
