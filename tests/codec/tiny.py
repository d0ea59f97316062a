"""Small models made by integer arithmetic alone: the same on every machine, whatever torch's generators do."""

from __future__ import annotations

import numpy as np

from fastslow.codec.exact.model import ExactCell, ExactModel, ExactNode
from fastslow.codec.exact.tables import standard_tables

TEXT = (
    b"it was a bright cold day and the clocks were striking and the wind was in the wires and the rain came down "
    b"on the road to the town where nobody had been seen since the snow began to fall in the hills above the river "
)
ALPHABET = bytes(sorted(set(TEXT)))


class Draw:
    """Integers from a linear congruence."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def __call__(self, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
        """int64 values from low to high, both included."""
        values = np.empty(int(np.prod(shape)), dtype=np.int64)
        for at in range(values.size):
            self.state = (6364136223846793005 * self.state + 1442695040888963407) % 2**64
            values[at] = low + (self.state >> 33) % (high - low + 1)
        return values.reshape(shape)


def tiny_model(
    *,
    symbols: bytes = ALPHABET,
    hidden: int = 12,
    slow: int = 9,
    norm: bool = True,
    width: int = 2,
    seed: int = 1,
    keep: tuple[int, int] = (30000, 25000),
) -> ExactModel:
    """An FS-LSTM with two fast cells and random weights."""
    draw, embedding = Draw(seed), 5
    top = 127 if width == 1 else 32767
    bits = 7 if width == 1 else 15

    def cell(size: int, inputs: int, embedded: bool) -> ExactCell:
        none = np.zeros(0, dtype=np.int64)
        return ExactCell(
            hidden=size,
            input=inputs,
            embedded=embedded,
            norm=norm,
            bits=bits,
            embed_bits=bits if embedded else 0,
            z_bits=14 if width == 2 else 12,
            gate_bits=13 if norm else 0,
            cell_bits=13 if norm else 0,
            weight=draw((4 * size, inputs + size), -top // 2, top // 2),
            embed_weight=draw((4 * size, embedding), -top, top) if embedded else np.zeros((0, 0), dtype=np.int64),
            bias=draw((4 * size,), -4000, 4000),
            gate_gain=draw((4 * size,), 6000, 12000) if norm else none,
            gate_shift=draw((4 * size,), -30000, 60000) if norm else none,
            cell_gain=draw((size,), 6000, 12000) if norm else none,
            cell_shift=draw((size,), -30000, 30000) if norm else none,
        )

    model = ExactModel(
        symbols=symbols,
        start=symbols.index(b" ") if b" " in symbols else 0,
        width=width,
        embedding=draw((len(symbols), embedding), -top, top),
        embedding_bits=bits,
        cells=(cell(hidden, 0, True), cell(slow, hidden, False), cell(hidden, slow, False)),
        nodes=(ExactNode(0, 0, -1), ExactNode(1, 1, 0), ExactNode(2, 0, 1)),
        slots=(hidden, slow),
        output=2,
        keep_h=keep[0],
        keep_c=keep[1],
        head=draw((len(symbols), hidden), -top, top),
        head_bits=bits - 1,
        head_bias=draw((len(symbols),), -20000, 20000),
        tables=standard_tables(),
    )
    model.check()
    return model


def random_text(length: int, seed: int = 7, symbols: bytes = ALPHABET) -> bytes:
    """Bytes that no model predicts well, all in the alphabet: lzma takes 5/8 of them at best, so the model wins."""
    picks = Draw(seed)((length,), 0, len(symbols) - 1)
    return bytes(np.frombuffer(symbols, np.uint8)[picks])


def predicted_text(model: ExactModel, length: int, seed: int = 3) -> bytes:
    """What the model itself would write: text whose archive its predictions shorten more than anything else does."""
    from fastslow.codec.predictor import ExactPredictor

    predictor, draw = ExactPredictor(model), Draw(seed)
    predictor.begin(1)
    written, previous = bytearray(), np.array([model.start])
    for _ in range(length):
        sums = predictor.frequencies(predictor.step(previous))[0].cumsum()
        at = int(np.searchsorted(sums, int(draw((1,), 0, int(sums[-1]) - 1)[0]), side="right"))
        written.append(model.symbols[at])
        previous = np.array([at])
    return bytes(written)
