"""One update: a window forward and back, the clip, Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow.lm.model import CharLM
from fastslow.state import detach_state
from fastslow.training.clip import clip_gradients
from fastslow.training.config import TrainConfig


class Step(NamedTuple):
    """What one update gives.

    loss_nats: total loss of the window over all its targets, no dimensions, float32 or wider, on the model's device.
    gradient_norm: global norm before the clip, likewise.
    state: the state to carry into the next window, detached.
    """

    loss_nats: Tensor
    gradient_norm: Tensor
    state: Any


class Updating(Protocol):
    """What the training loop needs of an updater; whoever makes updates faster keeps to it."""

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float) -> Step: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None: ...


class Updater:
    """The authors' update.

        loss = sum over time, mean over streams of -ln p(target)
        g    = d loss / d weights, scaled down to global norm `clip` where it is longer
        weights follow g by Adam

    Whoever divides the loss by time as well must divide `clip` too: with 150 steps the clip is nearly always on, and
    acts as gradient normalisation.
    """

    def __init__(self, lm: CharLM, config: TrainConfig) -> None:
        self.lm, self.config = lm, config
        self.parameters = list(lm.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
        )

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float) -> Step:
        """inputs, targets: (T, B) int64 on the model's device; state of the last window, or None for zeros."""
        bf16 = self.config.precision == "bf16"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            logits, new = self.lm(inputs, state)
        # In full precision whatever the products were in.
        logits = logits.float() if logits.dtype != torch.float64 else logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        (loss / inputs.shape[1]).backward()  # type: ignore[no-untyped-call]
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(loss.detach(), norm, detach_state(new))

    def _clip(self) -> Tensor:
        return clip_gradients(self.parameters, self.config.clip)

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's memory, by name: what a checkpoint keeps of it. Empty before the first update."""
        names = [name for name, _ in self.lm.named_parameters()]
        states = self.optimizer.state
        return {
            f"{name}.{what}": value
            for name, parameter in zip(names, self.parameters, strict=True)
            for what, value in states.get(parameter, {}).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        stored = self.optimizer.state_dict()
        stored["state"] = {}
        for index, (name, _) in enumerate(self.lm.named_parameters()):
            of_one = {what: tensors[f"{name}.{what}"] for what in ADAM_TENSORS if f"{name}.{what}" in tensors}
            if of_one:
                stored["state"][index] = of_one
        self.optimizer.load_state_dict(stored)


ADAM_TENSORS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam keeps of each weight: two tensors like it, and a count without dimensions."""


class WeightAverage:
    """An exponential average of the weights: average += (1 - d) (weights - average).

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are soon forgotten.
    """

    def __init__(self, lm: CharLM, decay: float) -> None:
        self.decay = decay
        self.weights = [parameter.detach().clone() for parameter in lm.parameters()]
        self.names = [name for name, _ in lm.named_parameters()]
        self.lm = lm

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after update number `updates`."""
        d = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.weights, [p.detach() for p in self.lm.parameters()], 1.0 - d)

    def swap(self) -> None:
        """Exchange the model's weights with the average; a second time undoes it."""
        with torch.no_grad():
            for parameter, average in zip(self.lm.parameters(), self.weights, strict=True):
                kept = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.weights, strict=True))

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in zip(self.names, self.weights, strict=True):
            average.copy_(tensors[name])
