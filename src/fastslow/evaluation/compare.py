"""Per-symbol losses: save them to a file, and compare two models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastslow.errors import DataError, os_reason
from fastslow.evaluation.bpc import Evaluation
from fastslow.metrics import Interval, bootstrap_difference
from fastslow.storage import write_atomic

SymbolNats = NDArray[np.float32]


def save_nats(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write the losses of an evaluation with `per_symbol=True` as a NumPy file: (symbols,) float32, in nats.

    Raises StorageError if it cannot be written; an existing file is then unchanged.
    """
    nats = _nats_of(evaluation)
    write_atomic(Path(path), lambda file: np.save(file, nats, allow_pickle=False), what="the losses")


def load_nats(path: str | os.PathLike[str]) -> SymbolNats:
    """The losses written by `save_nats`, (symbols,) float32, in nats. Raises DataError for anything else."""
    try:
        nats: Any = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read the losses {os.fspath(path)}: {os_reason(error)}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{os.fspath(path)} is not a NumPy file of losses: {str(error)[:100]}") from error
    if not isinstance(nats, np.ndarray) or nats.ndim != 1 or nats.dtype.kind != "f":
        raise DataError(
            f"{os.fspath(path)} does not contain losses: expected one number per symbol, as --per-symbol writes"
        )
    return nats.astype(np.float32, copy=False)


def compare(
    first: Evaluation | SymbolNats,
    second: Evaluation | SymbolNats,
    *,
    block: int = 1000,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The difference in bits per character between `first` and `second` on one text, with its bootstrap interval.

    Negative: `first` is better. Both are compared symbol by symbol, so that common difficulty cancels; whole blocks
    of neighbouring symbols are resampled (`metrics.bootstrap_difference`). The interval covers other text of the same
    kind, not other seeds.

    Raises DataError for evaluations without per-symbol losses, or of different texts.
    """
    return bootstrap_difference(
        _nats_of(first), _nats_of(second), block=block, samples=samples, confidence=confidence, seed=seed
    )


def _nats_of(given: Evaluation | SymbolNats) -> SymbolNats:
    if not isinstance(given, Evaluation):
        return given
    if given.symbol_nats is None:
        raise DataError("the evaluation has no per-symbol losses: evaluate with per_symbol=True")
    return given.symbol_nats
