"""The arguments that layers have in common, and those of `torch.nn.LSTM` that they know by another name or refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., None])


class GRUOptions(TypedDict, total=False):
    """The keyword arguments of a layer of GRU cells; `WiredRNN` says what each means."""

    bias: bool
    batch_first: bool
    dropout: float
    zoneout_h: float
    layer_norm: bool
    backend: str
    device: torch.device | str | None
    dtype: torch.dtype | None


class LSTMOptions(GRUOptions, total=False):
    """The same of a layer of LSTM cells."""

    zoneout_c: float
    forget_bias: float


_UNSUPPORTED = {
    "bidirectional": "it carries its state from window to window, which a reversed direction cannot",
    "proj_size": "its output is the state h itself; put a Linear after the layer instead",
    "num_layers": "its depth is in its wiring; use num_fast or num_cells where it has one, or StackedLSTM",
}


def supported(layer: str, options: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The `known` ones of these options.

    Raises TypeError for others, in a sentence where `torch.nn.LSTM` has them; there their defaults pass.
    """
    kept = {name: options[name] for name in known if name in options}
    for name, value in options.items():
        if name in kept:
            continue
        reason = _UNSUPPORTED.get(name)
        if reason is None:
            raise TypeError(f"{layer}.__init__() got an unexpected keyword argument {name!r}")
        if value not in (False, 0) and not (name == "num_layers" and value == 1):
            raise TypeError(f"{layer} does not support {name}={value!r}: {reason}")
    return kept


def spelled_out(options: type[Any], of: Callable[..., None]) -> Callable[[F], F]:
    """For a constructor with `**options`: its signature, as `help` and documentation show it, names each of them.

    options: the TypedDict of their names. of: the constructor that has their types and defaults.
    """
    named = [p for name, p in inspect.signature(of).parameters.items() if name in options.__annotations__]

    def decorate(constructor: F) -> F:
        own = inspect.signature(constructor)
        first = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        constructor.__signature__ = own.replace(parameters=[*first, *named])  # type: ignore[attr-defined]
        return constructor

    return decorate


def by_either_name(name: str, value: Any, other: str, given: Any, *default: Any) -> Any:
    """An argument under our name or `torch.nn.LSTM`'s."""
    if value is not None and given is not None:
        raise TypeError(f"{name} and {other} are two names of one argument: pass one of them")
    if value is None and given is None and not default:
        raise TypeError(f"forward() missing 1 required argument: {name!r}")
    return value if given is None else given
