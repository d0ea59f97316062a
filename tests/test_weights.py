"""The models in `weights/` load, fit in their size, and their cards state the recorded figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments.ptb import PACKAGED
from experiments.report.records import read_records

from fastslow.lm import CharLM

ROOT = Path(__file__).parent.parent
MOST_BYTES = 8 << 20


@pytest.mark.parametrize("row", PACKAGED)
def test_a_packaged_model_and_its_card(row: str) -> None:
    folder = ROOT / "weights" / PACKAGED[row]
    record = next(found for found in read_records(ROOT / "experiments" / "records") if found.row == row)
    lm = CharLM.from_pretrained(folder)
    assert lm.num_parameters == record.parameters
    assert (folder / "model.safetensors").stat().st_size <= MOST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    for protocol in ("raw", "char"):
        assert f"| {record.mean(protocol):.4f} |" in card
    assert f"{record.parameters:,} weights" in card
