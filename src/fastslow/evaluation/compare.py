"""Losses of single symbols: save them to a file, and compare two models."""

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
    """Write the losses of an evaluation made with `per_symbol=True`: a NumPy file of (symbols,) float32, in nats.

    Raises StorageError if the system refuses; the previous file is then kept.
    """
    nats = _nats_of(evaluation)
    write_atomic(Path(path), lambda file: np.save(file, nats, allow_pickle=False), what="the losses")


def load_nats(path: str | os.PathLike[str]) -> SymbolNats:
    """The losses that `save_nats` wrote, (symbols,) float32, in nats. Raises DataError for anything else."""
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
    """How much worse, in bits per character, `first` is than `second` on one text, with its bootstrap interval.

    Negative: `first` is better. Both are compared symbol by symbol, so that common difficulty cancels; whole blocks
    of neighbouring symbols are resampled (`metrics.bootstrap_difference`). The interval speaks of other text of the
    same kind, not of other seeds.

    Raises DataError for evaluations without losses of single symbols, or of different texts.
    """
    return bootstrap_difference(
        _nats_of(first), _nats_of(second), block=block, samples=samples, confidence=confidence, seed=seed
    )


def _nats_of(given: Evaluation | SymbolNats) -> SymbolNats:
    if not isinstance(given, Evaluation):
        return given
    if given.symbol_nats is None:
        raise DataError("the evaluation has no losses of single symbols: evaluate with per_symbol=True")
    return given.symbol_nats
