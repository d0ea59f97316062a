"""A quick test whether a network's predictions are worth their time for a block."""

from __future__ import annotations

import numpy as np

from fastslow.codec.predictor import ExactPredictor
from fastslow.mixing.tables import ln, tables

_LANES, _STEPS, _WARM = 16, 512, 128
"""The sample: the number of places, the bytes at each, and how many of these are not counted."""


def network_nats(data: bytes, network: ExactPredictor) -> int:
    """The estimated code length of `data` by the network alone, in 2^-16 nats, from a sample: in integers, so that the
    result is the same on every machine."""
    text = np.frombuffer(data, np.uint8)
    lanes = max(1, min(_LANES, len(text) // _STEPS))
    steps = min(_STEPS, len(text) // lanes)
    warm = min(_WARM, steps // 2)
    at = np.arange(lanes) * (len(text) // lanes)
    table = np.full(256, -1)
    table[np.frombuffer(network.symbols, np.uint8)] = np.arange(len(network.symbols))
    logarithm = tables().logarithm
    unknown = 18 * 45426  # a share of 2^-18, as the mixer has it
    whole, nats = int(ln(1 << 24, logarithm)), 0
    previous = np.full(lanes, network.start, dtype=np.int64)
    network.begin(lanes)
    for t in range(steps):
        frequencies = network.frequencies(network.step(previous))
        symbols = table[text[at + t]]
        known = symbols >= 0
        previous = np.where(known, symbols, network.start)
        if t >= warm:
            found = frequencies[np.arange(lanes), previous]
            nats += int(np.where(known, whole - ln(found, logarithm), unknown).sum())
    return nats * len(text) // (lanes * (steps - warm))


def bytes_of(nats: int) -> int:
    """From 2^-16 nats."""
    return -(-nats // (8 * 45426))
