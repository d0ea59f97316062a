from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastslow.data.text import Text
from fastslow.dynamics.study import StudySettings, baseline_of, cells_of, group, measure, write_data
from fastslow.errors import DataError
from fastslow.evaluation import evaluate

from .linear import TEXT, random_lm
from .made import everything, made

SETTINGS = StudySettings(lags=5, streams=2, windows=2, targets=3, steps=50, longest=4)


def test_cells_have_names_and_say_what_their_slot_carries() -> None:
    assert [(c.name, c.node, c.slot, c.carried) for c in cells_of(random_lm(depth=3))] == [
        ("fast 1", "fast.0", "fast", False),
        ("slow", "slow", "slow", True),
        ("fast 2", "fast.1", "fast", False),
        ("fast 3", "fast.2", "fast", True),
    ]
    stack = cells_of(random_lm(architecture="stacked", depth=2))
    assert [(c.name, c.carried) for c in stack] == [("layer 1", True), ("layer 2", True)]
    assert [c.name for c in cells_of(random_lm(architecture="sequential", depth=2))] == ["cell 1", "cell 2"]


def test_a_model_is_measured_three_ways() -> None:
    lm = random_lm(depth=3, layer_norm=True)
    told: list[str] = []
    found = measure("runs/a", lm, Text.of(TEXT, "text"), SETTINGS, on_progress=lambda what, *_: told.append(what))
    assert set(told) == {"gradients", "losses"}
    assert found.gradients.mean.shape == (4, 6)
    assert found.change.mean.shape == (4,)
    assert found.words.nats.shape == (5,)
    assert found.parameters == lm.num_parameters
    scored = evaluate(lm, TEXT)
    assert (found.symbols, found.bpc) == (scored.symbols, pytest.approx(scored.bpc))
    assert found.words.nats.sum() == pytest.approx(scored.nats, rel=1e-5)
    assert found.words.symbols.sum() == scored.symbols
    with pytest.raises(DataError, match="too short"):
        measure("runs/a", lm, Text.of(TEXT[:300], "text"), SETTINGS)


def test_models_of_one_network_are_a_group() -> None:
    groups = group(everything(seeds=3))
    assert [(g.label, len(g.members)) for g in groups] == [
        ("FS-LSTM-2", 3),
        ("stacked LSTM-2", 3),
        ("sequential LSTM-2", 3),
    ]
    fs = groups[0]
    assert fs.bpc == pytest.approx(1.491)
    assert fs.bpc_deviation == pytest.approx(0.001)
    np.testing.assert_allclose(fs.change, np.array([0.2, 0.001, 0.25]) * 1.1)
    np.testing.assert_allclose(fs.change_range[1], np.array([0.2, 0.001, 0.25]) * 1.2)
    np.testing.assert_allclose(fs.gradients[1], 0.1 * (1.01 * 1.02) ** (1 / 3) * 0.99 ** np.arange(21))
    np.testing.assert_allclose(fs.gradients_range[0][1], 0.1 * 0.99 ** np.arange(21))
    assert fs.words[4] == pytest.approx(1.3)
    assert baseline_of(groups).architecture == "stacked"
    assert baseline_of(groups[:1]) is groups[0]
    assert group([made("stacked")])[0].bpc_deviation is None


def test_networks_that_differ_have_labels_that_differ() -> None:
    first, second = made("fs-lstm"), made("fs-lstm", hidden_size=9)
    third = replace(second, options=replace(second.options, dropout=0.1))
    assert [g.label for g in group([first, made("stacked"), second])] == [
        "FS-LSTM-2 (8, slow 8)",
        "FS-LSTM-2 (9, slow 9)",
        "stacked LSTM-2",
    ]
    assert [g.label for g in group([second, third])] == ["FS-LSTM-2 (9, slow 9) no. 1", "FS-LSTM-2 (9, slow 9) no. 2"]


def test_the_data_is_written_as_json_and_tables(tmp_path: Path) -> None:
    groups = group(everything(seeds=2))
    text = Text.of(TEXT, "text")
    paths = write_data(tmp_path / "out", groups, text, SETTINGS, [{"claim": "c"}])
    assert [path.name for path in paths] == [
        "dynamics.json",
        "gradient-norms.csv",
        "memory-change.csv",
        "word-positions.csv",
    ]
    value = json.loads(paths[0].read_text())
    assert value["text"]["sha256"] == text.sha256
    assert [len(g["models"]) for g in value["groups"]] == [2, 2, 2]
    assert value["groups"][0]["models"][0]["gradient_norms"]["mean"] == groups[0].members[0].gradients.mean.tolist()

    norms, changes, words = (list(csv.DictReader(path.read_text().splitlines())) for path in paths[1:])
    assert len(norms) == 2 * 21 * (3 + 2 + 2)
    (slow,) = [r for r in norms if r["model"] == "runs/fs-lstm-1" and r["cell"] == "slow" and r["lag"] == "20"]
    assert float(slow["norm"]) == pytest.approx(0.101 * 0.99**20)
    assert (slow["network"], slow["node"], slow["slot"], slow["carried"]) == ("FS-LSTM-2", "slow", "slow", "1")
    assert len(changes) == 2 * 7
    (row,) = [r for r in words if r["model"] == "runs/fs-lstm-0" and r["position"] == "4"]
    assert float(row["bpc"]) == pytest.approx(1.3)
    assert float(row["relative"]) == pytest.approx(1.3 / 1.5)
    assert row["symbols"] == "100"
