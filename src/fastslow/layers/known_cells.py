"""torch's own cells as engines take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastslow.backends.base import States
from fastslow.cells.gru import GRUWeights
from fastslow.cells.kinds import kind_of
from fastslow.cells.module import CellModule
from fastslow.cells.plain_lstm import PlainLSTMWeights
from fastslow.cells.simple import ReluWeights, TanhWeights
from fastslow.wiring import Wiring

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refusal(cells: Sequence[nn.Module], wiring: Wiring) -> str | None:
    """Why engines cannot run these cells, one per node, in words; None if they can."""
    if any(getattr(torch_module, f"_global{hooks}") for hooks in _HOOKS):
        return "a hook listens to all modules, and an engine would not call it"
    first = None
    for node, cell in zip(wiring.nodes, cells, strict=True):
        name = f"{node.name} ({type(cell).__name__})"
        if type(cell) not in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
            return f"{name} is not torch's LSTMCell, GRUCell or RNNCell"
        if "forward" in cell.__dict__ or any(getattr(cell, hooks) for hooks in _HOOKS):
            return f"{name} has a hook or a forward of its own, and an engine would not call it"
        weight: Any = cell.weight_hh
        first = weight if first is None else first
        for parameter in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh):
            given: Any = parameter
            if given is None:
                continue
            if not isinstance(given, Tensor) or given.dtype != first.dtype or given.device != first.device:
                return f"{name} is not of one type and device with the other cells"
    for slot in range(len(wiring.slots)):
        forms = {type(cell) is nn.LSTMCell for cell, at in zip(cells, wiring.slot_of, strict=True) if at == slot}
        if len(forms) > 1:
            return f"the cells of slot {wiring.slots[slot]!r} have states of different forms"
    return None


def state_form(cell: nn.Module) -> tuple[str, ...] | None:
    """The names of the tensors of a cell's state, ("h", "c") or ("h",); None for a cell that is not known."""
    if isinstance(cell, CellModule):
        return cell.kind.letters
    if isinstance(cell, nn.LSTMCell):
        return ("h", "c")
    return ("h",) if isinstance(cell, nn.GRUCell | nn.RNNCell) else None


def weights(cells: Sequence[nn.Module]) -> list[Any]:
    """The parameters of torch's cells, one named tuple per node."""
    found: list[Any] = []
    for cell in cells:
        given = cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
        if isinstance(cell, nn.LSTMCell):
            found.append(PlainLSTMWeights(*given))  # type: ignore[arg-type]
        elif isinstance(cell, nn.GRUCell):
            found.append(GRUWeights(*given, None, None))  # type: ignore[arg-type]
        else:
            made = TanhWeights if cell.nonlinearity == "tanh" else ReluWeights
            found.append(made(*given))  # type: ignore[arg-type]
    return found


def states(cells: Sequence[Any], wiring: Wiring, x: Tensor, given: Any) -> States | None:
    """The states that engines take, zeros where `given` is None; None if they are not of the form of the cells."""
    found = []
    slots = [None] * len(wiring.slots) if given is None else list(given)
    for slot, state in enumerate(slots):
        cell = cells[wiring.slot_of.index(slot)]
        kind = kind_of(cell)
        if given is None:
            zeros = x.new_zeros(x.shape[1], cell.hidden_size)
            found.append(kind.pack([zeros for _ in kind.letters]))
            continue
        leaves = [state] if kind.state is None else state
        if not isinstance(leaves, tuple | list) or len(leaves) != kind.leaves:
            return None
        if any(not isinstance(leaf, Tensor) or leaf.dtype != x.dtype or leaf.device != x.device for leaf in leaves):
            return None
        found.append(kind.pack(leaves))
    return tuple(found)
