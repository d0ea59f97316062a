"""What all tests share.

One thread a process: the tests share the cores among workers, and threads that wait for each other spin; what is about
threads asks for them itself. The same examples in every run, with no limit on the time one takes. And the same random
numbers in every test, whatever has run before it in the same process.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for the processes that tests start
import torch

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Before every test."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """What several tests share is made by the first that asks for it, before `seeded`."""
    if fixturedef.scope != "function":
        seed()
