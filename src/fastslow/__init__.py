"""fastslow: the Fast-Slow RNN as a PyTorch layer, character language models, and tools built on them.

Nothing is imported until it is used: `import fastslow` does no work, and `fastslow --help` never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastslow.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastslow.cells.gru import LayerNormGRUCell
    from fastslow.cells.lstm import LayerNormLSTMCell
    from fastslow.cells.simple import SimpleCell
    from fastslow.layers import (
        FSGRU,
        FSLSTM,
        FSRNN,
        SequentialGRU,
        SequentialLSTM,
        StackedGRU,
        StackedLSTM,
        WiredLSTM,
        WiredRNN,
    )
    from fastslow.lm import CharLM
    from fastslow.state import FSState, LSTMState
    from fastslow.wiring import Node, Wiring

_HOMES = {
    "FSLSTM": "fastslow.layers",
    "FSRNN": "fastslow.layers",
    "StackedLSTM": "fastslow.layers",
    "SequentialLSTM": "fastslow.layers",
    "WiredLSTM": "fastslow.layers",
    "WiredRNN": "fastslow.layers",
    "FSGRU": "fastslow.layers",
    "StackedGRU": "fastslow.layers",
    "SequentialGRU": "fastslow.layers",
    "LayerNormGRUCell": "fastslow.cells.gru",
    "SimpleCell": "fastslow.cells.simple",
    "LayerNormLSTMCell": "fastslow.cells.lstm",
    "FSState": "fastslow.state",
    "LSTMState": "fastslow.state",
    "Node": "fastslow.wiring",
    "Wiring": "fastslow.wiring",
    "CharLM": "fastslow.lm",
}

__all__ = [
    "FSLSTM",
    "FSRNN",
    "StackedLSTM",
    "SequentialLSTM",
    "FSGRU",
    "StackedGRU",
    "SequentialGRU",
    "WiredRNN",
    "WiredLSTM",
    "LayerNormLSTMCell",
    "LayerNormGRUCell",
    "SimpleCell",
    "FSState",
    "LSTMState",
    "Node",
    "Wiring",
    "CharLM",
    "__version__",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
