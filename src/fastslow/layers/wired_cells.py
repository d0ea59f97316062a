"""`WiredCells`: the cells of a wiring and their parameters, as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastslow.backends import check_name
from fastslow.backends.base import Rates
from fastslow.backends.native.quantized import Quantized
from fastslow.cells.module import CellModule, check_rate, check_size
from fastslow.layers.making import attach, cell_sizes, kind_at, new_cell
from fastslow.layers.pretrained import Pretrained
from fastslow.layers.reading import holders, hooks_of
from fastslow.layers.states import Slot
from fastslow.wiring import Wiring

_RATES = ("dropout", "zoneout_h", "zoneout_c", "forget_bias")


class WiredCells(Pretrained):
    """What `WiredRNN` is made of; its arguments are described there. It runs nothing."""

    # As code written for torch.nn.LSTM reads them.
    bidirectional = False
    proj_size = 0
    num_layers = 1

    def __init__(
        self,
        wiring: Wiring,
        input_size: int,
        hidden_sizes: Mapping[str, int] | int,
        *,
        cell: str | Mapping[str, str] = "lstm",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        layer_norm: bool = True,
        forget_bias: float = 1.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("input_size", input_size)
        sizes = dict.fromkeys(wiring.slots, hidden_sizes) if isinstance(hidden_sizes, int) else dict(hidden_sizes)
        if set(sizes) != set(wiring.slots):
            raise ValueError(f"hidden_sizes must give the size of {list(wiring.slots)}; got {list(sizes)}")
        for slot, size in sizes.items():
            check_size(f"hidden_sizes[{slot!r}]", size)
        for name, rate in (("dropout", dropout), ("zoneout_h", zoneout_h), ("zoneout_c", zoneout_c)):
            check_rate(name, rate)
        check_name(backend)
        self.wiring, self.input_size, self.batch_first = wiring, input_size, batch_first
        self.hidden_sizes = {slot: sizes[slot] for slot in wiring.slots}
        self.cell_kinds: str | dict[str, str] = cell if isinstance(cell, str) else dict(cell)
        self.hidden_size = self.output_size
        self.dropout, self.zoneout_h, self.zoneout_c = float(dropout), float(zoneout_h), float(zoneout_c)
        self.bias, self.layer_norm, self.forget_bias = bias, layer_norm, float(forget_bias)
        self.backend = backend
        self.first_row = 0
        """Number of this process's first row: a rank of a distributed job draws the masks of its own rows."""
        self.noise_key: Tensor | None = None
        """The key of the masks, () int64, for windows that are parts of one; None: a fresh one each window."""
        own = {"layer_norm": layer_norm, "zoneout_c": zoneout_c, "forget_bias": forget_bias}
        for path, (x_size, size) in cell_sizes(wiring, input_size, self.hidden_sizes).items():
            kind = kind_at(cell, path, self.zoneout_c)
            made = new_cell(kind, x_size, size, own, bias=bias, zoneout_h=zoneout_h, device=device, dtype=dtype)
            attach(self, path, made)
        self._check_slots()

    # ------------------------------------------------------------------ sizes and parameters

    def _check_slots(self) -> None:
        """ValueError where the cells of a slot have states of different forms."""
        for slot, name in enumerate(self.wiring.slots):
            its = [cell.kind for cell, at in zip(self.node_cells(), self.wiring.slot_of, strict=True) if at == slot]
            forms = {kind.letters: kind.name for kind in its}
            if len(forms) > 1:
                raise ValueError(
                    f"the cells of slot {name!r} share its state, and {' and '.join(map(repr, forms.values()))} have "
                    "states of different forms"
                )

    def _state_slots(self) -> list[Slot]:
        """The state slots, in the wiring's order."""
        cells = self.node_cells()
        kinds = [cells[self.wiring.slot_of.index(slot)].kind for slot in range(len(self.wiring.slots))]
        return [Slot(name, self.hidden_sizes[name], kind) for name, kind in zip(self.wiring.slots, kinds, strict=True)]

    @property
    def output_size(self) -> int:
        """The size of y's last dimension."""
        return self.hidden_sizes[self.wiring.nodes[self.wiring.output_index].slot]

    def node_cells(self) -> list[CellModule]:
        """The cell of each node, in the order they run."""
        return [cast(CellModule, self.get_submodule(node.cell_name)) for node in self.wiring.nodes]

    def weights(self) -> tuple[Any, ...]:
        """The parameters as engines take them, one entry per node."""
        return tuple(cell.weights() for cell in self.node_cells())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _RATES:
            self._write_rates()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._write_rates()

    def _write_rates(self) -> None:
        # torch.compile may take floats for unknowns; text it takes for what it is.
        self.__dict__["rates_text"] = " ".join(str(self.__dict__.get(name, 0.0)) for name in _RATES)

    rates_text: str

    @property
    def rates(self) -> Rates:
        return Rates(self.dropout, self.zoneout_h, self.zoneout_c, self.forget_bias)

    def reset_parameters(self) -> None:
        """Each cell's own initial values: see its `reset_parameters`."""
        for module in self.modules():
            if isinstance(module, CellModule):
                module.reset_parameters()

    @torch.no_grad()
    def round_to_int8_(self) -> None:
        """Round every weight matrix to 8 bits with a power of two per row, in place.

        Every engine computes with the rounded matrices. `step`, and windows of a few rows without gradients, then read
        8-bit copies of them, a quarter of the memory, until a matrix changes.
        """
        for cell in dict.fromkeys(self.node_cells()):
            if parametrize.is_parametrized(cell):
                raise RuntimeError(
                    f"{type(self).__name__} has parametrized weights, which are computed anew at each use: call "
                    "torch.nn.utils.parametrize.remove_parametrizations before rounding them"
                )
        for cell in dict.fromkeys(self.node_cells()):
            for weight in (cell.weight_ih, cell.weight_hh):
                if weight is not None:
                    # A new parameter, so that steps are prepared anew.
                    rounded = Quantized(weight).dequantized().to(weight)
                    name = "weight_ih" if weight is cell.weight_ih else "weight_hh"
                    setattr(cell, name, nn.Parameter(rounded, requires_grad=weight.requires_grad))

    # ------------------------------------------------------------------ for engines that read weights in place

    def parameter_places(self) -> list[tuple[dict[str, Any], str]]:
        """(dict, key) of every parameter of the cells, of every module on the way, and of a `forward` put in a cell."""
        places: list[tuple[dict[str, Any], str]] = []
        for path in dict.fromkeys(node.cell_name for node in self.wiring.nodes):
            module: nn.Module = self
            for name in path.split("."):
                places.append((module._modules, name))
                module = module.get_submodule(name)
            for child in (module, *module.children()):
                places += [(child._parameters, name) for name in child._parameters]
            places += [(module._modules, name) for name in module._modules]
            places += [(holder.__dict__, "forward") for holder in holders(module)]
        return places

    def listeners(self) -> list[dict[int, Any]]:
        """The hooks of the cells, which must see a call where there are any."""
        modules = [holder for cell in dict.fromkeys(self.node_cells()) for holder in holders(cell)]
        return [hooks for module in modules for hooks in hooks_of(module)]

    # ------------------------------------------------------------------ for code written for torch.nn.LSTM

    def flatten_parameters(self) -> None:
        """Does nothing: there is no flat copy of the weights to make. For code written for `torch.nn.LSTM`."""

    # ------------------------------------------------------------------ description

    def _sizes_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_sizes}"

    def extra_repr(self) -> str:
        parts = [self._sizes_repr()]
        parts += ["bias=False"] * (not self.bias) + ["batch_first=True"] * self.batch_first
        parts += [
            f"{name}={getattr(self, name)}" for name in ("dropout", "zoneout_h", "zoneout_c") if getattr(self, name)
        ]
        parts += ["layer_norm=False"] * (not self.layer_norm)
        parts += [f"forget_bias={self.forget_bias}"] * (self.forget_bias != 1.0)
        parts += [f"backend={self.backend!r}"] * (self.backend != "auto")
        return ", ".join(parts)
