"""What an archive costs beyond the model's own code length, on text that the model was trained for."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastslow import CharLM, codec
from fastslow.codec.exact.quantise import start_symbol
from fastslow.data.alphabet import Alphabet
from fastslow.lm.config import LMConfig
from fastslow.state import detach_state

LANES, LENGTH = 24, 100_000
WORDS = (
    b"the of and to in a is that it was for on as with his they at be this from have or by one had not but what".split()
)


def written(length: int, seed: int) -> bytes:
    """Words in an order that depends on the one before: something to learn, and something that stays unknown."""
    draw = np.random.default_rng(seed)
    parts, word, size = [], 0, 0
    while size < length:
        word = (3 * word + int(draw.integers(6))) % len(WORDS)
        parts.append(WORDS[word] + (b".\n" if draw.random() < 0.1 else b" "))
        size += len(parts[-1])
    return b"".join(parts)[:length]


@pytest.fixture(scope="module")
def lm() -> CharLM:
    """Trained for some seconds."""
    text = written(200_000, 1)
    symbols = bytes(sorted(set(text)))
    torch.manual_seed(0)
    sizes = {"embedding_size": 12, "hidden_size": 48, "slow_size": 32, "zoneout_h": 0.05, "zoneout_c": 0.1}
    lm = CharLM(LMConfig(alphabet=Alphabet(symbols), **sizes))  # type: ignore[arg-type]
    tokens = torch.tensor([symbols.index(byte) for byte in text]).view(32, -1).T
    optimizer = torch.optim.Adam(lm.parameters(), 0.005)
    state = None
    for update in range(150):
        window = tokens[40 * update : 40 * update + 41]
        state = None if state is None else detach_state(state)
        logits, state = lm(window[:-1], state)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), window[1:].flatten()).backward()
        optimizer.step()
    return lm.eval()


def code_length_bits(lm: CharLM, text: bytes, lanes: int) -> float:
    """-log2 p of every byte under the float model, lanes laid out anew."""
    symbols = lm.alphabet.symbols
    bounds = np.cumsum([0] + [len(text) // lanes + (lane < len(text) % lanes) for lane in range(lanes)])
    steps = int(np.diff(bounds).max())
    targets = np.full((steps, lanes), -100)  # what the loss leaves out
    for lane in range(lanes):
        part = text[bounds[lane] : bounds[lane + 1]]
        targets[: len(part), lane] = [symbols.index(byte) for byte in part]
    first = np.full((1, lanes), start_symbol(symbols))
    inputs = np.concatenate((first, np.maximum(targets[:-1], 0)))
    with torch.inference_mode():
        logits, _ = lm(torch.from_numpy(inputs))
        nats = F.cross_entropy(
            logits.double().flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="sum", ignore_index=-100
        )
    return float(nats) / float(np.log(2))


@pytest.mark.slow
def test_an_archive_is_no_longer_than_the_code_length_of_its_model(lm: CharLM) -> None:
    """The contexts beside the network never cost: 0.1% and 48 bytes more at most than the float model's code length."""
    text = written(LENGTH, 2)
    assert set(text) <= set(lm.alphabet.symbols)
    bits = code_length_bits(lm, text, LANES)
    assert 1.0 < bits / LENGTH < 2.2  # it has learned, and has not learned everything
    archive = codec.compress(text, lm, lanes=LANES)
    assert len(archive) <= 1.001 * bits / 8 + 48
    reader = codec.ArchiveReader(io.BytesIO(archive), lm)
    assert b"".join(reader.blocks()) == text
    assert reader.summary.kinds["neural"] == LENGTH
