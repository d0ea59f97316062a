"""`python -m experiments.report build`, and `... add ROW RUN...` to record runs first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.report.records import read_records, record_of_runs, write_record
from experiments.report.table import results_markdown
from fastslow.errors import FastslowError
from fastslow.storage import ModelError, write_bytes

RECORDS = Path("experiments/records")
RESULTS = Path("RESULTS.md")


def build(*, records: Path = RECORDS, out: Path = RESULTS, check: bool = False) -> None:
    """Write RESULTS.md from the records.

    Args:
        records: the folder of the records
        out: the file to write
        check: write nothing, and fail if the file is out of date
    """
    text = results_markdown(read_records(records))
    if check:
        if not out.is_file() or out.read_text("utf-8") != text:
            raise ModelError(f"{out} is out of date with the records in {records}: build it again")
        return

    write_bytes(out, text.encode())


def add(
    row: Annotated[str, tyro.conf.Positional],
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    evaluation: Path | None = None,
    table: str | None = None,
    model: str | None = None,
    command: str | None = None,
    note: str = "",
    records: Path = RECORDS,
) -> None:
    """Record complete runs of one network as a row.

    Args:
        row: the planned row's name, or a new one
        runs: their folders, one per seed
        evaluation: the JSON of `fastslow evaluate RUN... TEXT --json`, for ensembles and dynamic evaluation
        table: the table for a new row
        model: a description of the model
        command: the command that measures it
        note: a note for readers
        records: the folder of the records
    """
    record = record_of_runs(row, runs, evaluation=evaluation, table=table, model=model, command=command, note=note)
    print(write_record(records, record))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"build": build, "add": add}, prog="python -m experiments.report", args=arguments
        )
    except FastslowError as error:
        print(f"fastslow: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
