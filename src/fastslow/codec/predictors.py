"""Which predictor an archive's header asks for, and how many threads it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastslow.codec.blocks import Predictor
from fastslow.codec.container import Header, Mode
from fastslow.codec.errors import CodecError, FormatError, NumericsError
from fastslow.codec.models import CodecModel

_SMALL_STEP = 3_000_000
"""Multiplications in a step below which a second thread costs more than it brings."""
MAX_WINDOW_SYMBOLS = 1 << 17
"""Window times lanes of a learning model: what bounds the memory of an update."""


def make_predictor(
    mode: Mode, settings: dict[str, Any], model: CodecModel | None, device: torch.device | str | None = None
) -> Predictor:
    """The predictor of an archive with these settings. `model`: None in online mode only."""
    where = torch.device("cpu" if device is None else device)
    if mode == Mode.ONLINE:
        from fastslow.codec.learning import Learning, LearningPredictor, Online

        online = Online.from_json(settings.get("online"))
        return LearningPredictor(online.build(where), Learning.from_json(settings.get("learning")))
    assert model is not None
    if mode == Mode.EXACT:
        from fastslow.codec.exact.predictor import ExactPredictor

        return ExactPredictor(model.exact(weight_bits(settings)), where)
    lm = model.lm if device is None else model.lm.to(where)
    if mode == Mode.FLOAT:
        from fastslow.codec.floating import FloatPredictor

        return FloatPredictor(lm)
    from fastslow.codec.learning import Learning, LearningPredictor

    return LearningPredictor(lm, Learning.from_json(settings.get("learning")))


def weight_bits(settings: dict[str, Any]) -> int:
    """The bits of a weight that an exact archive was made with."""
    bits = settings.get("weight_bits", 16)
    if type(bits) is not int or not 8 <= bits <= 16:
        raise FormatError("the archive's header is damaged: its weight_bits are out of bounds")
    return bits


def probe_of(predictor: Predictor, mode: Mode, settings: dict[str, Any], lanes: int) -> bytes:
    """The probe of a float mode: long enough to take in an update where the model learns."""
    from fastslow.codec.floating import PROBE_STEPS, probe

    steps = PROBE_STEPS
    if mode in (Mode.ADAPT, Mode.ONLINE):
        window = int(settings["learning"]["window"])
        if window * lanes > MAX_WINDOW_SYMBOLS:
            raise CodecError(
                f"a learning window of {window:,} symbols in {lanes:,} lanes is too large: "
                f"their product may be at most {MAX_WINDOW_SYMBOLS:,}"
            )
        steps = window + 8
    return probe(predictor, lanes, steps)


def recorded_backend(settings: dict[str, Any]) -> str:
    """The engine that a float archive was made with, if there is one of that name; else "auto"."""
    from fastslow.backends import check_name
    from fastslow.codec.floating import Environment

    name = Environment.from_json(settings.get("environment")).backend
    try:
        check_name(name)
    except ValueError:
        return "auto"
    return name


def check_probe(
    predictor: Predictor, header: Header, device: torch.device | str | None = None, backend: str = "auto"
) -> None:
    """NumericsError, with what differs, unless this machine's numbers are those of the archive's maker."""
    if probe_of(predictor, header.mode, header.settings, header.lanes) == header.probe:
        return
    from fastslow.codec.floating import Environment

    made = Environment.from_json(header.settings.get("environment"))
    here = Environment.here(torch.device("cpu" if device is None else device), backend)
    differs = [f"{str(there)[:120]} there, {now} here" for there, now in zip(made, here, strict=True) if there != now]
    raise NumericsError(
        "the archive was made with float numerics on a machine whose arithmetic differs from this one's "
        f"({'; '.join(differs) or 'the same versions, but other numbers'}): decompress it where it was made; "
        "archives in exact mode decode anywhere"
    )


@contextmanager
def threads_for(mode: Mode, settings: dict[str, Any], lanes: int, weights: int) -> Iterator[None]:
    """Run inside with as many of torch's threads as suit; those of before outside.

    Exact mode may choose freely: a small step runs on one thread. A float mode has to take the maker's number.
    """
    before = torch.get_num_threads()
    wanted = before
    if mode == Mode.EXACT:
        wanted = 1 if lanes * weights < _SMALL_STEP else before
    else:
        from fastslow.codec.floating import Environment

        wanted = Environment.from_json(settings.get("environment")).threads
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
