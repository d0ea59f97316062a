"""One training step: forward and backward over a window, gradient clipping, Adam."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastslow.data.streams import rank_columns
from fastslow.lm.model import CharLM
from fastslow.noise import draw_key
from fastslow.state import detach_state, map_state, state_tensors
from fastslow.training.clip import clip_gradients
from fastslow.training.config import TrainConfig
from fastslow.training.distributed import Group, Ranks
from fastslow.training.precision import autocast
from fastslow.training.reduction import GradientSum


class Step(NamedTuple):
    """The result of one training step.

    loss_nats: total loss of the window over all targets of all ranks, a scalar tensor of float32 or wider on the
        model's device.
    gradient_norm: global norm before clipping, likewise.
    state: the state to carry into the next window, detached.
    """

    loss_nats: Tensor
    gradient_norm: Tensor
    state: Any


class Updating(Protocol):
    """The interface of an updater that the training loop uses."""

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float, resets: Tensor | None = None) -> Step: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None: ...


class Updater:
    """The training step of the paper's authors.

        loss = sum over time, mean over streams of -ln p(target)
        g    = d loss / d weights, scaled down to global norm `clip` if it is larger
        the weights are updated by Adam with g

    If the loss were divided by time as well, `clip` would have to be divided too: with 150 steps the clip is nearly
    always active and normalizes the gradient.

    With `accumulate` the streams are processed in parts and the gradients are accumulated. With several `ranks` each
    processes its own columns, and the gradients are summed before clipping. Either way every stream has the same masks
    as in the whole batch.
    """

    def __init__(self, lm: CharLM, config: TrainConfig, ranks: Ranks | None = None) -> None:
        self.lm, self.config = lm, config
        self.parameters = list(lm.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
        )
        self.reduction: GradientSum | None = None
        if isinstance(ranks, Group):
            columns = ranks.columns(config.batch)
            assert columns is not None  # a batch has a stream for every rank
            lm.layer.first_row = columns.start
            self.reduction = GradientSum(self.parameters, ranks)

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float, resets: Tensor | None = None) -> Step:
        """inputs, targets: (T, B) int64 on the model's device; state of the last window, or None for zeros; resets:
        (T, B) bool, where documents begin, or None."""
        objective, loss, new = self._objective(inputs, targets, state, resets)
        if self.reduction is not None:
            self.reduction.begin(loss)
        objective.backward()  # type: ignore[no-untyped-call]
        if self.reduction is not None:
            loss = self.reduction.finish()
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(loss.detach(), norm, detach_state(new))

    def _objective(
        self, inputs: Tensor, targets: Tensor, state: Any, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Any]:
        """The objective (of the last part; the backward pass of the others is done), the loss, and the state."""
        parts = self.config.accumulate
        if parts == 1:
            return self._forward(inputs, targets, state, inputs.shape[1], resets)
        width, layer = inputs.shape[1], self.lm.layer
        first_row = layer.first_row
        # One key for all parts, drawn as for the whole window.
        layer.noise_key = draw_key(inputs.device) if layer.training and layer.rates.random else None
        losses, states = [], []
        try:
            for part in range(parts):
                columns = rank_columns(width, part, parts)
                layer.first_row = first_row + columns.start
                objective, loss, new = self._forward(
                    inputs[:, columns],
                    targets[:, columns],
                    None if state is None else map_state(itemgetter(columns), state),
                    width,
                    None if resets is None else resets[:, columns],
                )
                losses.append(loss.detach())
                states.append(detach_state(new))
                if part < parts - 1:
                    objective.backward()  # type: ignore[no-untyped-call]
        finally:
            layer.first_row, layer.noise_key = first_row, None
        return objective, torch.stack(losses).sum(), _side_by_side(states)

    def _forward(
        self, inputs: Tensor, targets: Tensor, state: Any, width: int, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Any]:
        """The objective, the loss, and the new state; `width` is the number of streams of this process."""
        # Autocast is entered and left here, so that a recording contains its whole cache of cast weights.
        with autocast(inputs.device, self.config.precision):
            logits, new = self.lm(inputs, state) if resets is None else self.lm(inputs, state, resets=resets)
        # In full precision, independent of the precision of the products.
        logits = logits.float() if logits.dtype != torch.float64 else logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return loss / (width if self.reduction is None else self.config.batch), loss, new

    def _clip(self) -> Tensor:
        return clip_gradients(self.parameters, self.config.clip)

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer state by name, as saved in a checkpoint. Empty before the first training step."""
        names = [name for name, _ in self.lm.named_parameters()]
        states = self.optimizer.state
        return {
            f"{name}.{what}": value
            for name, parameter in zip(names, self.parameters, strict=True)
            for what, value in states.get(parameter, {}).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimizer state that `tensors` returned."""
        stored = self.optimizer.state_dict()
        stored["state"] = {}
        for index, (name, _) in enumerate(self.lm.named_parameters()):
            of_one = {what: tensors[f"{name}.{what}"] for what in ADAM_TENSORS if f"{name}.{what}" in tensors}
            if of_one:
                stored["state"][index] = of_one
        self.optimizer.load_state_dict(stored)


def _side_by_side(states: list[Any]) -> Any:
    """Concatenate the states of the parts of a batch."""
    leaves = (torch.cat(parts) for parts in zip(*map(state_tensors, states), strict=True))
    return map_state(lambda _: next(leaves), states[0])


ADAM_TENSORS = ("exp_avg", "exp_avg_sq", "step")
"""Adam's state for each weight: two tensors of its shape, and a scalar count."""


class WeightAverage:
    """An exponential average of the weights: average += (1 - d) (weights - average).

    d = min(decay, (1 + n) / (10 + n)) after n training steps, so that the initial weights are soon forgotten.
    """

    def __init__(self, lm: CharLM, decay: float) -> None:
        self.decay = decay
        self._follow(lm)

    def _follow(self, lm: CharLM) -> None:
        self.weights = [parameter.detach().clone() for parameter in lm.parameters()]
        self.names = [name for name, _ in lm.named_parameters()]
        self.lm = lm

    def update(self, updates: int) -> None:
        """Add the current weights, after training step number `updates`."""
        self._approach(1.0 - min(self.decay, (1 + updates) / (10 + updates)))

    @torch.no_grad()
    def _approach(self, part: float) -> None:
        torch._foreach_lerp_(self.weights, [p.detach() for p in self.lm.parameters()], part)

    def swap(self) -> None:
        """Exchange the model's weights and the average; a second call undoes it."""
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


class TailAverage(WeightAverage):
    """The uniform mean of the weights after each of the last n training steps: average += (weights - average) / n.

    With n = 0 it equals the weights.
    """

    def __init__(self, lm: CharLM) -> None:
        self._follow(lm)

    def update(self, updates: int) -> None:
        """Add the current weights; `updates`: their number in the average."""
        self._approach(1.0 / max(1, updates))
