"""Float numerics: the model's own step, fast, on the promise that the same step gives the same bits on both sides.

That holds on one machine with one set of versions and threads, with identical shapes: a step always runs all lanes of
the archive. A probe, the hash of logits on fixed symbols at those shapes, goes into the header; where it differs,
decoding is refused before the first byte.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any, NamedTuple

import numpy as np
import torch

from fastslow.codec.errors import FormatError, ModelError
from fastslow.codec.exact.quantise import start_symbol
from fastslow.codec.exact.tables import ONE, Ints, standard_tables
from fastslow.codec.frequencies import MAX_LOGIT, FrequencyModel
from fastslow.codec.packed import PackedSteps, packs
from fastslow.lm import CharLM

PROBE_STEPS = 24
MAX_THREADS = 1024


class FloatPredictor:
    """Frozen weights, the layer's own numbers."""

    learns = False

    def __init__(self, lm: CharLM) -> None:
        self.symbols = lm.alphabet.symbols
        self.start = start_symbol(self.symbols)
        self.frequencies = FrequencyModel(standard_tables())
        self._lm = lm.eval()
        self._state: Any = None
        self._packed: PackedSteps | None = None

    @torch.inference_mode()
    def begin(self, lanes: int) -> None:
        self._state = None
        if not packs(self._lm, lanes):
            self._packed = None
        elif self._packed is None or self._packed.lanes != lanes:
            self._packed = PackedSteps(self._lm, lanes)
        else:
            self._packed.begin()

    @torch.inference_mode()
    def step(self, symbols: Ints) -> Ints:
        tokens = torch.from_numpy(symbols).to(self._lm.device)
        if self._packed is not None:
            return integer_logits(self._packed.step(tokens))
        logits, self._state = self._lm.step(tokens, self._state)
        return integer_logits(logits)

    def settle(self, used: bool) -> None:
        pass


def integer_logits(logits: torch.Tensor) -> Ints:
    """Float logits (S, V) in units of 2^-15. ModelError if they are not numbers."""
    scaled = logits.detach().to("cpu", torch.float64).mul_(ONE).round_()
    if not torch.isfinite(scaled).all():
        raise ModelError("the model's logits are not finite: it cannot predict anything")
    return scaled.clamp_(-MAX_LOGIT, MAX_LOGIT).to(torch.int64).numpy()


def probe_symbols(size: int, steps: int, lanes: int) -> Ints:
    """Fixed symbols (T, S), by a linear congruence: the same everywhere."""
    values, state = [], 12345
    for _ in range(steps * lanes):
        state = (1103515245 * state + 12345) % (1 << 31)
        values.append((state >> 12) % size)
    return np.array(values, dtype=np.int64).reshape(steps, lanes)


def probe(predictor: Any, lanes: int, steps: int = PROBE_STEPS) -> bytes:
    """8 bytes of the hash of every logit on the probe symbols; leaves the predictor as it was."""
    digest = hashlib.sha256()
    predictor.begin(lanes)
    for symbols in probe_symbols(len(predictor.symbols), steps, lanes):
        digest.update(predictor.step(symbols).astype("<i8").tobytes())
    predictor.settle(False)
    return digest.digest()[:8]


class Environment(NamedTuple):
    """What float numbers depend on. `versions` is for the message when they differ; the decoder takes over the rest."""

    versions: str
    threads: int
    backend: str

    @classmethod
    def here(cls, device: torch.device, backend: str) -> Environment:
        cuda = device.type == "cuda"
        kind = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
        versions = f"torch {torch.__version__}, {platform.machine()}, {device.type} {kind}"
        return cls(versions, torch.get_num_threads(), backend)

    @classmethod
    def from_json(cls, value: object) -> Environment:
        """What an archive's settings say; FormatError for anything that could not be."""
        if not isinstance(value, list) or list(map(type, value)) != [str, int, str] or not 1 <= value[1] <= MAX_THREADS:
            raise FormatError("the archive's header is damaged: its environment is not whole")
        return cls(*value)
