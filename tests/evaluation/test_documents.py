"""Documents: evaluated together as each by itself, and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastslow.cli.evaluate import evaluate as evaluate_command
from fastslow.data.alphabet import Alphabet
from fastslow.data.text import Text
from fastslow.errors import FastslowError
from fastslow.evaluation import Evaluation, evaluate
from fastslow.lm import CharLM, LMConfig
from fastslow.lm.config import ConfigError
from fastslow.training import TrainConfig, train
from fastslow.training.sources import DataSource

LINES = [b"the quick brown fox\n", b"jumps\n", b"\n", b"over the lazy dog\n"] * 3


def model(cell: str = "lstm") -> CharLM:
    torch.manual_seed(0)
    return CharLM(LMConfig(alphabet=Alphabet.bytes(), embedding_size=8, hidden_size=12, cell=cell))  # type: ignore[arg-type]


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_each_line_is_scored_as_if_it_were_alone(streams: int, cell: str) -> None:
    lm = model(cell)
    text = b"".join(LINES)
    got = evaluate(lm, text, streams=streams, documents="lines", per_symbol=True)
    assert got.symbol_nats is not None
    alone = [
        evaluate(lm, line, per_symbol=True).symbol_nats for line in (LINES[0], *(b"\n" + line for line in LINES[1:]))
    ]
    expected = np.concatenate([nats for nats in alone if nats is not None])
    if streams == 1:
        np.testing.assert_allclose(got.symbol_nats, expected, rtol=1e-4, atol=1e-5)
    assert "a zero state at the start of each line" in got.protocol
    assert Evaluation.from_json(json.loads(json.dumps(got.to_json()))).documents == "lines"
    assert evaluate(lm, text).documents is None


def test_training_on_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The state starts anew at each line in training and in tests; a run says so, and evaluation follows it."""
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, size=int(rng.integers(3, 9)), dtype=np.uint8)) for _ in range(20)]
    lines = [words[i] + b" " + words[i] + b"\n" for i in rng.integers(0, 20, size=600)]
    path = tmp_path / "lines.txt"
    path.write_bytes(b"".join(lines))
    source = DataSource(texts=(str(path),), documents="lines", alphabet="text")
    options = LMConfig(alphabet=Alphabet.bytes(), embedding_size=8, hidden_size=24, cell="gru").options
    recipe = TrainConfig(
        batch=4, window=25, epochs=1, max_updates=25, rate=1e-2, schedule="constant", tensorboard=False
    )
    result = train(options, recipe, source, tmp_path / "run")
    assert result.test is not None
    assert result.test.documents == "lines"
    evaluate_command((str(tmp_path / "run"),))
    assert "a zero state at the start of each line" in capsys.readouterr().out
    evaluate_command((str(tmp_path / "run"),), documents="none")
    assert "a zero state at the start" not in capsys.readouterr().out
    assert DataSource.from_json(source.to_json()).documents == "lines"
    assert "documents" not in DataSource(texts=("x",)).to_json()
    with pytest.raises(ConfigError, match="documents must be files or lines; got 'words'"):
        DataSource(texts=("x",), documents="words")  # type: ignore[arg-type]


def test_a_text_of_files(tmp_path: Path) -> None:
    lm = model()
    parts = [b"abc def", b"ghi", b"jkl mno"]
    text = Text(np.frombuffer(b"".join(parts), dtype=np.uint8), "files", starts=(0, 7, 10))
    got = evaluate(lm, text, documents="files", per_symbol=True).symbol_nats
    alone = [parts[0], b"f" + parts[1], b"i" + parts[2]]
    expected = np.concatenate([evaluate(lm, part, per_symbol=True).symbol_nats for part in alone])  # type: ignore[misc]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_options_that_read_one_document_say_so(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"".join(LINES))
    for options in ({"dynamic": True}, {"fit_temperature": str(text)}):
        with pytest.raises(FastslowError, match="one document"):
            evaluate_command(("english", str(text)), documents="lines", **options)  # type: ignore[arg-type]
