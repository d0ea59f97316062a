"""The layers: they own parameters, draw the noise key and hand a window to an engine."""

from fastslow.layers.baselines import SequentialLSTM, StackedLSTM
from fastslow.layers.fast_slow import FSLSTM
from fastslow.layers.fsrnn import FSRNN
from fastslow.layers.gru import FSGRU, SequentialGRU, StackedGRU
from fastslow.layers.wired import WiredLSTM, WiredRNN

__all__ = [
    "FSGRU", "FSLSTM", "FSRNN", "SequentialGRU", "SequentialLSTM", "StackedGRU", "StackedLSTM", "WiredLSTM", "WiredRNN",
]  # fmt: skip
