"""Tests that need a CUDA device: `make test-gpu`."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """The device, exact in float32; without one the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    yield torch.device("cuda", torch.cuda.current_device())
    gc.collect()  # a recorded update refers to itself, and its graph holds memory
    torch.cuda.empty_cache()
