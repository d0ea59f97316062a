"""Engines are checked once before they are trusted, and what differs is passed over with one warning."""

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from fastslow import FSLSTM, backends
from fastslow.backends import choose, trust
from fastslow.backends.base import States
from fastslow.backends.window import engine as window_engine

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine has been looked at yet."""
    monkeypatch.setattr(trust, "_found", {})


def twisted(**defects: Any) -> Any:
    """The window engine with a defect in a result."""

    def run(*args: Any) -> tuple[Tensor, States]:
        y, state = window_engine.run(*args)
        return defects.get("y", lambda v: v)(y), defects.get("state", lambda v: v)(state)

    return types.SimpleNamespace(
        NAME="window", refusal=window_engine.refusal, options=window_engine.options, run=defects.get("run", run)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_engines_pass(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("native", "window"):
            if backends.engine(name).refusal(FSLSTM(3, 4, dtype=dtype)._problem(torch.zeros(2, 1, 3))) is None:
                assert trust.failed_check(name, backends.engine(name), CPU, dtype) is None
    assert all(found is None for found in trust._found.values())


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ({"y": lambda y: y * 1.01}, "y of a small window of lstm cells with masks differs"),
        ({"y": lambda y: y + 0 * torch.full_like(y, float("nan"))}, "y of a small window .* differs .* by nan"),
        ({"y": lambda y: 2 * y - y.detach()}, "gradient 0 of a small window"),
        ({"state": lambda s: (s[0]._replace(c=s[0].c * 2), s[1])}, "final state 1 of a small window"),
    ],
)
def test_differences_are_found(defect: dict[str, Any], message: str) -> None:
    engine = twisted(**defect)
    with pytest.warns(RuntimeWarning, match=f"the 'window' engine is not used on cpu: {message}"):
        assert trust.failed_check("window", engine, CPU, torch.float32) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        assert "its check failed" in str(trust.failed_check("window", engine, CPU, torch.float32))


def test_an_engine_that_raises_is_not_used() -> None:
    def run(*args: Any) -> Any:
        raise OSError("no such\ninstruction")

    with pytest.warns(RuntimeWarning, match="it fails with OSError: no such instruction"):
        trust.failed_check("window", twisted(run=run), CPU, torch.float32)


@pytest.fixture
def wrong_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_NATIVE", "0")
    real = backends.engine
    monkeypatch.setattr(
        backends, "engine", lambda name: twisted(y=lambda y: y * 1.1) if name == "window" else real(name)
    )


def test_the_layer_falls_back_and_says_why(wrong_window: None) -> None:
    layer = FSLSTM(3, 4)
    with pytest.warns(RuntimeWarning, match="the 'window' engine is not used"):
        choice = layer.backend_for(torch.zeros(2, 1, 3))
    assert choice.name == "reference"
    assert choice.refused["window"].startswith("its check failed: y of a small window")
    with pytest.raises(RuntimeError, match="backend 'window' cannot run this: its check failed"):
        choose(layer._problem(torch.zeros(2, 1, 3)), "window")


def test_only_the_cells_of_a_window_are_looked_at() -> None:
    trust.failed_check("window", window_engine, CPU, torch.float32, ("gru", "lstm", "gru"))
    assert [key[-1] for key in trust._found] == ["gru", "lstm"]


def test_the_check_can_be_turned_off(wrong_window: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSLOW_CHECK", "0")
    assert FSLSTM(3, 4).backend_for(torch.zeros(2, 1, 3)).name == "window"


def test_the_check_is_deaf_to_the_modes_around_it() -> None:
    from torch._subclasses import FakeTensorMode

    torch.manual_seed(0)
    before = torch.get_rng_state()
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert trust.failed_check("window", window_engine, CPU, torch.float32) is None
    assert torch.equal(before, torch.get_rng_state())
