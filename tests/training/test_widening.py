"""Widened networks: the same function, and copies that do not stay alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, ModelOptions
from fastslow.training.widening import widened

ALPHABET = Alphabet.of(b"abcdefg\n")
NETWORKS = {
    "fs": ModelOptions(embedding_size=3, hidden_size=5, slow_size=4),
    "fs4-no-norm": ModelOptions(embedding_size=3, hidden_size=5, slow_size=4, depth=4, layer_norm=False),
    "fs-gru": ModelOptions(embedding_size=3, hidden_size=5, slow_size=4, cell="gru"),
    "stacked": ModelOptions(architecture="stacked", embedding_size=3, hidden_size=5, depth=3),
    "sequential-gru": ModelOptions(architecture="sequential", embedding_size=3, hidden_size=5, cell="gru"),
}


def model(options: ModelOptions) -> CharLM:
    torch.manual_seed(0)
    lm = CharLM(options.with_alphabet(ALPHABET), backend="reference", dtype=torch.float64, device="cpu")
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return lm


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("factors", [(1, 2, 1), (1, 1, 3), (2, 3, 2)])
def test_it_computes_the_same(options: ModelOptions, factors: tuple[int, int, int]) -> None:
    embedding, hidden, slow = factors
    if options.slow_size is None:
        hidden = max(hidden, slow)
    larger = replace(
        options,
        embedding_size=options.embedding_size * embedding,
        hidden_size=options.hidden_size * hidden,
        slow_size=None if options.slow_size is None else options.slow_size * slow,
    )
    lm = model(options)
    wide = widened(lm, larger)
    assert wide.config.options == larger
    assert wide.num_parameters > lm.num_parameters
    tokens = torch.randint(len(ALPHABET), (12, 3), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(wide(tokens)[0], lm(tokens)[0], rtol=1e-9, atol=1e-9)
    for one, again in zip(wide.parameters(), widened(lm, larger).parameters(), strict=True):
        assert torch.equal(one, again)


def test_the_copies_of_a_unit_grow_apart() -> None:
    options = NETWORKS["fs"]
    wide = widened(model(options), replace(options, hidden_size=10, slow_size=8, embedding_size=6))
    nats = wide.token_nats(*torch.randint(len(ALPHABET), (2, 12, 3), generator=torch.Generator().manual_seed(1))).nats
    (gradient,) = torch.autograd.grad(nats.mean(), [wide.layer.slow.weight_hh])
    first, second = gradient.reshape(4, 4, 2, 8).unbind(2)
    assert ((first - second).abs() > 1e-3 * first.abs()).all()


def test_a_network_of_the_same_sizes_is_left_alone() -> None:
    lm = model(NETWORKS["fs"])
    assert widened(lm, NETWORKS["fs"]) is lm
