"""Scores of a text, block by block, with progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastslow.data.text import Text

if TYPE_CHECKING:
    from fastslow.lm import CharLM
    from fastslow.scoring import Surprisal


def surprisals_of(lm: CharLM, source: Text, context: bytes = b"") -> Iterator[Surprisal]:
    """The scores of the text by the network, with progress."""
    from fastslow.scoring import surprisals

    blocks = surprisals(lm, source.data, name=source.name, offsets=source.offsets, context=context)
    return with_progress(blocks, len(source))


def with_progress(blocks: Iterator[Surprisal], size: int) -> Iterator[Surprisal]:
    """`blocks`, with progress on stderr unless the results go to a terminal."""
    from fastslow.cli.progress import CountingView

    with ExitStack() as stack:
        view = None if sys.stdout.isatty() else stack.enter_context(CountingView("score", "bytes"))
        for block in blocks:
            yield block
            if view is not None:
                view(block.start + len(block), size)
