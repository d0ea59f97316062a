"""The layers: they own parameters, draw the noise key and hand a window to an engine.

Importing them makes their classes known to `torch.load(weights_only=True)`, so that a saved module of theirs loads. The
classes hold tensors, numbers and names; loading one runs no code of the file's.
"""

import torch

from fastslow.cells.lstm import LayerNormLSTMCell, Norm
from fastslow.layers.baselines import SequentialLSTM, StackedLSTM
from fastslow.layers.fast_slow import FSLSTM
from fastslow.layers.fsrnn import FSRNN
from fastslow.layers.wired import WiredLSTM
from fastslow.wiring import Node, Wiring

__all__ = ["FSLSTM", "FSRNN", "SequentialLSTM", "StackedLSTM", "WiredLSTM"]

torch.serialization.add_safe_globals(
    [FSLSTM, FSRNN, SequentialLSTM, StackedLSTM, WiredLSTM, LayerNormLSTMCell, Norm, Node, Wiring, torch.nn.ModuleList]
)
