"""Training and evaluation of a `CharLM` on a CUDA device, recorded as graphs (`training.graphed`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastslow.lm.model import CharLM, TokenNats
from fastslow.state import map_state
from fastslow.training.config import TrainConfig
from fastslow.training.distributed import Ranks
from fastslow.training.graphed import GraphedStep, Recorded, Recorder, recorder_for, tensor_rates
from fastslow.training.updater import Step, Updater, Updating


class GraphedUpdater(Updater):
    """`Updater`'s update, recorded: the same loss, clip and Adam.

    The state it returns is a buffer of its own that the next update overwrites; whoever keeps it copies it.
    """

    def __init__(
        self, lm: CharLM, config: TrainConfig, ranks: Ranks | None = None, *, recorder: Recorder | None = None
    ) -> None:
        super().__init__(lm, config, ranks)
        device = lm.device
        if device.type == "cuda":
            self.optimizer = torch.optim.Adam(
                self.parameters,
                lr=torch.tensor(config.rate, dtype=torch.float32, device=device),
                betas=(config.beta1, config.beta2),
                eps=config.epsilon,
                fused=True,
                capturable=True,
            )
        self.recorded = GraphedStep(
            self._objective, self.optimizer, device, clip=config.clip, reduction=self.reduction, recorder=recorder
        )

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float, resets: Tensor | None = None) -> Step:
        if resets is not None:
            raise ValueError("recorded updates have no resets")
        if state is None:
            state = self.lm.initial_state(inputs.shape[1])
        return Step(*self.recorded.step(inputs, targets, state=state, rate=rate))

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)
        if self.lm.device.type == "cuda":
            tensor_rates(self.optimizer, self.lm.device)
        self.recorded.reset()  # Adam's memory is now elsewhere


def make_updater(lm: CharLM, config: TrainConfig, ranks: Ranks | None = None) -> Updating:
    """The fastest updater of the model's device."""
    return GraphedUpdater(lm, config, ranks) if lm.device.type == "cuda" else Updater(lm, config, ranks)


@contextmanager
def graphed_scoring(lm: CharLM, *, recorder: Recorder | None = None) -> Iterator[None]:
    """Inside, `lm.token_nats` without `top` is recorded and replayed; weights are those at the time of each call.

    For scoring in evaluation mode under inference mode, as `evaluate` does it. Without a CUDA device (or a `recorder`)
    nothing changes.
    """
    device, plain = lm.device, lm.token_nats
    if recorder is None and device.type != "cuda":
        yield
        return

    def score(inputs: Tensor, targets: Tensor, state: Any) -> tuple[Tensor, Any]:
        nats, new, *_ = plain(inputs, targets, state)
        return nats, new

    recorded = Recorded(score, device, recorder=recorder_for(device) if recorder is None else recorder)

    def token_nats(
        inputs: Tensor, targets: Tensor, state: Any = None, *, top: int = 0, resets: Tensor | None = None
    ) -> TokenNats:
        if top or resets is not None or lm.training or torch.is_grad_enabled():
            return plain(inputs, targets, state, top=top, resets=resets)
        state = lm.initial_state(inputs.shape[1]) if state is None else state
        nats, new = recorded(inputs, targets, state)
        return TokenNats(nats.clone(), map_state(Tensor.clone, new))

    lm.token_nats = token_nats  # type: ignore[method-assign]
    try:
        yield
    finally:
        del lm.token_nats  # the class's own again
