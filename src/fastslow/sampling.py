"""Print samples: convert bytes from the model to characters for the terminal.

`CharLM.stream` draws the samples. Here bytes become text, each character printed as soon as it is complete, and control
sequences that the model has learned are escaped so that they cannot affect the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, TextIO

from fastslow.printable import Utf8Stream, visible_text

if TYPE_CHECKING:
    from fastslow.lm import CharLM

KEPT = "\n\t"
"""The control characters that are printed unescaped."""


def readable(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of `pieces` of bytes, safe to print; each character is yielded as soon as it is complete.

    A character may be spread over several pieces. A byte that is not UTF-8 becomes `\\xe9`, and a control
    character other than line break and tab becomes `\\x1b`: see :func:`fastslow.printable.visible`.
    """
    decoder = Utf8Stream()
    for piece in pieces:
        text = decoder.feed(piece)
        if text:
            yield visible_text(text, KEPT)
    text = decoder.finish()
    if text:
        yield visible_text(text, KEPT)


def write_text(pieces: Iterable[bytes], out: TextIO) -> None:
    """Print `pieces` of bytes to a terminal as they arrive, as :func:`readable` text, and end the line."""
    last = "\n"
    for text in readable(pieces):
        out.write(text)
        out.flush()
        last = text
    if not last.endswith("\n"):
        out.write("\n")
    out.flush()


def write_bytes(pieces: Iterable[bytes], out: BinaryIO) -> None:
    """Write `pieces` of bytes unchanged as they arrive, to a file or a pipe."""
    for piece in pieces:
        out.write(piece)
        out.flush()


def sample(
    model: CharLM,
    prompt: bytes,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[bytes]:
    """The prompt and `length` sampled bytes, one at a time; options as in `CharLM.stream`."""
    drawn = model.stream(prompt, length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return _prefixed(prompt, drawn)


def _prefixed(prompt: bytes, drawn: Iterator[bytes]) -> Iterator[bytes]:
    if prompt:
        yield prompt
    yield from drawn
