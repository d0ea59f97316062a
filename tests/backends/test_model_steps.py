"""A language model's step in one compiled call beside its three modules, and what takes the long way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastslow.backends.native import steps as native_steps
from fastslow.backends.native.library import library
from fastslow.data.alphabet import Alphabet
from fastslow.lm import CharLM, LMConfig
from fastslow.state import state_tensors
from tests.backends.twins import poisoned_memory

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")
SYMBOLS = 37


def make(architecture: str = "fs-lstm", dtype: torch.dtype = torch.float32) -> CharLM:
    sizes: dict[str, Any] = {"slow_size": 13} if architecture == "fs-lstm" else {}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LMConfig(
            alphabet=Alphabet(bytes(range(SYMBOLS))),
            architecture=architecture,
            embedding_size=7,
            hidden_size=21,
            depth=2,
            zoneout_c=0.4,
            **sizes,
        )
        lm = CharLM(config, dtype=dtype).eval()
        nn.init.normal_(lm.head.bias)
    return lm


def long_way(lm: CharLM, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    y, state = lm.layer.step(lm.embedding(tokens), state)
    return lm.head(y), state


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", ["fs-lstm", "stacked", "sequential"])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (7,)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_twin(
    architecture: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    count: int,
    threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_steps, "SHARED_FROM", 1)
    torch.set_num_threads(count)
    lm, tolerance = make(architecture, dtype), 1e-5 if dtype == torch.float32 else 1e-12
    state = other = None
    for tokens in torch.randint(0, SYMBOLS, (3, *shape), generator=torch.Generator().manual_seed(2)):
        with poisoned_memory():
            streamed = lm.layer.logits_step(lm.embedding, lm.head, tokens, state)
        assert streamed is not None
        logits, state = streamed
        expected, other = long_way(lm, tokens, other)
        torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
        assert type(state) is type(other)
        for a, b in zip(state_tensors(state), state_tensors(other), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_the_model_steps_so() -> None:
    lm = make()
    streamed = lm.layer.logits_step(lm.embedding, lm.head, torch.tensor(5))
    assert streamed is not None
    assert torch.equal(lm.step(torch.tensor(5))[0], streamed[0])
    assert torch.equal(lm.step(torch.tensor([5]))[0][0], streamed[0])


@torch.no_grad()
def test_changes_are_noticed() -> None:
    lm, token = make(), torch.tensor(5)
    for change in (
        lambda: lm.head.weight.mul_(2),
        lambda: setattr(lm.head, "bias", nn.Parameter(torch.ones(SYMBOLS))),
        lambda: setattr(lm.embedding, "weight", nn.Parameter(torch.ones(SYMBOLS, 7))),
        lambda: setattr(lm, "head", nn.Linear(21, SYMBOLS, bias=False)),
        lambda: setattr(lm, "embedding", nn.Embedding(SYMBOLS, 7)),
        lambda: lm.double(),
    ):
        before = lm.step(token)[0]
        change()
        after = lm.step(token)[0]
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, long_way(lm, token)[0])
        assert lm.layer.logits_step(lm.embedding, lm.head, token) is not None


def test_what_takes_the_long_way() -> None:
    lm, token = make(), torch.tensor(5)

    def streams(embedding: nn.Embedding, head: nn.Linear, tokens: Tensor = token) -> bool:
        with torch.no_grad():
            return lm.layer.logits_step(embedding, head, tokens) is not None

    assert streams(lm.embedding, lm.head)
    assert lm.layer.logits_step(lm.embedding, lm.head, token) is None  # gradients
    assert lm.step(token)[0].requires_grad
    for wrong in (torch.tensor(SYMBOLS), torch.tensor([0, -1]), torch.tensor(5, dtype=torch.int32)):
        assert not streams(lm.embedding, lm.head, wrong)
    with torch.no_grad(), pytest.raises(IndexError):
        lm.step(torch.tensor(SYMBOLS))
    assert not streams(lm.embedding, lm.head.double())
    lm.head.float()
    assert not streams(nn.Embedding(SYMBOLS, 7, max_norm=0.1), lm.head)
    assert not streams(nn.Embedding(SYMBOLS, 8), lm.head)
    assert not streams(lm.embedding, nn.Linear(20, SYMBOLS))
    assert not streams(lm.embedding, type("Other", (nn.Linear,), {})(21, SYMBOLS))
    handle = lm.head.register_forward_hook(lambda module, args, y: y + 1)
    with torch.no_grad():
        torch.testing.assert_close(lm.step(token)[0], long_way(lm, token)[0])
    assert not streams(lm.embedding, lm.head)
    handle.remove()
    assert streams(lm.embedding, lm.head)
    lm.train()
    assert not streams(lm.embedding, lm.head)


# ---------------------------------------------------------------------- one stream, step after step


def walked(lm: CharLM) -> tuple[Any, Any]:
    """A walk, and the state it began from."""
    with torch.no_grad():
        _, state = lm(torch.tensor([3, 5, 8]))
        walk = lm.walk(state)
    assert walk is not None
    return walk, state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", ["fs-lstm", "stacked", "sequential"])
@torch.no_grad()
def test_a_walk_is_step_after_step(architecture: str, dtype: torch.dtype) -> None:
    lm = make(architecture, dtype)
    walk, state = walked(lm)
    start = [leaf.clone() for leaf in state_tensors(state)]
    kept = []
    for token in (1, 0, SYMBOLS - 1, 7, 7):
        with poisoned_memory():
            logits, state_after = lm.step(torch.tensor(token), state)
            found = walk(token)
        assert found is not None
        assert torch.equal(torch.from_numpy(found), logits)
        state = state_after
        kept.append((walk.state, state))
        assert type(walk.state) is type(state)
    for ours, theirs in kept:  # what was taken before later steps is still what it was
        assert all(map(torch.equal, state_tensors(ours), state_tensors(theirs)))
    assert walk(SYMBOLS) is None
    assert walk(-1) is None
    _, beginning = lm(torch.tensor([3, 5, 8]))
    assert all(map(torch.equal, start, state_tensors(beginning)))


@torch.no_grad()
def test_a_walk_sees_what_becomes_of_the_weights() -> None:
    lm = make()
    walk, state = walked(lm)
    lm.head.weight.mul_(2)  # in place
    lm.layer.node_cells()[0].weight_hh = nn.Parameter(lm.layer.node_cells()[0].weight_hh * 0.5)
    logits, state = lm.step(torch.tensor(4), state)
    assert torch.equal(torch.from_numpy(walk(4)), logits)
    lm.double()
    assert walk(4) is None
    assert all(map(torch.equal, state_tensors(walk.state), state_tensors(state)))


@torch.no_grad()
def test_where_there_is_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make()
    _, state = lm(torch.tensor([3]))
    with torch.enable_grad():
        assert lm.walk(state) is None
    lm.layer.backend = "reference"
    assert lm.walk(state) is None
    lm.layer.backend = "auto"
    assert lm.walk(lm.initial_state(2)) is None  # two streams
    assert lm.to(torch.bfloat16).walk(state) is None
    lm.float()
    monkeypatch.setattr(lm.head, "__class__", type("Louder", (nn.Linear,), {}))
    assert lm.walk(state) is None
    monkeypatch.undo()
    assert lm.walk(state) is not None

    class Other(CharLM):
        def step(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            logits, state = super().step(tokens, state)
            return -logits, state

    other = Other(lm.config).eval()
    assert other.walk(state) is None


@torch.no_grad()
def test_generating_goes_on_when_somebody_listens() -> None:
    lm, heard = make(), []
    parts = lm.stream(b"\x01", 12, seed=4)
    first = next(parts) + next(parts)
    lm.head.register_forward_hook(lambda module, given, logits: heard.append(logits))
    assert first + b"".join(parts) == make().generate(b"\x01", 12, seed=4)
    assert len(heard) == 10
