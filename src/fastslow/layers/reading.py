"""Reading a cell's weights the way PyTorch reads a module's: inside a call of the module.

An engine takes the weights of all cells at once and never calls a cell. But much of PyTorch acts on weights in a
module's call: pruning, the older weight and spectral norms and FSDP compute or gather them in a forward pre-hook and
let them go in a forward hook, and offloading replaces `forward` itself. So where a cell has hooks or a forward put in
the place of its own, the window runs inside calls of the cells, one within another, each given a `Reading` for x:

    cell_1(Reading(lambda: cell_2(Reading(window))))

A hook is called once a window, not once a step. It sees a `Reading` as the input and, as the output, what the layer's
window gives: (y, states).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from fastslow.cells.module import Norm, Reading


def holders(cell: nn.Module) -> list[nn.Module]:
    """The modules that a cell's weights are attributes of."""
    return [cell, *(child for child in cell.children() if isinstance(child, Norm))]


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """Who waits for calls of this module."""
    return module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody waits for calls of this module, or has put a `forward` in the place of its own."""
    return any(map(bool, hooks_of(module))) or "forward" in module.__dict__


def within(cells: Iterable[nn.Module], window: Callable[[], Any]) -> Any:
    """`window()`, inside a call of every cell that is hooked, and of the norms in it."""
    hooked = [module for cell in dict.fromkeys(cells) for module in holders(cell) if is_hooked(module)]
    for module in reversed(hooked):
        window = partial(module, Reading(window))
    return window()
