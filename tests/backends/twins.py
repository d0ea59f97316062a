"""The twin test: an engine beside the reference loop, with the same noise and so the same masks.

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_twin(case): check_twin(window, case)

`check_twin` compares outputs, final states and the gradients of every parameter, of x and of the initial states. The
expected values come from the loop in float64, so that one tolerance a type holds for every engine: each tensor may
differ by `TOLERANCE[dtype]` of its largest entry. Fresh memory is filled with NaN while the engine runs, so that
reading what nobody wrote shows.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastslow.backends import reference
from fastslow.backends.base import Engine, Problem, Rates, States
from fastslow.cells.kind import Kind
from fastslow.cells.kinds import KINDS
from fastslow.cells.lstm import CellWeights
from fastslow.noise import Noise
from fastslow.state import LSTMState, map_state, state_tensors
from fastslow.wiring import FROM_INPUT, NO_INPUT, Node, Wiring, fast_slow, sequential, stacked

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""By type: the largest difference allowed in a tensor, as a share of its largest entry."""


@dataclass(frozen=True)
class Case:
    """One comparison. `sizes`: H of each slot, by slot, or one number for all.

    cells: the kind of each node by its name, or one for all.

    grads: whether gradients arrive through the outputs, through the final states, or both.
    frozen: inputs that need no gradient: "x", "state", fields of CellWeights, or such a field of one node ("w_h@1").
    resets: (step, row) where a row's state starts anew.
    windows: how often the layer is used in one graph, the state carried from one use to the next.
    """

    wiring: Wiring = field(default_factory=fast_slow)
    input_size: int = 5
    sizes: Mapping[str, int] | int = 7
    T: int = 6
    B: int = 3
    dropout: float = 0.35
    zoneout_h: float = 0.15
    zoneout_c: float = 0.4
    forget_bias: float = 1.0
    training: bool = True
    lengths: tuple[int, ...] | None = None
    resets: tuple[tuple[int, int], ...] | None = None
    layer_norm: bool = True
    bias: bool = True
    cells: str | Mapping[str, str] = "lstm"
    grads: Literal["y", "state", "both"] = "both"
    frozen: tuple[str, ...] = ()
    first_step: int = 0
    first_row: int = 0
    windows: int = 1
    contiguous: bool = True

    @property
    def rates(self) -> Rates:
        return Rates(self.dropout, self.zoneout_h, self.zoneout_c, self.forget_bias)

    @property
    def slot_sizes(self) -> tuple[int, ...]:
        sizes = self.sizes
        return tuple(sizes if isinstance(sizes, int) else sizes[slot] for slot in self.wiring.slots)

    @property
    def kinds(self) -> tuple[str, ...]:
        cells = self.cells
        return tuple(cells if isinstance(cells, str) else cells[node.name] for node in self.wiring.nodes)

    @property
    def letters(self) -> tuple[tuple[str, ...], ...]:
        """What the tensors of each slot's state are called."""
        of_slot = [self.kinds[self.wiring.slot_of.index(slot)] for slot in range(len(self.wiring.slots))]
        return tuple(KINDS[kind].letters for kind in of_slot)

    def problem(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Problem:
        return Problem(
            device=torch.device(device),
            dtype=dtype,
            steps=self.T,
            rows=self.B,
            wiring=self.wiring,
            hidden_sizes=tuple(self.slot_sizes[slot] for slot in self.wiring.slot_of),
            needs_grad=True,
            training=self.training,
            layer_norm=self.layer_norm,
            autocast=None,
            traced=False,
            kinds=self.kinds,
        )


NO_NOISE: dict[str, Any] = {"dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}
FS_SIZES = {"fast": 11, "slow": 6}
THREE_TIERS = Wiring(
    (
        Node("fast.0", "fast", "x"),
        Node("mid", "mid", "fast.0"),
        Node("slow", "slow", "mid"),
        Node("fast.1", "fast", "slow"),
    )
)
SHARED_CELL = Wiring(
    (Node("a", "fast", "x"), Node("b", "slow", "a"), Node("c", "fast", "b", cell="c"), Node("d", "fast", "b", cell="c"))
)
SHARED_ACROSS_SLOTS = Wiring((Node("a", "one", "x", cell="a"), Node("b", "two", "x", cell="a"), Node("c", "two", "a")))
EARLY_OUTPUT = Wiring(
    (Node("a", "fast", "x"), Node("b", "slow", "a"), Node("c", "fast", "b")), slots=("slow", "fast"), output="a"
)
TWO_READERS = Wiring(
    (Node("a", "a", "x"), Node("b", "b", "a"), Node("c", "c", "a"), Node("d", "a", "b"), Node("e", "c", "a"))
)
"""Nodes b, c and e read a, the last one after a's slot has moved on; c's own output only e's state carries on."""
LAST_READ_TWICE = Wiring(
    (Node("a", "a", "x"), Node("b", "b", "a"), Node("c", "c", "a"), Node("d", "c", "b")), slots=("a", "b", "c")
)
"""Nodes b and c read a, which is the last of its slot: what they read goes on where its state starts anew."""
TWO_INPUTS = Wiring((Node("a", "a", "x"), Node("b", "b", "x"), Node("c", "a", "b"), Node("d", "a", None)))

CASES: dict[str, Case] = {
    "fs2": Case(sizes=FS_SIZES),
    "fs2-y": Case(sizes=FS_SIZES, grads="y"),
    "fs2-state": Case(sizes=FS_SIZES, grads="state"),
    "fs2-odd": Case(sizes={"fast": 37, "slow": 21}, input_size=13, T=5, B=5),
    "fs2-63x5": Case(sizes=FS_SIZES, T=63, B=5),
    "fs2-63x1": Case(sizes=FS_SIZES, T=63, B=1),
    "fs2-1x1": Case(sizes=FS_SIZES, T=1, B=1),
    "fs2-1x5": Case(sizes=FS_SIZES, T=1, B=5),
    "fs2-tiny": Case(sizes={"fast": 2, "slow": 1}, input_size=1),
    "fs2-no-norm": Case(sizes=FS_SIZES, layer_norm=False),
    "fs2-no-bias": Case(sizes=FS_SIZES, bias=False),
    "fs2-no-norm-no-bias": Case(sizes=FS_SIZES, layer_norm=False, bias=False, grads="y"),
    "fs2-no-noise": Case(sizes=FS_SIZES, **NO_NOISE),
    "fs2-no-noise-no-norm": Case(sizes=FS_SIZES, layer_norm=False, **NO_NOISE),
    "fs2-dropout-only": Case(sizes=FS_SIZES, zoneout_h=0.0, zoneout_c=0.0),
    "fs2-zoneout-only": Case(sizes=FS_SIZES, dropout=0.0),
    "fs2-zoneout-h-only": Case(sizes=FS_SIZES, zoneout_c=0.0),
    "fs2-zoneout-c-only": Case(sizes=FS_SIZES, zoneout_h=0.0),
    "fs2-rates-1": Case(sizes=FS_SIZES, dropout=1.0, zoneout_h=1.0, zoneout_c=1.0),
    "fs2-eval": Case(sizes=FS_SIZES, training=False),
    "fs2-eval-no-norm": Case(sizes=FS_SIZES, training=False, layer_norm=False, grads="state"),
    "fs2-forget-bias": Case(sizes=FS_SIZES, forget_bias=-0.5),
    "fs2-lengths": Case(sizes=FS_SIZES, B=5, T=7, lengths=(7, 3, 0, 5, 1)),
    "fs2-lengths-eval": Case(sizes=FS_SIZES, B=5, T=7, lengths=(2, 3, 0, 5, 1), training=False),
    "fs2-lengths-no-noise": Case(sizes=FS_SIZES, B=4, T=7, lengths=(7, 0, 6, 1), **NO_NOISE),
    "fs2-lengths-zoneout-c": Case(sizes=FS_SIZES, B=4, T=7, lengths=(7, 0, 6, 1), dropout=0.0, zoneout_h=0.0),
    "fs2-lengths-state": Case(sizes=FS_SIZES, B=3, T=4, lengths=(0, 4, 2), grads="state"),
    "fs2-resets": Case(sizes=FS_SIZES, T=7, resets=((0, 0), (3, 0), (3, 1), (6, 2))),
    "fs2-resets-no-noise": Case(sizes=FS_SIZES, T=5, B=4, resets=((1, 0), (2, 1), (2, 2), (4, 3)), **NO_NOISE),
    "fs2-resets-everywhere": Case(sizes=FS_SIZES, T=3, B=2, resets=tuple((t, b) for t in range(3) for b in range(2))),
    "fs2-resets-nowhere": Case(sizes=FS_SIZES, resets=()),
    "fs2-resets-lengths": Case(
        sizes=FS_SIZES, B=4, T=7, lengths=(7, 3, 0, 5), resets=((2, 0), (2, 1), (5, 1), (0, 2), (4, 3))
    ),
    "fs2-resets-state-twice": Case(sizes=FS_SIZES, T=3, resets=((1, 0), (2, 1)), grads="state", windows=2),
    "fs2-twice": Case(sizes=FS_SIZES, windows=2),
    "fs2-frozen-x-state": Case(sizes=FS_SIZES, frozen=("x", "state")),
    "fs2-frozen-matrices": Case(sizes=FS_SIZES, frozen=("w_x", "w_h")),
    "fs2-frozen-norms": Case(sizes=FS_SIZES, frozen=("gate_gain", "cell_shift", "bias")),
    "fs2-frozen-node": Case(sizes=FS_SIZES, frozen=("w_x@1", "w_h@1", "bias@1", "gate_shift@2", "cell_gain@0")),
    "fs2-frozen-all-weights": Case(sizes=FS_SIZES, frozen=CellWeights._fields),
    "fs2-only-states": Case(sizes=FS_SIZES, frozen=("x", *CellWeights._fields), grads="y"),
    "fs2-strided": Case(sizes=FS_SIZES, contiguous=False),
    "fs2-row-and-step": Case(sizes=FS_SIZES, first_row=32, first_step=1001),
    "fs4": Case(wiring=fast_slow(4), sizes=FS_SIZES),
    "fs4-63x5": Case(wiring=fast_slow(4), sizes={"fast": 9, "slow": 14}, T=63, B=5),
    "fs4-eval-lengths": Case(wiring=fast_slow(4), sizes=FS_SIZES, B=4, lengths=(6, 2, 0, 3), training=False),
    "stacked3": Case(wiring=stacked(3), sizes={"layer0": 9, "layer1": 5, "layer2": 12}),
    "stacked3-63x1": Case(wiring=stacked(3), sizes=10, T=63, B=1),
    "stacked1": Case(wiring=stacked(1), sizes=13, B=5, T=9),
    "stacked3-resets": Case(wiring=stacked(3), sizes=10, T=9, resets=((0, 1), (4, 0), (4, 1), (8, 2))),
    "stacked3-resets-no-noise": Case(wiring=stacked(3), sizes=10, T=9, B=5, resets=((4, 0), (8, 2)), **NO_NOISE),
    "sequential3": Case(wiring=sequential(3), sizes=13),
    "sequential3-no-norm-63": Case(wiring=sequential(3), sizes=10, T=63, B=5, layer_norm=False),
    "three-tiers": Case(wiring=THREE_TIERS, sizes={"fast": 9, "mid": 7, "slow": 5}),
    "three-tiers-lengths-twice": Case(
        wiring=THREE_TIERS, sizes={"fast": 9, "mid": 7, "slow": 5}, lengths=(6, 0, 2), windows=2
    ),
    "shared-cell": Case(wiring=SHARED_CELL, sizes={"fast": 9, "slow": 7}),
    "shared-across-slots": Case(wiring=SHARED_ACROSS_SLOTS, input_size=8, sizes=8),
    "early-output": Case(wiring=EARLY_OUTPUT, sizes={"fast": 9, "slow": 7}),
    "early-output-y": Case(wiring=EARLY_OUTPUT, sizes={"fast": 9, "slow": 7}, grads="y", T=1),
    "two-readers": Case(wiring=TWO_READERS, sizes={"a": 9, "b": 7, "c": 8}),
    "two-readers-y": Case(wiring=TWO_READERS, sizes={"a": 9, "b": 7, "c": 8}, grads="y", T=9, training=False),
    "two-readers-resets": Case(
        wiring=TWO_READERS, sizes={"a": 9, "b": 7, "c": 8}, T=5, resets=((1, 0), (3, 0), (4, 1)), dropout=0.0
    ),
    "two-inputs": Case(wiring=TWO_INPUTS, sizes=6),
    "last-read-twice-resets": Case(
        wiring=LAST_READ_TWICE, sizes={"a": 9, "b": 7, "c": 8}, T=5, resets=((1, 0), (3, 0), (4, 1))
    ),
}
"""What every engine of any wiring must pass, in every type it takes."""

MIXED = {"fast.0": "gru", "slow": "plain_lstm", "fast.1": "tanh", "fast.2": "relu"}
CELL_CASES: dict[str, Case] = {
    "gru": Case(sizes=FS_SIZES, cells="gru"),
    "gru-y": Case(sizes=FS_SIZES, cells="gru", grads="y", T=1),
    "gru-no-norm": Case(sizes=FS_SIZES, cells="gru", layer_norm=False),
    "gru-no-norm-no-bias": Case(sizes=FS_SIZES, cells="gru", layer_norm=False, bias=False),
    "gru-no-noise": Case(sizes=FS_SIZES, cells="gru", **NO_NOISE),
    "gru-no-noise-no-norm": Case(sizes=FS_SIZES, cells="gru", layer_norm=False, **NO_NOISE),
    "gru-eval": Case(sizes=FS_SIZES, cells="gru", training=False),
    "gru-odd": Case(sizes={"fast": 37, "slow": 21}, input_size=13, T=5, B=5, cells="gru"),
    "gru-lengths-resets": Case(
        sizes=FS_SIZES, B=4, T=7, lengths=(7, 3, 0, 5), resets=((2, 0), (5, 1), (4, 3)), cells="gru"
    ),
    "gru-twice-resets": Case(sizes=FS_SIZES, windows=2, T=4, resets=((2, 0), (0, 1)), cells="gru", dropout=0.0),
    "gru4": Case(wiring=fast_slow(4), sizes=FS_SIZES, cells="gru", layer_norm=False),
    "gru-stacked3-resets": Case(
        wiring=stacked(3), sizes=10, T=5, B=5, resets=((3, 0), (4, 2)), cells="gru", **NO_NOISE
    ),
    "gru-sequential3": Case(wiring=sequential(3), sizes=13, cells="gru"),
    "gru-two-readers": Case(wiring=TWO_READERS, sizes={"a": 9, "b": 7, "c": 8}, cells="gru"),
    "gru-frozen": Case(sizes=FS_SIZES, frozen=("x", "w_x@1", "w_h@0", "bias_x@2", "gate_gain@0"), cells="gru"),
    "gru-rates-1": Case(sizes=FS_SIZES, dropout=1.0, zoneout_h=1.0, cells="gru"),
    "gru-tiny": Case(sizes={"fast": 2, "slow": 1}, input_size=1, cells="gru"),
    "gru-strided": Case(sizes=FS_SIZES, contiguous=False, cells="gru"),
    "plain-lstm": Case(sizes=FS_SIZES, cells="plain_lstm"),
    "plain-lstm-no-noise": Case(sizes=FS_SIZES, cells="plain_lstm", **NO_NOISE),
    "tanh": Case(sizes=FS_SIZES, cells="tanh"),
    "tanh-eval-lengths": Case(sizes=FS_SIZES, B=4, lengths=(6, 2, 0, 3), cells="tanh", training=False),
    "relu": Case(sizes=FS_SIZES, cells="relu", T=4),
    "relu-no-noise-no-bias": Case(sizes=FS_SIZES, cells="relu", bias=False, T=4, **NO_NOISE),
    "mixed": Case(wiring=fast_slow(3), sizes=FS_SIZES, cells=MIXED),
    "mixed-resets": Case(wiring=fast_slow(3), sizes=FS_SIZES, cells=MIXED, resets=((2, 0), (3, 1)), **NO_NOISE),
    "mixed-norms": Case(sizes=FS_SIZES, cells={"fast.0": "plain_lstm", "slow": "gru", "fast.1": "lstm"}),
    "mixed-63x5": Case(
        wiring=stacked(3), sizes=10, T=63, B=5, cells={"layers.0": "gru", "layers.1": "lstm", "layers.2": "tanh"}
    ),
}
"""The same for cells other than the layer-normalised LSTM, and for mixtures."""
ALL_CASES = CASES | CELL_CASES

GRADCHECKS: dict[str, Case] = {
    name: replace(case, T=2, B=2, lengths=case.lengths and (2, 1), windows=1)
    for name, case in {
        "fs2": Case(sizes={"fast": 3, "slow": 2}, input_size=2),
        "fs2-eval": Case(sizes={"fast": 3, "slow": 2}, input_size=2, training=False),
        "fs2-no-norm": Case(sizes={"fast": 3, "slow": 2}, input_size=2, layer_norm=False),
        "fs2-lengths": Case(sizes={"fast": 3, "slow": 2}, input_size=2, lengths=(2, 1)),
        "fs2-resets": Case(sizes={"fast": 3, "slow": 2}, input_size=2, resets=((1, 0),)),
        "two-readers": Case(wiring=TWO_READERS, sizes=3, input_size=2),
        "shared-cell": Case(wiring=SHARED_CELL, sizes=3, input_size=2),
        "gru": Case(sizes={"fast": 3, "slow": 2}, input_size=2, cells="gru", resets=((1, 0),)),
        "gru-no-norm": Case(sizes={"fast": 3, "slow": 2}, input_size=2, cells="gru", layer_norm=False),
        "plain-lstm": Case(sizes={"fast": 3, "slow": 2}, input_size=2, cells="plain_lstm"),
        "mixed": Case(wiring=fast_slow(3), sizes={"fast": 3, "slow": 2}, input_size=2, cells=MIXED, **NO_NOISE),
    }.items()
}
"""Tiny cases for `check_gradients`."""


# ---------------------------------------------------------------------- the problem as tensors


@dataclass
class Inputs:
    """What one run takes. `leaves`: every tensor that a gradient may be asked of, by name."""

    weights: tuple[Any, ...]
    xs: tuple[Tensor, ...]
    state: States
    noises: tuple[Noise | None, ...]
    lengths: Tensor | None
    resets: Tensor | None
    leaves: dict[str, Tensor]


def make_inputs(case: Case, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0) -> Inputs:
    """Random inputs of a case; those of one seed are equal in every type, up to the rounding of `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    leaves: dict[str, Tensor] = {}
    wiring, sizes = case.wiring, case.slot_sizes

    def leaf(name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        value = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale + mean).bfloat16()
        value = value.to(device=device, dtype=dtype)  # bfloat16 values are exact in every type
        if not case.contiguous and value.dim() > 1:
            value = value.transpose(-1, -2).contiguous().transpose(-1, -2)
        field_name = name.partition("@")[0]
        value.requires_grad_(name not in case.frozen and field_name not in case.frozen)
        leaves[name] = value
        return value

    made: dict[str, Any] = {}
    weights = []
    for n, (node, slot, source) in enumerate(zip(wiring.nodes, wiring.slot_of, wiring.sources, strict=True)):
        if node.cell_name not in made:
            size = sizes[slot]
            x_size = {NO_INPUT: None, FROM_INPUT: case.input_size}.get(source, sizes[wiring.slot_of[source]])
            made[node.cell_name] = make_weights(KINDS[case.kinds[n]], case, n, x_size, size, leaf)
        weights.append(made[node.cell_name])
    xs = tuple(leaf(f"x@{w}", case.T, case.B, case.input_size) for w in range(case.windows))
    state = []
    for slot, size, letters in zip(wiring.slots, sizes, case.letters, strict=True):
        leaves_of_slot = [leaf(f"state@{slot}.{x}", case.B, size, scale=0.5 if x == "h" else 1.0) for x in letters]
        state.append(leaves_of_slot[0] if letters == ("h",) else LSTMState(*leaves_of_slot))
    noises: list[Noise | None] = []
    for w in range(case.windows):
        key = torch.randint(-(2**62), 2**62, (), generator=generator).to(device)
        random = case.training and case.rates.random
        noises.append(Noise(key, case.first_step + w * case.T, case.first_row) if random else None)
    lengths = None if case.lengths is None else torch.tensor(case.lengths)
    resets = None
    if case.resets is not None:
        resets = torch.zeros(case.T, case.B, dtype=torch.bool)
        for t, row in case.resets:
            resets[t, row] = True
        resets = resets.to(device)
    return Inputs(tuple(weights), xs, tuple(state), tuple(noises), lengths, resets, leaves)


def make_weights(kind: Kind, case: Case, n: int, x_size: int | None, size: int, leaf: Callable[..., Tensor]) -> Any:
    """Random weights of a cell: gains about 1."""
    fields: list[Tensor | None] = []
    for name in kind.weights._fields:
        shape = kind.shape(name, x_size or 0, size)
        if name in ("w_x", "w_h"):
            inputs = x_size if name == "w_x" else size
            fields.append(None if inputs is None else leaf(f"{name}@{n}", *shape, scale=inputs**-0.5))
        elif name.startswith("bias"):
            fields.append(leaf(f"{name}@{n}", *shape, scale=0.3) if case.bias else None)
        else:
            gain = name.endswith("gain")
            norm = (
                leaf(f"{name}@{n}", *shape, scale=0.2 if gain else 0.3, mean=float(gain)) if case.layer_norm else None
            )
            fields.append(norm)
    return kind.weights(*fields)


@dataclass
class Results:
    """What one run gave: `values` are outputs and final states, `grads` by leaf name (None: none reached it)."""

    values: dict[str, Tensor]
    grads: dict[str, Tensor | None]


def run_case(engine: Engine, case: Case, inputs: Inputs) -> Results:
    """Every window of the case, forward and backward, in one graph."""
    state, ys = inputs.state, []
    for x, noise in zip(inputs.xs, inputs.noises, strict=True):
        y, state = engine.run(case.wiring, inputs.weights, x, state, noise, case.rates, inputs.lengths, inputs.resets)
        ys.append(y)
    values = {f"y@{w}": y for w, y in enumerate(ys)}
    for slot, letters, given in zip(case.wiring.slots, case.letters, state, strict=True):
        assert (type(given) is LSTMState) == (len(letters) == 2), f"{engine.NAME}: final@{slot} is a {type(given)}"
        values |= {f"final@{slot}.{x}": part for x, part in zip(letters, state_tensors(given), strict=True)}
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=ys[0].dtype, device=ys[0].device)
    for name, value in values.items():
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64).bfloat16().to(value)
        if case.grads == "both" or name.startswith("y@") == (case.grads == "y"):
            loss = loss + (value * weight).sum()
    wanted = {name: leaf for name, leaf in inputs.leaves.items() if leaf.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return Results({k: v.detach() for k, v in values.items()}, dict(zip(wanted, grads, strict=True)))


_loop_results: dict[str, Results] = {}


def loop_results(case: Case, seed: int) -> Results:
    """What the loop gives in float64, worked out once for every engine and type that is compared with it."""
    key = repr((case, seed))
    if key not in _loop_results:
        _loop_results[key] = run_case(reference, case, make_inputs(case, torch.float64, "cpu", seed))
    return _loop_results[key]


# ---------------------------------------------------------------------- checks


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is NaN (the largest value, for integers) in here."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some CUDA routine is not deterministic is no concern here
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def assert_close(name: str, got: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    """AssertionError unless the largest difference is within `tolerance` of the largest expected entry."""
    if expected is None or got is None:
        present = expected if got is None else got
        assert present is None or not present.any(), f"{name}: got {got}, expected {expected}"
        return
    assert got.shape == expected.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    got, expected = got.double().cpu(), expected.double().cpu()
    assert got.isfinite().all(), f"{name}: {int((~got.isfinite()).sum())} of {got.numel()} entries are not finite"
    scale = expected.abs().max().item() if expected.numel() else 0.0
    worst = (got - expected).abs().max().item() if expected.numel() else 0.0
    # The floor keeps quantities that are zero but for rounding (a gradient that cancels) comparable.
    assert worst <= tolerance * max(scale, 1e-2), f"{name}: differs by {worst:.3g}, largest entry {scale:.3g}"


def check_twin(
    engine: Engine,
    case: Case,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    """AssertionError unless the engine agrees with the loop on everything it returns and every gradient."""
    refused = engine.refusal(case.problem(dtype, device))
    assert refused is None, f"{engine.NAME} refuses: {refused}"
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    inputs = make_inputs(case, dtype, device, seed)
    before = {name: leaf.detach().clone() for name, leaf in inputs.leaves.items()}
    with poisoned_memory():
        got = run_case(engine, case, inputs)
    expected = loop_results(case, seed)
    for name, value in expected.values.items():
        assert got.values[name].dtype == dtype, f"{name}: {got.values[name].dtype}, expected {dtype}"
        assert_close(name, got.values[name], value, tolerance)
    for name, grad in expected.grads.items():
        assert_close(f"gradient of {name}", got.grads[name], grad, tolerance)
    for name, leaf in inputs.leaves.items():
        assert torch.equal(leaf.detach(), before[name]), f"{engine.NAME} changed its input {name}"


def check_gradients(engine: Engine, case: Case, device: torch.device | str = "cpu") -> None:
    """`torch.autograd.gradcheck` of everything at once, along random directions, in float64."""
    inputs = make_inputs(case, torch.float64, device)
    names = [name for name, leaf in inputs.leaves.items() if leaf.requires_grad]

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        held = {id(inputs.leaves[name]): leaf for name, leaf in zip(names, leaves, strict=True)}
        weights = [type(cell)(*(None if w is None else held.get(id(w), w) for w in cell)) for cell in inputs.weights]
        state = tuple(map_state(lambda part: held.get(id(part), part), pair) for pair in inputs.state)
        x = held.get(id(inputs.xs[0]), inputs.xs[0])
        y, new = engine.run(case.wiring, weights, x, state, inputs.noises[0], case.rates, inputs.lengths, inputs.resets)
        return (y, *state_tensors(new))

    leaves = [inputs.leaves[name] for name in names]
    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


def check_repeatable(engine: Engine, case: Case, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """A second backward through one graph gives the gradients of the first, and a second run the first's results."""
    inputs = make_inputs(case, dtype, device)
    wanted = [leaf for leaf in inputs.leaves.values() if leaf.requires_grad]
    seen = []
    for _ in range(2):
        args = (inputs.weights, inputs.xs[0], inputs.state, inputs.noises[0], case.rates, inputs.lengths, inputs.resets)
        y, state = engine.run(case.wiring, *args)
        loss = y.square().sum() + sum(part.square().sum() for part in state_tensors(state))
        seen += [torch.autograd.grad(loss, wanted, retain_graph=keep, allow_unused=True) for keep in (True, False)]
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
