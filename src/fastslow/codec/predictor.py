"""The exact model as the block coder's predictor: the one place that chooses between its two engines."""

from __future__ import annotations

import torch

from fastslow.codec.exact.engine import ExactEngine
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel
from fastslow.codec.native.engine import NativeEngine, refusal


class ExactPredictor:
    """Frozen weights in integers: the same frequencies whatever the machine and whatever the other lanes hold.

    `engine` is compiled where it can be, with the same bits.
    """

    def __init__(self, model: ExactModel, device: torch.device | str = "cpu") -> None:
        self.symbols, self.start = model.symbols, model.start
        self.frequencies = FrequencyModel(model.tables)
        self.weights = model.parameters
        self.engine: NativeEngine | ExactEngine
        if refusal(model, torch.device(device)) is None:
            self.engine = NativeEngine(model)
        else:
            self.engine = ExactEngine(model, device)

    def begin(self, lanes: int) -> None:
        self.engine.begin(lanes)

    def step(self, symbols: Ints) -> Ints:
        return self.engine.step(symbols)
