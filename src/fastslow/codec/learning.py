"""Models that go on learning from the text they code, the same way on both sides.

Every `window` symbols a lane, one update from the loss on those symbols, all of which both sides know by then:

    g   = d mean(-ln p) / dw, scaled down to norm `clip`
    s   = beta s + (1 - beta) g^2
    w  += decay (w0 - w) - rate g / (sqrt(s / (1 - beta^n)) + 1e-8)          n updates so far, w0 the first weights

(RMS-scaled dynamic evaluation: Krause et al. 2018.) Float numerics: see `floating` for what they promise. Each symbol
is predicted before anything is learned from it; a block starts from a zero state with the weights the last neural
block left.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow.codec.errors import CodecError, FormatError, ModelError
from fastslow.codec.exact.quantise import start_symbol
from fastslow.codec.exact.tables import Ints, standard_tables
from fastslow.codec.floating import integer_logits
from fastslow.codec.frequencies import FrequencyModel
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM
from fastslow.lm.config import LMConfig
from fastslow.state import detach_state

MAX_ONLINE_SIZE = 1024


@dataclass(frozen=True)
class Learning:
    """How a model learns while it codes.

    rate: of an update. window: symbols a lane between updates. beta: memory of the squared gradients.
    decay: pull towards the first weights at each update. clip: largest norm of a gradient.

    The default rate is near the best on validation text for models of 1 to 2 million weights: of 0.0002 to 0.0032 the
    best is 0.0008 on Penn Treebank and 0.0016 on War and Peace (`experiments/codec.py`, docs/compression.md).
    """

    rate: float = 0.0008
    window: int = 50
    beta: float = 0.999
    decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        bounds = {"rate": (0.0, 1.0), "beta": (0.0, 0.9999999), "decay": (0.0, 1.0), "clip": (1e-6, 1e6)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise LearningError(f"{name} must be a number from {low:g} to {high:g}; got {str(value)[:40]}")
            object.__setattr__(self, name, float(value))
        if type(self.window) is not int or not 1 <= self.window <= 4096:
            raise LearningError(f"window must be a whole number from 1 to 4096; got {str(self.window)[:40]}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Learning:
        """What `to_json` wrote; FormatError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {field.name for field in fields(cls)}:
            raise FormatError("the archive's header is damaged: its settings for learning are not whole")
        try:
            return cls(**value)
        except LearningError as error:
            raise FormatError(f"the archive's header is damaged: {error}") from None


class LearningError(CodecError):
    """A setting of learning that it cannot have."""


@dataclass(frozen=True)
class Online:
    """The network of online mode, which starts from `seed` and has all 256 bytes as its alphabet."""

    hidden_size: int = 128
    slow_size: int = 128
    embedding_size: int = 32
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("hidden_size", "slow_size", "embedding_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_ONLINE_SIZE:
                raise LearningError(f"{name} must be a whole number from 1 to {MAX_ONLINE_SIZE}; got {str(value)[:40]}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 32:
            raise LearningError(f"seed must be a whole number from 0 to 2^32 - 1; got {str(self.seed)[:40]}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Online:
        """What `to_json` wrote; FormatError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {field.name for field in fields(cls)}:
            raise FormatError("the archive's header is damaged: its settings for online mode are not whole")
        try:
            return cls(**value)
        except LearningError as error:
            raise FormatError(f"the archive's header is damaged: {error}") from None

    def build(self, device: torch.device | str = "cpu") -> CharLM:
        """The untrained model, from a generator of its own seed; torch's global generator is left as it was."""
        config = LMConfig(
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            slow_size=self.slow_size,
            alphabet=Alphabet.bytes(),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            lm = CharLM(config)
        with torch.no_grad():
            lm.head.weight.zero_()  # begin with the uniform distribution
        return lm.to(device)


ONLINE_LEARNING = Learning(rate=0.006, window=20, beta=0.9999, decay=0.0, clip=1e6)
"""Online mode's defaults: no momentum and a long memory of squared gradients."""


class LearningPredictor:
    """A model that learns from each window of the text once all of it has been coded. Works on a copy of `lm`."""

    learns = True

    def __init__(self, lm: CharLM, learning: Learning) -> None:
        self.symbols = lm.alphabet.symbols
        self.start = start_symbol(self.symbols)
        self.frequencies = FrequencyModel(standard_tables())
        self._lm = copy.deepcopy(lm).eval()
        self._options = learning
        self._weights = [weight.requires_grad_() for weight in self._lm.parameters()]
        self._first = [weight.detach().clone() for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        self._updates = 0
        self._saved: tuple[list[Tensor], list[Tensor], int] | None = None
        self._state: Any = None
        self._window_state: Any = None
        self._seen: list[Ints] = []

    def begin(self, lanes: int) -> None:
        self._state = self._window_state = None
        self._seen = []
        weights = [weight.detach().clone() for weight in self._weights]
        self._saved = (weights, [square.clone() for square in self._squares], self._updates)

    def step(self, symbols: Ints) -> Ints:
        if len(self._seen) == self._options.window:
            self._learn(np.stack([*self._seen, symbols]))
            self._window_state, self._seen = self._state, []
        self._seen.append(symbols.copy())
        with torch.no_grad():
            logits, self._state = self._lm.step(self._tokens(symbols), self._state)
        return integer_logits(logits)

    @torch.no_grad()
    def settle(self, used: bool) -> None:
        if not used and self._saved is not None:
            weights, squares, self._updates = self._saved
            for weight, value in zip(self._weights, weights, strict=True):
                weight.copy_(value)
            self._squares = squares
        self._saved = None

    def _tokens(self, symbols: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(symbols)).to(self._lm.device)

    def _learn(self, symbols: Ints) -> None:
        """One update from (W + 1, S) symbols, the first W of them inputs."""
        tokens = self._tokens(symbols)
        state = None if self._window_state is None else detach_state(self._window_state)
        with torch.enable_grad():
            logits, _ = self._lm(tokens[:-1], state)
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
            gradients = torch.autograd.grad(loss, self._weights)
        self._update(gradients)

    @torch.no_grad()
    def _update(self, gradients: tuple[Tensor, ...]) -> None:
        options = self._options
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if not torch.isfinite(norm):
            raise ModelError("learning diverged: the gradient is not finite; use a smaller learning rate")
        scale = torch.clamp(options.clip / (norm + 1e-6), max=1.0)
        self._updates += 1
        correction = 1 - options.beta**self._updates
        for weight, first, square, gradient in zip(self._weights, self._first, self._squares, gradients, strict=True):
            gradient = gradient * scale
            square.mul_(options.beta).addcmul_(gradient, gradient, value=1 - options.beta)
            step = gradient / ((square / correction).sqrt_() + 1e-8)
            if options.decay:
                weight.add_(first - weight, alpha=options.decay)
            weight.sub_(step, alpha=options.rate)
