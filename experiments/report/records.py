"""Records of runs: results with method, machine and date; one JSON file each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from experiments.report.plan import TABLES, find_row
from fastslow.errors import FastslowError
from fastslow.storage import check_fields, check_version, is_finite_number, read_json, write_json
from fastslow.training.folder import RESULT_FILE, RunRecord, read_record, read_result

FORMAT = "fastslow-result"
FORMAT_VERSION = 1


class RecordError(FastslowError):
    """A damaged record, or runs from which no record can be made."""


@dataclass(frozen=True)
class Score:
    """One result: the seed, or seeds of an ensemble, and the bits per character by each protocol."""

    seeds: tuple[int, ...]
    bpc: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row's measurement.

    row: the name of the planned row, or a new one. table: its table. model: a description of the model.
    parameters: the total, for an ensemble that of all models. evaluation: how the text was scored.
    scores: one per run or ensemble. command: the command that measured it. machine, date (2026-01-31). seconds:
    training and evaluation of all scores. engine: the engine that ran the network. note: a note for readers.
    """

    row: str
    table: str
    model: str
    parameters: int
    evaluation: str
    scores: tuple[Score, ...]
    command: str
    machine: str
    seconds: float
    date: str
    engine: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        texts = ("row", "table", "model", "evaluation", "command", "machine", "date", "engine", "note")
        for name in texts:
            value = getattr(self, name)
            if not isinstance(value, str) or "\n" in value:
                raise RecordError(f"{name} of a record must be a line of text; got {str(value)[:40]!r}")
        if self.table not in {table.name for table in TABLES}:
            known = ", ".join(table.name for table in TABLES)
            raise RecordError(f"a record's table must be one of {known}; got {self.table[:40]!r}")
        if not self.scores or any(not score.bpc or not score.seeds for score in self.scores):
            raise RecordError(f"the record of {self.row} has no scores")
        for score in self.scores:
            if any(not is_finite_number(value) or value < 0 for value in score.bpc.values()):
                raise RecordError(f"a score of {self.row} is not a number of bits: {dict(score.bpc)}")
            if score.bpc.keys() != self.scores[0].bpc.keys():
                raise RecordError(f"the scores of {self.row} use different protocols")

    def mean(self, protocol: str) -> float | None:
        """Mean over scores, or None if they do not use this protocol."""
        values = [score.bpc[protocol] for score in self.scores if protocol in score.bpc]
        return statistics.fmean(values) if values else None

    def deviation(self, protocol: str) -> float | None:
        """The sample's standard deviation, or None for a single score."""
        values = [score.bpc[protocol] for score in self.scores if protocol in score.bpc]
        return statistics.stdev(values) if len(values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["scores"] = [{"seeds": list(score.seeds), "bpc": dict(score.bpc)} for score in self.scores]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Record:
        """The inverse of `to_json`. Raises RecordError for anything else."""
        if value.get("format") != FORMAT:
            raise RecordError(f"{where} is not a record of a result: its format is not {FORMAT!r}")
        check_version(value, FORMAT_VERSION, where, RecordError)
        names = [field.name for field in fields(cls)]
        check_fields(value, ("format", "format_version", *names), where, RecordError)
        given = {name: value[name] for name in names}
        try:
            given["scores"] = tuple(
                Score(tuple(int(seed) for seed in score["seeds"]), {str(k): float(v) for k, v in score["bpc"].items()})
                for score in value["scores"]
            )
            given["parameters"], given["seconds"] = int(value["parameters"]), float(value["seconds"])
            if not math.isfinite(given["seconds"]):
                raise ValueError("seconds is not a number")
            return cls(**given)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RecordError(f"{where} is damaged: {str(error)[:120]}") from error
        except RecordError as error:
            raise RecordError(f"{where} is damaged: {error}") from error


def read_records(folder: Path) -> list[Record]:
    """The records in `folder`, by date and file name; empty without a folder. Raises RecordError or ModelError."""
    found = [
        (path.name, Record.from_json(read_json(path, what="the record"), f"the record {path}"))
        for path in folder.glob("*.json")
    ]
    return [record for _, record in sorted(found, key=lambda pair: (pair[1].date, pair[0]))]


def write_record(folder: Path, record: Record) -> Path:
    """Write `record` to `folder`, under the name of its row; returns the path. Raises StorageError."""
    from fastslow.lm.files import make_folder

    make_folder(folder)
    path = folder / f"{record.row}.json"
    write_json(path, record.to_json(), what="the record")
    return path


# ---------------------------------------------------------------------- from run folders


def record_of_runs(
    row: str,
    runs: Sequence[Path],
    *,
    evaluation: Path | None = None,
    table: str | None = None,
    model: str | None = None,
    command: str | None = None,
    note: str = "",
) -> Record:
    """The record of complete runs of one network: one score per run, or one for all by an evaluation of their ensemble.

    evaluation: what the output of `fastslow evaluate RUN... TEXT --json`; by default each run's own test.
    table, model, command: default: those of the planned row, which must exist if one of them is missing.

    Raises RecordError for runs without a result or of different networks; ModelError for damaged files.
    """
    planned = find_row(row)
    if planned is None and (table is None or model is None or command is None):
        raise RecordError(f"there is no planned row {row}: pass table, model and command")
    if not runs:
        raise RecordError(f"a record of {row} needs at least one run")
    told = [read_record(run) for run in runs]
    if evaluation is None and any(one.model != told[0].model for one in told):
        raise RecordError(f"the runs of {row} are of different networks: evaluate them together and pass the result")
    of_table = table or (planned[0].name if planned else "")
    results = [_result(run) for run in runs]
    seconds = sum(float(result["seconds"]) for result in results)
    if evaluation is None:
        tests = [result["test"] for result in results]
        if any(test is None for test in tests):
            raise RecordError(f"the runs of {row} had no test text: evaluate them and pass the result")
        scores = tuple(Score((one.train.seed,), _bpc(test, of_table)) for one, test in zip(told, tests, strict=True))
        how = tests[0]["protocol"]
        seconds += sum(float(test["seconds"]) for test in tests)
        parameters = _parameters(told[0])
    else:
        scored = read_json(evaluation, what="the evaluation")
        try:
            scores = (Score(tuple(one.train.seed for one in told), _bpc(scored, of_table)),)
            how, seconds = str(scored["protocol"]), seconds + float(scored["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RecordError(f"{evaluation} is not the output of `fastslow evaluate --json`") from error
        parameters = sum(_parameters(one) for one in told)
    last = told[-1].sessions[-1]  # there is one: checked by `_parameters`
    return Record(
        row=row,
        table=of_table,
        model=model or (planned[1].model if planned else ""),
        parameters=parameters,
        evaluation=how,
        scores=scores,
        command=command or (planned[1].command if planned else ""),
        machine=_machine(last),
        seconds=seconds,
        date=max(str(one.sessions[-1]["started"])[:10] for one in told),
        engine=str(last.get("engine", "")).split(";")[0],
        note=note,
    )


def _result(run: Path) -> dict[str, Any]:
    path = Path(run) / RESULT_FILE
    if not path.is_file():
        raise RecordError(f"{run} is not complete: it has no {RESULT_FILE}; resume it first")
    result = read_result(run)
    if result["status"] != "completed":
        raise RecordError(f"{path} is not the result of a complete run")
    return result


def _bpc(test: Mapping[str, Any], table: str) -> dict[str, float]:
    protocols = next(t.protocols for t in TABLES if t.name == table)
    scored = {protocols[0]: float(test["bpc"])}
    char = test.get("char_protocol")
    if char is not None and "char" in protocols:
        scored["char"] = float(char["bpc"])
    return scored


def _parameters(record: RunRecord) -> int:
    if not record.sessions:
        raise RecordError("the run's record has no session: it was never trained")
    return int(record.sessions[-1]["parameters"])


def _machine(session: Mapping[str, Any]) -> str:
    told = session.get("machine") or {}
    if told.get("gpu"):
        return str(told["gpu"])
    return f"{told.get('processor', 'unknown processor')}, {told.get('threads', '?')} threads"
