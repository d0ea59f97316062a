"""`fastslow sample`: text sampled from a model."""

from __future__ import annotations

import os
import secrets
import sys
from typing import Annotated

import tyro

from fastslow.cli.common import Backend, Count, Device, load_model, note, use_few_threads
from fastslow.lm.generation import check_options


def sample(
    run: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[RUN]", help_behavior_hint="(default: the newest run in runs/, or else the bundled model)"
        ),
    ] = None,
    *,
    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = "",
    length: Annotated[int, tyro.conf.arg(metavar="N")] = 1000,
    temperature: Annotated[float, tyro.conf.arg(metavar="X")] = 1.0,
    top_k: Count = None,
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P", help_behavior_hint="")] = None,
    seed: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: a random one, which is printed)")
    ] = None,
    device: Device = None,
    backend: Backend = "auto",
) -> None:
    """Print text sampled from a model, one character at a time.

    On a terminal, control characters and bytes that are not UTF-8 are escaped; a file or a pipe gets the bytes.

    Args:
        run: the model: the folder of a run or model, or english for the bundled one
        prompt: the beginning of the text
        length: number of bytes to generate after the prompt
        temperature: below 1 for more predictable text, above 1 for less predictable; 0 takes the most likely symbol
        top_k: sample from the N most likely symbols only
        top_p: sample from the smallest set of symbols whose total probability is at least P
        seed: the same seed gives the same text
        device: the device, such as cpu or cuda:1
        backend: the engine, or auto
    """
    from fastslow.sampling import sample as draw
    from fastslow.sampling import write_bytes, write_text

    check_options(temperature, top_k, top_p, length)
    lm = load_model(run, device, backend)
    use_few_threads(lm)
    if seed is None:
        seed = secrets.randbelow(2**31)
        if temperature > 0:
            note(f"seed {seed} (--seed {seed} repeats this text)")
    pieces = draw(lm, os.fsencode(prompt), length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if sys.stdout.isatty():
        write_text(pieces, sys.stdout)
    else:
        sys.stdout.flush()
        write_bytes(pieces, sys.stdout.buffer)
