"""The layers: they own parameters, draw the noise key and hand a window to an engine."""

from fastslow.layers.baselines import SequentialLSTM, StackedLSTM
from fastslow.layers.fast_slow import FSLSTM
from fastslow.layers.fsrnn import FSRNN
from fastslow.layers.wired import WiredLSTM

__all__ = ["FSLSTM", "FSRNN", "SequentialLSTM", "StackedLSTM", "WiredLSTM"]
