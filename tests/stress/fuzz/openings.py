"""The ways in which a damaged run is opened, and the required result of each."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.stress.fuzz.cases import Case
from tests.stress.fuzz.files import Failure, one_line, require, write_files

WHOLE_COMMANDS = 20
"""Every so many cases, `evaluate` and `info` also go through the argument parser, which is slower."""


class Opened(BaseException):
    """Raised to end a resumed run before it trains."""


SCORED = b"3 times 4 is 12\n5 times"


def open_model(folder: Path, case: Case) -> None:
    import torch

    from fastslow.errors import AlphabetError, FastslowError
    from fastslow.evaluation import evaluate
    from fastslow.lm import CharLM

    lm = CharLM.from_pretrained(folder)
    for name, value in lm.state_dict().items():
        require(bool(torch.isfinite(value).all()), f"{name} of the model is not finite")
    if case.blind and (folder / "config.json").read_bytes() == case.original.files["config.json"]:
        check_same("model.safetensors", "", lm.state_dict(), case)
    try:
        found = evaluate(lm, SCORED)
        require(math.isfinite(found.bpc), "the score is not finite")
    except AlphabetError:
        pass
    except FastslowError as error:
        one_line(error)


def open_checkpoint(folder: Path, case: Case) -> None:
    import torch

    from fastslow.lm import CharLM
    from fastslow.lm.files import read_config
    from fastslow.state import state_tensors
    from fastslow.training import read_record, resume
    from fastslow.training.checkpoint import read_checkpoint
    from fastslow.training.events import Event

    def stop(event: Event) -> None:
        if type(event).__name__ == "Started":
            raise Opened

    with contextlib.suppress(Opened):
        resume(folder, progress=stop)
        raise Failure("the run did not start")
    lm = CharLM(read_config(folder), backend="reference")
    batch = read_record(folder).train.batch
    stored = read_checkpoint(folder, lm, batch)
    if stored is None:
        require("checkpoint.safetensors" not in case.files, "the checkpoint was not seen")
        return
    groups = {"model": stored.model, "adam": stored.adam, "average": stored.average}
    for group, tensors in groups.items():
        for name, value in tensors.items():
            require(bool(torch.isfinite(value).all()), f"{group}.{name} is not finite")
    if stored.state is not None:
        for one, like in zip(state_tensors(stored.state), state_tensors(lm.initial_state(batch)), strict=True):
            require(one.shape == like.shape and one.dtype == like.dtype, "the carried state has another shape")
    position = stored.position
    require(position.update >= 0 and position.elapsed >= 0, f"the position is {position}")
    if case.blind:
        for group, tensors in {**groups, "rng": stored.rng}.items():
            check_same("checkpoint.safetensors", f"{group}.", tensors, case)


def open_evaluation(folder: Path, case: Case) -> None:
    from fastslow.cli.evaluate import evaluate

    if case.number % WHOLE_COMMANDS == 0:
        command(["evaluate", str(folder), "--json", "--int8"])
    else:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evaluate((str(folder),))


def open_info(folder: Path, case: Case) -> None:
    from fastslow.cli.info import info

    out = io.StringIO()
    if case.number % WHOLE_COMMANDS == 0:
        command(["info", str(folder)])
        out.write(command(["info", str(folder), "--json"]))
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            info(str(folder))
        with contextlib.redirect_stdout(out):
            info(str(folder), json=True)
    json.loads(out.getvalue(), parse_constant=refuse)


def open_records(folder: Path, case: Case) -> None:
    from experiments.report.records import Record, record_of_runs

    from fastslow.errors import FastslowError
    from fastslow.training import read_metrics

    try:
        for line in read_metrics(folder):
            json.dumps(line, allow_nan=False)
    except FastslowError as error:
        one_line(error)
    record = record_of_runs("fuzz", [folder], table="ptb", model="small", command="none")
    Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)), "the record")


OPENINGS: dict[str, Callable[[Path, Case], None]] = {
    "model": open_model,
    "evaluate": open_evaluation,
    "info": open_info,
    "records": open_records,
    "resume": open_checkpoint,  # last: it writes
}


def command(arguments: list[str]) -> str:
    """The output of a command with its arguments parsed as in a terminal; FastslowError if it exits with status 2."""
    from fastslow.cli.app import main
    from fastslow.errors import FastslowError

    out, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
        status = main(arguments)
    if status == 0:
        return out.getvalue()
    told = complaint.getvalue()
    require(
        status == 2 and told.startswith("fastslow: error: ") and told.count("\n") == 1, f"status {status}: {told!r}"
    )
    raise FastslowError(told.removeprefix("fastslow: error: ").strip())


def refuse(constant: str) -> None:
    raise Failure(f"{constant} is not JSON")


def check_same(file: str, prefix: str, tensors: dict[str, Any], case: Case) -> None:
    """A file with valid checksums must contain the stored values, dtypes and shapes."""
    stored = case.original.tensors[file]
    for name, value in tensors.items():
        bits = value.detach().contiguous().reshape(-1).numpy().tobytes()
        require(stored[prefix + name].startswith(bits), f"{prefix}{name} differs from the value stored in {file}")


def open_case(case: Case, folder: Path) -> Iterator[tuple[str, str, BaseException | None]]:
    """(opening, result, exception) of each; the result is loaded, refused or failed."""
    from fastslow.errors import FastslowError

    write_files(folder, case.files)
    for name, opening in OPENINGS.items():
        try:
            opening(folder, case)
            yield name, "loaded", None
        except FastslowError as error:
            try:
                one_line(error)
                yield name, "refused", error
            except Failure as failure:
                yield name, "failed", failure
        except Exception as error:
            yield name, "failed", error
