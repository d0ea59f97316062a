"""A case: a run with one or two changed files."""

from __future__ import annotations

import contextlib
import copy
import random
from dataclasses import dataclass, field

from tests.stress.fuzz.blind import BLIND
from tests.stress.fuzz.files import FILES, METRICS, TENSOR_FILES, Folder
from tests.stress.fuzz.originals import Original
from tests.stress.fuzz.records import other_alphabet, same_in_both, structured_json, structured_metrics
from tests.stress.fuzz.tensors import structured_tensors


@dataclass
class Case:
    """A damaged run. blind: the changes do not depend on the format."""

    original: Original
    files: Folder
    number: int = 0
    changes: list[str] = field(default_factory=list)
    blind: bool = True


def make_case(originals: list[Original], seed: int, number: int) -> Case:
    """Case `number` of a seed; deterministic."""
    draw = random.Random(f"{seed}-{number}")
    original = draw.choice(originals)
    case = Case(original, copy.copy(original.files), number)
    for _ in range(draw.choice([1, 1, 1, 1, 2])):
        name = draw.choice([*(name for name in FILES if case.files.get(name)), *TENSOR_FILES])
        if not case.files.get(name):
            continue
        if draw.random() < 0.45:
            case.changes.append(_blindly(draw, case, name, originals))
        else:
            case.blind = False
            # A file that was already damaged may have no structure left.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError):
                case.changes.append(_knowingly(draw, case, name))
    return case


def _knowingly(draw: random.Random, case: Case, name: str) -> str:
    if name in TENSOR_FILES:
        return structured_tensors(draw, case.files, name)
    if name == METRICS:
        return structured_metrics(draw, case.files, name)
    if name == "config.json" and draw.random() < 0.25:
        return other_alphabet(draw, case.files, name)
    if name in ("config.json", "run.json") and draw.random() < 0.25:
        return same_in_both(draw, case.files, name)
    return structured_json(draw, case.files, name)


def _blindly(draw: random.Random, case: Case, name: str, originals: list[Original]) -> str:
    how = draw.randrange(40)
    if how == 0:
        del case.files[name]
        return f"no {name}"
    if how == 1:
        case.files[name] = None
        return f"{name} is a folder"
    if how == 2:
        case.files[name] = b""
        return f"{name} is empty"
    if how == 3:
        other = draw.choice([*case.original.files])
        case.files[name] = case.original.files[other]
        case.blind = False
        return f"{name} is {other}"
    if how == 4:
        other_run = draw.choice(originals)
        case.files[name] = other_run.files.get(name, b"")
        case.blind = False
        return f"{name} of {other_run.name}"
    data = bytearray(case.files[name] or b"")
    change = draw.choice(BLIND)
    change(draw, data)
    case.files[name] = bytes(data)
    return f"{change.__name__} of {name}"
