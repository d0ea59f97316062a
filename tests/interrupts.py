"""Processes that a Ctrl-C ends, also where the tests themselves run in a shell's background, which ignores it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started in this context begin with the default SIGINT: a handler ends with `exec`, SIG_IGN does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
