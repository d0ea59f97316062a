"""Training and evaluation of a `CharLM` on a CUDA device, captured as CUDA graphs (`training.graphed`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastslow.evaluation import Scorer
from fastslow.lm.model import CharLM, TokenNats
from fastslow.state import map_state
from fastslow.training.config import TrainConfig
from fastslow.training.distributed import Ranks
from fastslow.training.graphed import GraphedStep, Recorded, Recorder, tensor_rates
from fastslow.training.updater import Step, Updater, Updating


class GraphedUpdater(Updater):
    """`Updater`'s training step as a CUDA graph: the same loss, clipping and Adam.

    The state it returns is a buffer that the next step overwrites; copy it to keep it.
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
            self._of_inputs, self.optimizer, device, clip=config.clip, reduction=self.reduction, recorder=recorder
        )

    def _of_inputs(self, inputs: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Any]:
        *resets, state = rest
        return self._objective(inputs, targets, state, *resets)

    def step(self, inputs: Tensor, targets: Tensor, state: Any, rate: float, resets: Tensor | None = None) -> Step:
        if state is None:
            state = self.lm.initial_state(inputs.shape[1])
        given = (inputs, targets) if resets is None else (inputs, targets, resets)  # captured separately
        return Step(*self.recorded.step(*given, state=state, rate=rate))

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)
        if self.lm.device.type == "cuda":
            tensor_rates(self.optimizer, self.lm.device)
        self.recorded.reset()  # the optimizer state has new tensors


def make_updater(lm: CharLM, config: TrainConfig, ranks: Ranks | None = None) -> Updating:
    """The fastest updater of the model's device."""
    return GraphedUpdater(lm, config, ranks) if lm.device.type == "cuda" else Updater(lm, config, ranks)


class RecordedScorer:
    """`lm.token_nats` as a CUDA graph, for `evaluate`, which runs in evaluation mode and inference mode.

    Uses the weights and the autocast mode at the time of each call.
    """

    def __init__(self, lm: CharLM, *, recorder: Recorder | None = None) -> None:
        self._lm, self._recorder = lm, recorder
        self._recorded: dict[torch.dtype | None, Recorded] = {}
        """One recording per autocast dtype; None if autocast is off."""

    def __call__(self, inputs: Tensor, targets: Tensor, state: Any, *, resets: Tensor | None = None) -> TokenNats:
        device = self._lm.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if kind not in self._recorded:
            self._recorded[kind] = self._record(kind)
        state = self._lm.initial_state(inputs.shape[1]) if state is None else state
        given = (inputs, targets, state) if resets is None else (inputs, targets, state, resets)
        nats, new = self._recorded[kind](*given)
        return TokenNats(nats.clone(), map_state(Tensor.clone, new))

    def _record(self, kind: torch.dtype | None) -> Recorded:
        def score(inputs: Tensor, targets: Tensor, state: Any, resets: Tensor | None = None) -> tuple[Tensor, Any]:
            # A weight that autocast cached before the recording would be freed before the replay.
            with torch.autocast(self._lm.device.type, kind, enabled=kind is not None, cache_enabled=False):
                nats, new, *_ = self._lm.token_nats(inputs, targets, state, resets=resets)
            return nats, new

        return Recorded(score, self._lm.device, recorder=self._recorder)


def make_scorer(lm: CharLM) -> Scorer:
    """The fastest scorer of the model's device."""
    return RecordedScorer(lm) if lm.device.type == "cuda" else lm.token_nats
