"""Records and plan as the Markdown of `RESULTS.md`. Equal records give equal text."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report.plan import TABLES, Row, Table
from experiments.report.records import Record

_HEAD = """# Results

Built from the records in `experiments/records/` by `python -m experiments.report build`; do not edit it. A figure is
the mean over seeds ± the sample's standard deviation. Every row names the command that measures it;
"not run" means just that.
"""


def results_markdown(records: Sequence[Record]) -> str:
    """The full text of `RESULTS.md`."""
    tables = [_table(table, [record for record in records if record.table == table.name]) for table in TABLES]
    return "\n".join([_HEAD, *tables])


def _table(table: Table, records: Sequence[Record]) -> str:
    protocols = [f"BPC ({name})" for name in table.protocols]
    columns = ["model", "parameters", "paper", *protocols, "seeds", "scored", "machine", "time", "date", "command"]
    lines = [f"## {table.title}", "", table.about, ""]
    lines += [_line(columns), _line(["---"] * len(columns))]
    planned = {row.name for row in table.rows}
    for row in table.rows:
        measured = [record for record in records if record.row == row.name]
        lines += [_measured(table, record, row) for record in measured] or [_not_run(table, row)]
    lines += [_measured(table, record, None) for record in records if record.row not in planned]
    notes = [f"- {record.model}: {record.note}" for record in records if record.note]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def _measured(table: Table, record: Record, row: Row | None) -> str:
    figures = []
    for protocol in table.protocols:
        mean, deviation = record.mean(protocol), record.deviation(protocol)
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        figures.append("" if mean is None else f"**{mean:.4f}**{spread}")
    seeds = ", ".join("+".join(map(str, score.seeds)) for score in record.scores)
    machine = record.machine + (f" ({record.engine})" if record.engine else "")
    return _line(
        [
            record.model,
            f"{record.parameters:,}",
            _paper(row),
            *figures,
            seeds,
            record.evaluation,
            machine,
            duration(record.seconds),
            record.date,
            f"`{record.command}`",
        ]
    )


def _not_run(table: Table, row: Row) -> str:
    figures = ["not run", *[""] * (len(table.protocols) - 1)]
    return _line([row.model, "", _paper(row), *figures, "", "", "", "", "", f"`{row.command}`"])


def _paper(row: Row | None) -> str:
    if row is None or not row.paper_bpc:
        return ""
    size = f", {row.paper_parameters}" if row.paper_parameters else ""
    return f"{row.paper_bpc} ({row.protocol}{size})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
