from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastslow.errors import DataError
from fastslow.evaluation import Evaluation
from fastslow.evaluation.compare import compare, load_nats, save_nats


def evaluation(nats: np.ndarray | None) -> Evaluation:
    return Evaluation(nats=1.0, symbols=1, streams=1, warm=0, models=1, seconds=0.0, symbol_nats=nats)


def random_nats(seed: int, size: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).exponential(1.0, size).astype(np.float32)


def test_losses_come_back_from_their_file(tmp_path: Path) -> None:
    nats = random_nats(0)
    save_nats(tmp_path / "losses.npy", evaluation(nats))
    again = load_nats(tmp_path / "losses.npy")
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, nats)
    assert [path.name for path in tmp_path.iterdir()] == ["losses.npy"]


def test_a_difference_that_is_everywhere_is_certain() -> None:
    hard = random_nats(1) * 5
    better = hard - np.float32(0.1 * np.log(2)) + np.random.default_rng(2).normal(0, 0.01, hard.size)
    found = compare(evaluation(better.astype(np.float32)), evaluation(hard), block=50)
    assert found.value_bpc == pytest.approx(-0.1, abs=1e-3)
    assert found.excludes_zero
    assert found.high_bpc - found.low_bpc < 0.01
    back = compare(hard, better.astype(np.float32), block=50)
    assert back.value_bpc == pytest.approx(-found.value_bpc)


def test_two_models_no_different_are_not_told_apart() -> None:
    hard = random_nats(3)
    noise = np.random.default_rng(4).normal(0, 0.3, hard.size).astype(np.float32)
    noise -= noise.mean()
    assert not compare(evaluation(hard + noise), evaluation(hard), block=50).excludes_zero


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="per_symbol=True"):
        compare(evaluation(None), evaluation(random_nats(0)))
    with pytest.raises(DataError, match="4,999 and 5,000 symbols"):
        compare(random_nats(0, 4999), random_nats(0))
    with pytest.raises(DataError, match="no such file"):
        load_nats(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match="not a NumPy file"):
        load_nats(tmp_path / "text.npy")
    np.save(tmp_path / "square.npy", np.ones((2, 2)))
    with pytest.raises(DataError, match="does not contain losses"):
        load_nats(tmp_path / "square.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a NumPy file"):
        load_nats(tmp_path / "object.npy")
