"""The exact model as predictor of the block coder, with either of its two engines."""

from __future__ import annotations

import torch

from fastslow.codec.exact.engine import ExactEngine
from fastslow.codec.exact.model import ExactModel
from fastslow.codec.exact.tables import Ints
from fastslow.codec.frequencies import FrequencyModel
from fastslow.codec.native.engine import NativeEngine, refusal


class ExactPredictor:
    """A model in integers: its frequencies depend neither on the machine nor on the other lanes.

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
