"""A layer by itself on disk and on the Hugging Face Hub: its arguments in `config.json`, its weights beside them.

`PyTorchModelHubMixin` of `huggingface-hub` has these three methods too. These need that package for the Hub only, and
check every claim of a file before they believe it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from fastslow import hub
from fastslow.storage import (
    FLOATS,
    ModelError,
    TensorSpec,
    check_fields,
    check_version,
    make_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from fastslow.wiring import Node, Wiring

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "fastslow-layer"
FORMAT_VERSION = 1

L = TypeVar("L", bound="Pretrained")

_SIZES = {
    "FS": ("input_size", "hidden_size", "slow_size", "num_fast"),
    "Stacked": ("input_size", "hidden_size", "num_layers"),
    "Sequential": ("input_size", "hidden_size", "num_cells"),
}
_OPTIONS = ("bias", "batch_first", "dropout", "zoneout_h", "layer_norm")
_LSTM_OPTIONS = (*_OPTIONS, "zoneout_c", "forget_bias")
ANY = "WiredRNN"
ARGUMENTS: dict[str, tuple[str, ...]] = {
    ANY: ("wiring", "input_size", "hidden_sizes", "cell", *_LSTM_OPTIONS),
    **{f"{form}LSTM": (*sizes, *_LSTM_OPTIONS) for form, sizes in _SIZES.items()},
    **{f"{form}GRU": (*sizes, *_OPTIONS) for form, sizes in _SIZES.items()},
}
"""The arguments of each layer that are stored, by the layer's name."""


class Pretrained(nn.Module, hub.Uploadable):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for the layers named in `ARGUMENTS`.

    A layer has its arguments as attributes; `cell`, the kinds of a `WiredRNN`'s cells, is `cell_kinds` there.
    """

    def config_json(self) -> dict[str, Any]:
        """What `config.json` holds: the name of the layer and its arguments, without backend, device and dtype."""
        kind = _kind(type(self))
        arguments = {name: getattr(self, "cell_kinds" if name == "cell" else name) for name in ARGUMENTS[kind]}
        if "wiring" in arguments:
            arguments["wiring"] = _wiring_json(arguments["wiring"])
        return {"format": FORMAT, "format_version": FORMAT_VERSION, "layer": kind, "arguments": arguments}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` to `folder`, made if need be, each atomically.

        Raises StorageError where the system refuses.
        """
        path = Path(folder)
        make_folder(path)
        write_json(path / CONFIG_FILE, self.config_json(), what="the layer's configuration")
        write_tensors(path / WEIGHTS_FILE, self.state_dict(), {"format": "pt"}, what="the layer's weights")

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        """The layer in a folder that `save_pretrained` wrote or on the Hugging Face Hub, in evaluation mode.

        `WiredRNN.from_pretrained` takes every kind of layer, the others their own.

        Args:
            name: a folder, or where there is none of that name, `owner/name` on the Hub.
            backend, device: as of a new layer.
            dtype: default the stored one.
            revision: on the Hub, a branch, tag or commit.

        Raises ModelError, in one line, for a folder that is missing, damaged, of another kind or of a newer version.
        """
        folder = _folder(os.fspath(name), revision)
        kind, arguments = _read_config(folder / CONFIG_FILE)
        wanted = _kind(cls)
        if wanted == ANY and kind != wanted:
            made = next(c for c in _descendants(cls) if c.__name__ == kind)
        elif kind == wanted:
            made = cls
        else:
            raise ModelError(f"{folder} holds a {kind}, not a {wanted}: load it with {kind}.from_pretrained")
        try:
            layer = made(**arguments, backend=backend, device="meta")
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the configuration of {folder} is damaged: {error}") from error
        specs = {name: TensorSpec(tuple(value.shape), FLOATS) for name, value in layer.state_dict().items()}
        weights, _ = read_tensors(folder / WEIGHTS_FILE, lambda _: specs, what="the weights file")
        if len({weight.dtype for weight in weights.values()}) > 1:
            raise ModelError(f"the weights file {folder / WEIGHTS_FILE} mixes types: a layer has one")
        layer.load_state_dict(weights, assign=True)
        return layer.to(device=device, dtype=dtype).eval()

    def card_text(self, name: str) -> tuple[str, tuple[str, ...]]:
        """What the card says of this layer once it is `owner/name`, in Markdown, and its own tags."""
        kind = _kind(type(self))
        text = (
            f"A `{kind}` layer of fastslow, the Fast-Slow RNN of [Mujika et al.](https://arxiv.org/abs/1705.08639), "
            f"{sum(p.numel() for p in self.parameters()):,} weights:\n\n    {kind}({self.extra_repr()})\n\n"
            f"```python\nfrom fastslow import {kind}\n\nlayer = {kind}.from_pretrained({name!r})\n```\n"
        )
        return text, ("rnn", "lstm", "fast-slow-rnn")


def _kind(cls: type) -> str:
    return next(c.__name__ for c in cls.__mro__ if c.__name__ in ARGUMENTS)


def _descendants(cls: type[L]) -> Iterator[type[L]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def _folder(name: str, revision: str | None) -> Path:
    path = Path(name)
    if path.is_dir():
        return path
    if hub.is_hub_name(name) and not path.parent.is_dir() and not path.exists():
        try:
            return hub.fetch(name, [CONFIG_FILE, WEIGHTS_FILE], revision=revision)
        except hub.HubError as error:
            raise ModelError(f"there is no folder {name}, and {error}") from error
    raise ModelError(f"there is no folder {name}: name one that save_pretrained wrote, or owner/name on the Hub")


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    value = read_json(path, what="the configuration")
    where = f"the configuration {path}"
    if value.get("format") != FORMAT:
        raise ModelError(f"{where} is not that of a fastslow layer: its format is not {FORMAT!r}")
    check_version(value, FORMAT_VERSION, where)
    check_fields(value, ("format", "format_version", "layer", "arguments"), where, ModelError)
    kind, arguments = value["layer"], value["arguments"]
    if kind not in ARGUMENTS or not isinstance(arguments, dict):
        raise ModelError(f"{where} is damaged: layer must be one of {', '.join(ARGUMENTS)}, with its arguments")
    check_fields(arguments, ARGUMENTS[kind], where, ModelError)
    if "wiring" in arguments:
        arguments["wiring"] = _read_wiring(arguments["wiring"], where)
    return kind, arguments


def _wiring_json(wiring: Wiring) -> dict[str, Any]:
    nodes = [{"name": n.name, "slot": n.slot, "input": n.input, "cell": n.cell} for n in wiring.nodes]
    return {"nodes": nodes, "slots": list(wiring.slots), "output": wiring.output}


def _read_wiring(value: Any, where: str) -> Wiring:
    try:
        return Wiring(tuple(Node(**node) for node in value["nodes"]), tuple(value["slots"]), value["output"])
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{where} is damaged: its wiring is not one ({error})") from error
