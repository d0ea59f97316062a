from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM
from fastslow.state import FSState, LSTMState, state_tensors

from .models import LETTERS, small_lm

V = len(LETTERS)
ARCHITECTURES: list[dict[str, Any]] = [
    {},
    {"depth": 4},
    {"architecture": "stacked", "slow_size": None, "depth": 3},
    {"architecture": "sequential", "slow_size": None},
]


def tokens(steps: int = 6, rows: int = 3) -> torch.Tensor:
    return torch.randint(V, (steps, rows), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("options", ARCHITECTURES)
def test_shapes_and_steps(options: dict[str, Any]) -> None:
    lm = small_lm(**options).eval()
    logits, state = lm(tokens())
    assert logits.shape == (6, 3, V)
    one_by_one: Any = None
    for t, row in enumerate(tokens()):
        one, one_by_one = lm.step(row, one_by_one)
        torch.testing.assert_close(one, logits[t])
    for leaf, other in zip(state_tensors(state), state_tensors(one_by_one), strict=True):
        torch.testing.assert_close(leaf, other)


@pytest.mark.parametrize("options", ARCHITECTURES)
def test_the_initial_state_is_what_none_stands_for(options: dict[str, Any]) -> None:
    lm = small_lm(**options).eval()
    ours, theirs = lm(tokens(), lm.initial_state(3)), lm(tokens())
    assert torch.equal(ours[0], theirs[0])
    assert type(ours[1]) is type(theirs[1]) is type(lm.initial_state(3))


def test_one_stream_without_a_batch() -> None:
    lm = small_lm().eval()
    logits, _ = lm(tokens()[:, 1])
    torch.testing.assert_close(logits, lm(tokens())[0][:, 1])
    assert lm.step(tokens()[0, 0])[0].shape == (V,)


def test_state_is_carried() -> None:
    lm = small_lm().eval()
    first, state = lm(tokens()[:2])
    assert isinstance(state, FSState)
    assert isinstance(state.fast, LSTMState)
    second, _ = lm(tokens()[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), lm(tokens())[0])


def test_embedding_and_softmax_start_orthogonal() -> None:
    lm = small_lm(alphabet=Alphabet(b"abc"))
    for weight in (lm.embedding.weight, lm.head.weight):  # (3, E) and (3, H): orthonormal rows
        torch.testing.assert_close(weight @ weight.T, torch.eye(3))
    assert not lm.head.bias.any()


@pytest.mark.parametrize("shape", [(2, 3, 4), ()])
def test_tokens_of_other_ranks(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(T, B\) or \(T,\)"):
        small_lm()(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"tokens must be \(B,\) or \(\)"):
        small_lm().step(torch.zeros((2, 3), dtype=torch.int64))


def test_token_nats_are_the_cross_entropy() -> None:
    lm = small_lm().eval()
    inputs, targets = tokens()[:-1], tokens()[1:]
    scored = lm.token_nats(inputs, targets, top=4)
    logits, _ = lm(inputs)
    expected = -F.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(scored.nats, expected)
    assert scored.top_symbols is not None
    assert scored.top_probabilities is not None
    probabilities = logits.softmax(-1)
    torch.testing.assert_close(scored.top_probabilities, probabilities.gather(-1, scored.top_symbols))
    assert (scored.top_probabilities.diff(dim=-1) <= 0).all()
    assert torch.equal(scored.top_symbols[..., 0], logits.argmax(-1))
    assert lm.token_nats(inputs, targets, top=999).top_symbols.shape[-1] == V  # type: ignore[union-attr]
    assert lm.token_nats(inputs, targets).top_symbols is None


def test_evaluating_gives_the_mode_back() -> None:
    lm = small_lm(dropout=0.5)
    with lm.evaluating():
        assert not lm.training
    assert lm.training
    with lm.eval().evaluating():
        pass
    assert not lm.training


def test_copies_and_pickles() -> None:
    lm = small_lm().eval()
    for other in (copy.deepcopy(lm), pickle.loads(pickle.dumps(lm))):
        assert isinstance(other, CharLM)
        assert torch.equal(other(tokens())[0], lm(tokens())[0])
