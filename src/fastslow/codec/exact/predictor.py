"""The exact model as the block coder's predictor."""

from __future__ import annotations

import torch

from fastslow.codec.exact.engine import ExactEngine
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel


class ExactPredictor:
    """Frozen weights in integers: the same frequencies whatever the machine and whatever the other lanes hold."""

    learns = False

    def __init__(self, model: ExactModel, device: torch.device | str = "cpu") -> None:
        self.symbols, self.start = model.symbols, model.start
        self.frequencies = FrequencyModel(model.tables)
        self._engine = ExactEngine(model, device)

    def begin(self, lanes: int) -> None:
        self._engine.begin(lanes)

    def step(self, symbols: Ints) -> Ints:
        return self._engine.step(symbols)

    def settle(self, used: bool) -> None:
        pass
