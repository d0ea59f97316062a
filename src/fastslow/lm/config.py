"""What a language model is: the options of its network and its alphabet, exact in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from fastslow.data.alphabet import Alphabet
from fastslow.errors import FastslowError
from fastslow.storage import check_fields, check_version, is_finite_number

FORMAT = "fastslow-lm"
FORMAT_VERSION = 1
MAX_SIZE = 1 << 16
MAX_DEPTH = 256

Architecture = Literal["fs-lstm", "stacked", "sequential"]
Cell = Literal["lstm", "gru"]


class ConfigError(FastslowError, ValueError):
    """An option with a value it cannot have, or a stored configuration that is not one."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network of a language model, without its alphabet.

    architecture: "fs-lstm", or the paper's baselines "stacked" and "sequential".
    embedding_size: size of a symbol's vector, the layer's input.
    hidden_size: the fast size of an fs-lstm; the size of every layer or cell of the others. Also the output's.
    slow_size: the slow size of an fs-lstm (none: `hidden_size`); the others have no such cell.
    depth: fast cells of an fs-lstm (2 or more), layers of a stack, cells of a sequence.
    dropout: probability of dropping a unit of a cell's input or of the output.
    zoneout_h: probability that a unit of the hidden state h keeps its old value.
    zoneout_c: probability that a unit of the cell state c keeps its old value.
    layer_norm: normalise gates and cell.
    forget_bias: constant added to an LSTM's forget gate.
    cell: "lstm" (`LayerNormLSTMCell`), or "gru" (`LayerNormGRUCell`), which has no c and so no zoneout_c.

    Raises ConfigError for a value out of bounds.
    """

    architecture: Architecture = "fs-lstm"
    embedding_size: int = 128
    hidden_size: int = 256
    slow_size: int | None = None
    depth: int = 2
    dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    layer_norm: bool = True
    forget_bias: float = 1.0
    cell: Cell = "lstm"

    def __post_init__(self) -> None:
        if self.cell not in get_args(Cell):
            raise ConfigError(f"cell must be one of {', '.join(get_args(Cell))}; got {str(self.cell)[:40]!r}")
        if self.architecture not in get_args(Architecture):
            known = ", ".join(get_args(Architecture))
            raise ConfigError(f"architecture must be one of {known}; got {str(self.architecture)[:40]!r}")
        self._check_int("embedding_size", 1, MAX_SIZE)
        self._check_int("hidden_size", 1, MAX_SIZE)
        if self.architecture == "fs-lstm":
            if self.slow_size is None:
                object.__setattr__(self, "slow_size", self.hidden_size)
            self._check_int("slow_size", 1, MAX_SIZE)
        elif self.slow_size is not None:
            raise ConfigError(f"slow_size belongs to architecture fs-lstm; {self.architecture} has none: leave it out")
        self._check_int("depth", 2 if self.architecture == "fs-lstm" else 1, MAX_DEPTH)
        for name in ("dropout", "zoneout_h", "zoneout_c"):
            self._check_float(name, 0.0, 1.0)
        self._check_float("forget_bias", -100.0, 100.0)
        if self.cell == "gru" and self.zoneout_c > 0:
            raise ConfigError(
                f"zoneout_c must be 0 with cell gru, which has no c; got {self.zoneout_c:g}: use zoneout_h"
            )
        if not isinstance(self.layer_norm, bool):
            raise ConfigError(f"layer_norm must be true or false; got {str(self.layer_norm)[:40]!r}")

    def _check_int(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"{name} must be a whole number from {low} to {high:,}; got {str(value)[:40]}")

    def _check_float(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not is_finite_number(value) or not low <= value <= high:
            raise ConfigError(f"{name} must be a number from {low:g} to {high:g}; got {str(value)[:40]}")
        object.__setattr__(self, name, float(value))

    def options_json(self) -> dict[str, Any]:
        """The options as a JSON object. An LSTM goes without saying, as in files of versions that had no other cell."""
        found = {field.name: getattr(self, field.name) for field in fields(ModelOptions)}
        if self.cell == "lstm":
            del found["cell"]
        return found

    @classmethod
    def from_options_json(cls, value: Mapping[str, Any], where: str = "the model's options") -> ModelOptions:
        """The options that `options_json` wrote. Raises ConfigError for anything else."""
        value = {"cell": "lstm", **value}
        check_fields(value, (field.name for field in fields(ModelOptions)), where, ConfigError)
        return ModelOptions(**value)

    def with_alphabet(self, alphabet: Alphabet) -> LMConfig:
        """The whole configuration of a model over `alphabet`."""
        return LMConfig(**self.options_json(), alphabet=alphabet)


@dataclass(frozen=True, kw_only=True)
class LMConfig(ModelOptions):
    """A language model's configuration: its network's options and its alphabet. What `config.json` holds."""

    alphabet: Alphabet

    def __post_init__(self) -> None:
        if not isinstance(self.alphabet, Alphabet):
            raise ConfigError(f"alphabet must be an Alphabet; got {type(self.alphabet).__name__}")
        super().__post_init__()

    @property
    def options(self) -> ModelOptions:
        """The same without the alphabet."""
        return ModelOptions(**self.options_json())

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back exactly."""
        head: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return {**head, **self.options_json(), "alphabet": self.alphabet.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the configuration") -> LMConfig:
        """The configuration that `to_json` wrote.

        Raises FastslowError in a sentence that starts with `where`: a newer version, an unknown or missing field, a
        value out of bounds.
        """
        if value.get("format") != FORMAT:
            raise ConfigError(f"{where} is not that of a fastslow language model: its format is not {FORMAT!r}")
        check_version(value, FORMAT_VERSION, where, ConfigError)
        value = {"cell": "lstm", **value}
        names = [field.name for field in fields(cls)]
        check_fields(value, ["format", "format_version", *names], where, ConfigError)
        try:
            alphabet = Alphabet.from_json(value["alphabet"])
            return cls(**{name: value[name] for name in names if name != "alphabet"}, alphabet=alphabet)
        except FastslowError as error:
            raise ConfigError(f"{where} is damaged: {error}") from error
