"""The arguments of a window's operator: a program, which is text, and tensors.

The program holds everything about a window that is not a tensor: the wiring, each node's cell, the rates and the
engine's options. It is JSON, and equal windows have equal programs, so it can be part of a graph that PyTorch records,
saves and runs elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from fastslow.backends.base import Option, Rates, States
from fastslow.backends.flat import Flat, flat, kind_of
from fastslow.noise import Noise
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring


@dataclass(frozen=True)
class Program:
    """A parsed program.

    kinds: the cell of each node. present: which of its parameters it has, one bool per field.
    options: engine options such as precision; they change how the result is computed, not what is computed.
    """

    wiring: Wiring
    kinds: tuple[str, ...]
    present: tuple[tuple[bool, ...], ...]
    rates: Rates
    options: Mapping[str, Any]

    @property
    def flat(self) -> Flat:
        return flat(self.wiring, self.kinds)

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(map(sum, self.present))

    def weights(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """One named tuple per node, from a list with one entry per parameter; None for parameters a node lacks."""
        each = iter(given)
        return self.flat.weights([next(each) if has else None for node in self.present for has in node])


def cells_text(weights: Sequence[Any]) -> str:
    """Each node's cell and which of its parameters are present: "lstm:1111111 lstm:0111111"."""
    return " ".join(kind_of(node) + ":" + "".join("0" if field is None else "1" for field in node) for node in weights)


@lru_cache(maxsize=1024)
def program_text(wiring: str, cells: str, rates: Rates, options: tuple[tuple[str, Option], ...] = ()) -> str:
    """wiring: `Wiring.text`; cells: `cells_text`; options: name and value."""
    whole = {
        "wiring": json.loads(wiring),
        "cells": cells,
        "rates": dataclasses.asdict(rates),
        "options": dict(options),
    }
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def parse(text: str) -> Program:
    read = json.loads(text)
    nodes = [node.split(":") for node in read["cells"].split()]
    return Program(
        Wiring.parse(json.dumps(read["wiring"])),
        tuple(kind for kind, _ in nodes),
        tuple(tuple(has == "1" for has in fields) for _, fields in nodes),
        Rates(**read["rates"]),
        read["options"],
    )


@dataclass(frozen=True)
class Request:
    """All arguments of a window's operator: the arguments of `run` in `fastslow.backends.base`, and the options."""

    program: Program
    weights: tuple[Any, ...]
    x: Tensor
    states: States | None
    """None in a backward pass, which does not need it."""
    noise: Noise | None
    lengths: Tensor | None
    resets: Tensor | None

    @classmethod
    def of(
        cls,
        wiring: Wiring,
        weights: Sequence[Any],
        x: Tensor,
        rates: Rates,
        options: Sequence[tuple[str, Option]],
    ) -> Request:
        """A request without masks, lengths, resets or a state; for code that calls parts of an engine directly."""
        program = parse(program_text(wiring.text, cells_text(weights), rates, tuple(options)))
        return cls(program, tuple(weights), x, None, None, None, None)

    @property
    def wiring(self) -> Wiring:
        return self.program.wiring

    @property
    def rates(self) -> Rates:
        return self.program.rates

    @property
    def hidden(self) -> tuple[int, ...]:
        """H of each node."""
        return tuple(node.hidden_size for node in self.weights)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.x.shape[0], self.x.shape[1], self.hidden[self.wiring.output_index]

    def state_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the leaves of every slot's state."""
        hidden, rows = self.hidden, self.x.shape[1]
        sizes = [hidden[self.wiring.slot_of.index(slot)] for slot in range(len(self.wiring.slots))]
        kinds = self.program.flat.slots
        return [(rows, size) for size, kind in zip(sizes, kinds, strict=True) for _ in range(kind.leaves)]

    def check(self) -> None:
        """RuntimeError unless every tensor has the shape, dtype and device that the program requires.

        Operators may be called by programs recorded elsewhere, and kernels read memory by address.
        """
        x = self.x
        if x.dim() != 3:
            raise RuntimeError(f"x must be (T, B, X); got {tuple(x.shape)}")
        hidden, inputs = self.hidden, x.shape[2]
        kinds = self.program.flat.nodes
        for n, (kind, node, source) in enumerate(zip(kinds, self.weights, self.wiring.sources, strict=True)):
            read = inputs if source == FROM_INPUT else 0 if source == NO_INPUT else hidden[source]
            for name, field in zip(node._fields, node, strict=True):
                if field is not None and not (name == "w_x" and source == NO_INPUT):
                    _check(f"{name} of node {n}", field, kind.shape(name, read, hidden[n]), x)
        if self.states is not None:
            leaves = [leaf for state in self.states for leaf in ((state,) if isinstance(state, Tensor) else state)]
            for leaf, expected in zip(leaves, self.state_shapes(), strict=True):
                _check("a state", leaf, expected, x)
        rows = x.shape[1]
        sizes: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "lengths": (self.lengths, (rows,)),
            "resets": (self.resets, (x.shape[0], rows)),
        }
        for name, (given, shape) in sizes.items():
            if given is not None and tuple(given.shape) != shape:
                raise RuntimeError(f"{name} must be {shape}; got {tuple(given.shape)}")


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != x.dtype or tensor.device != x.device:
        raise RuntimeError(
            f"{name} must be {shape} {x.dtype} on {x.device}, like x; "
            f"got {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        )
