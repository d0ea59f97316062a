"""The layers: they own parameters, draw the noise key and hand a window to an engine.

Importing them makes their classes known to `torch.load(weights_only=True)`, so that a saved module of theirs loads. The
classes hold tensors, numbers and names; loading one runs no code of the file's.
"""

import torch

from fastslow.cells.gru import LayerNormGRUCell
from fastslow.cells.lstm import LayerNormLSTMCell
from fastslow.cells.module import Norm
from fastslow.cells.simple import SimpleCell
from fastslow.layers.baselines import SequentialLSTM, StackedLSTM
from fastslow.layers.fast_slow import FSLSTM
from fastslow.layers.fsrnn import FSRNN
from fastslow.layers.gru import FSGRU, SequentialGRU, StackedGRU
from fastslow.layers.wired import WiredLSTM, WiredRNN
from fastslow.wiring import Node, Wiring

__all__ = [
    "FSGRU", "FSLSTM", "FSRNN", "SequentialGRU", "SequentialLSTM", "StackedGRU", "StackedLSTM", "WiredLSTM", "WiredRNN",
]  # fmt: skip

torch.serialization.add_safe_globals(
    [
        *(FSGRU, FSLSTM, FSRNN, SequentialGRU, SequentialLSTM, StackedGRU, StackedLSTM, WiredRNN),
        *(LayerNormLSTMCell, LayerNormGRUCell, SimpleCell, Norm, Node, Wiring, torch.nn.ModuleList),
        *(torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell),  # of an FSRNN
    ]
)
