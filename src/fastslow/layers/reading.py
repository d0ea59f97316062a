"""Reading a cell's weights the way PyTorch reads a module's: inside a call of the module.

An engine takes the weights of all cells at once and never calls a cell. But many features of PyTorch change weights
when a module is called: pruning, the older weight and spectral norms, and FSDP compute or gather them in a forward
pre-hook and free them in a forward hook, and offloading replaces `forward` itself. So if a cell has hooks or a replaced
`forward`, the window runs inside nested calls of the cells, each with a `Reading` as x:

    cell_1(Reading(lambda: cell_2(Reading(window))))

A hook is called once per window, not once per step. Its input is a `Reading`, and its output is that of the layer's
window: (y, states).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from fastslow.cells.module import Norm, Reading


def holders(cell: nn.Module) -> list[nn.Module]:
    """The modules that hold a cell's weights."""
    return [cell, *(child for child in cell.children() if isinstance(child, Norm))]


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """The hooks of this module."""
    return module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks


def is_hooked(module: nn.Module) -> bool:
    """Whether this module has hooks or a replaced `forward`."""
    return any(map(bool, hooks_of(module))) or "forward" in module.__dict__


def within(cells: Iterable[nn.Module], window: Callable[[], Any]) -> Any:
    """Run `window()` inside a call of every cell with hooks, and of the norms in it."""
    hooked = [module for cell in dict.fromkeys(cells) for module in holders(cell) if is_hooked(module)]
    for module in reversed(hooked):
        window = partial(module, Reading(window))
    return window()
