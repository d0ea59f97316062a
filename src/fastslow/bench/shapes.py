"""The measured networks and windows, and their operation counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fastslow.layers import WiredLSTM
from fastslow.wiring import FROM_INPUT, NO_INPUT, Wiring, fast_slow, sequential, stacked


@dataclass(frozen=True)
class Shape:
    """A network and a window. sizes: H of each slot; vocabulary: V, if a whole training step is measured."""

    name: str
    wiring: Wiring
    input_size: int
    sizes: tuple[int, ...]
    rows: int
    steps: int
    dropout: float = 0.35
    zoneout_h: float = 0.1
    zoneout_c: float = 0.5
    vocabulary: int = 50

    def layer(self, backend: str = "auto", device: torch.device | str = "cpu") -> WiredLSTM:
        """The network as a layer, with the same weights in every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = WiredLSTM(
                self.wiring,
                self.input_size,
                dict(zip(self.wiring.slots, self.sizes, strict=True)),
                dropout=self.dropout,
                zoneout_h=self.zoneout_h,
                zoneout_c=self.zoneout_c,
                backend=backend,
            )
        return layer.to(device)

    @property
    def matrices(self) -> tuple[tuple[int, int, bool], ...]:
        """(4H, inputs, whether it multiplies the network's x) for every matrix."""
        found = []
        for slot, source in zip(self.wiring.slot_of, self.wiring.sources, strict=True):
            size = self.sizes[slot]
            if source != NO_INPUT:
                inputs = self.input_size if source == FROM_INPUT else self.sizes[self.wiring.slot_of[source]]
                found.append((4 * size, inputs, source == FROM_INPUT))
            found.append((4 * size, size, False))
        return tuple(found)

    @property
    def weights(self) -> int:
        """The number of elements of all matrices."""
        return sum(wide * inputs for wide, inputs, _ in self.matrices)

    @property
    def symbols(self) -> int:
        return self.rows * self.steps

    @property
    def flops(self) -> int:
        """Operations of a window, forward and backward: two per weight in each of three products."""
        return 6 * self.weights * self.symbols

    @property
    def dependent_steps(self) -> int:
        """The number of sequential cell steps of a window, forward and backward."""
        return 2 * len(self.wiring.nodes) * self.steps

    @property
    def needed_bytes(self) -> int:
        """The bytes that backward needs from forward in float32: z (4H), h and c of each node, step and row, and x."""
        units = sum(self.sizes[slot] for slot in self.wiring.slot_of)
        return 4 * self.symbols * (6 * units + self.input_size)

    def equal_lstm(self) -> int:
        """The hidden size of the `torch.nn.LSTM` with about the same number of weights."""
        return min(range(1, 8192), key=lambda size: abs(4 * size * (self.input_size + size) - self.weights))


PTB = Shape("PTB FS-LSTM-2", fast_slow(2), 128, (700, 400), rows=128, steps=150)
SMALL = Shape("small FS-LSTM-2", fast_slow(2), 64, (128, 64), rows=16, steps=100)
LARGE = Shape("enwik8 FS-LSTM-4 Large", fast_slow(4), 256, (1200, 1500), 128, 100, 0.25, 0.05, 0.3, vocabulary=205)

CPU_SHAPES = (
    PTB,
    replace(PTB, name="PTB FS-LSTM-4", wiring=fast_slow(4), sizes=(500, 400)),
    replace(PTB, name="PTB stacked-2", wiring=stacked(2), sizes=(752, 752)),
    replace(PTB, name="PTB sequential-2", wiring=sequential(2), sizes=(914,)),
    SMALL,
    replace(SMALL, name="small FS-LSTM-4", wiring=fast_slow(4), sizes=(96, 64)),
    replace(SMALL, name="small stacked-2", wiring=stacked(2), sizes=(133, 133)),
    replace(SMALL, name="small sequential-2", wiring=sequential(2), sizes=(160,)),
)
"""The baselines have about as many weights as the FS-LSTM-2 above them."""
QUICK_CPU_SHAPES = (replace(PTB, steps=20), SMALL)
GPU_SHAPES = (PTB, replace(PTB, name="PTB FS-LSTM-4", wiring=fast_slow(4), sizes=(500, 400)), LARGE)
QUICK_GPU_SHAPES = (PTB,)

SHAPES = {shape.name: shape for shape in (*CPU_SHAPES, *GPU_SHAPES)}
