"""The cards of the models in `weights/` state the recorded figures; `tests/codec/test_package.py` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments.ptb import PACKAGED
from experiments.report.records import read_records

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("row", PACKAGED)
def test_a_card_states_the_recorded_figures(row: str) -> None:
    record = next(found for found in read_records(ROOT / "experiments" / "records") if found.row == row)
    card = (ROOT / "weights" / PACKAGED[row] / "README.md").read_text(encoding="utf-8")
    for protocol in ("raw", "char"):
        assert f"| {record.mean(protocol):.4f} |" in card
