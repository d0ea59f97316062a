"""Numbers too small for a normal exponent are zero inside the engine's threads, and nowhere else afterwards."""

from __future__ import annotations

import pytest
import torch

from fastslow import FSGRU, FSLSTM
from fastslow.backends.native import call
from fastslow.backends.native.library import library

pytestmark = pytest.mark.skipif(isinstance(library(), str), reason=f"no native library: {library()}")


def keeps_denormals() -> bool:
    """In every thread of the team."""
    tiny = torch.full((1 << 16,), 1e-40)
    return bool((tiny * 0.5 > 0).all()) and bool((torch.tensor(1e-40) * 0.5 > 0).all())


@pytest.mark.parametrize("kind", [FSLSTM, FSGRU])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_mode_is_put_back(kind: type[FSLSTM] | type[FSGRU], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "split_threads", lambda *args: (threads, threads))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert keeps_denormals()
        layer = kind(4, 8, backend="native")
        x = torch.full((5, 4, 4), 1e-39, requires_grad=True)
        y, _ = layer(x)
        y.sum().backward()
        with torch.no_grad():
            layer.step(x[0])
        assert keeps_denormals()
    finally:
        torch.set_num_threads(before)


def test_denormals_are_zero_inside() -> None:
    """Of an input that is all denormals nothing reaches the state of cells without biases and norms."""
    layer = FSLSTM(4, 8, layer_norm=False, bias=False, backend="native")
    y, state = layer(torch.full((3, 4, 4), 1e-39))
    assert not y.any()
    assert not state.fast.c.any()
    exact, _ = FSLSTM(4, 8, layer_norm=False, bias=False, backend="reference", dtype=torch.float64)(
        torch.full((3, 4, 4), 1e-39, dtype=torch.float64)
    )
    assert exact.abs().max() < 1e-37  # what was lost
