from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.alphabet import Alphabet
from fastslow.errors import FastslowError
from fastslow.lm.config import ConfigError, LMConfig, ModelOptions

OPTIONS = ModelOptions(hidden_size=7, dropout=0.1, zoneout_c=1 / 3)


@pytest.mark.parametrize("alphabet", [Alphabet.bytes(), Alphabet(b"\n ab\xff")])
def test_json_round_trip_is_exact(alphabet: Alphabet) -> None:
    config = OPTIONS.with_alphabet(alphabet)
    assert LMConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.options == OPTIONS


@given(st.floats(0, 1), st.integers(1, 65536))
def test_numbers_survive_json(rate: float, size: int) -> None:
    options = ModelOptions(dropout=rate, hidden_size=size)
    assert ModelOptions.from_options_json(json.loads(json.dumps(options.options_json()))) == options


def test_the_slow_size_is_the_fast_one_unless_given() -> None:
    assert ModelOptions(hidden_size=9).slow_size == 9
    assert ModelOptions(hidden_size=9, slow_size=4).slow_size == 4
    assert ModelOptions(architecture="stacked", hidden_size=9).slow_size is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gru"}, "architecture must be one of fs-lstm, stacked, sequential; got 'gru'"),
        ({"hidden_size": 0}, "hidden_size must be a whole number from 1 to 65,536; got 0"),
        ({"hidden_size": 10**9}, "hidden_size must be"),
        ({"hidden_size": True}, "hidden_size must be"),
        ({"embedding_size": 2.5}, "embedding_size must be a whole number"),
        ({"depth": 1}, "depth must be a whole number from 2"),
        ({"slow_size": 0}, "slow_size must be"),
        ({"architecture": "stacked", "slow_size": 3}, "slow_size belongs to architecture fs-lstm"),
        ({"dropout": 1.5}, "dropout must be a number from 0 to 1; got 1.5"),
        ({"zoneout_h": float("nan")}, "zoneout_h must be a number"),
        ({"dropout": "0.5"}, "dropout must be a number"),
        ({"layer_norm": 1}, "layer_norm must be true or false"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelOptions(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not that of a fastslow language model"),
        ({"format_version": 2}, r"was written by a newer fastslow \(format 2; this one reads up to 1\): upgrade"),
        ({"format_version": None}, "has no format_version"),
        ({"format_version": True}, "has no format_version"),
        ({"bidirectional": True}, "has an unknown field 'bidirectional'"),
        ({"hidden_size": "seven"}, "is damaged: hidden_size must be"),
        ({"alphabet": {"kind": "emoji"}}, "is damaged: the kind of a stored alphabet"),
        ({"alphabet": None}, "is damaged: a stored alphabet"),
    ],
)
def test_stored_configurations_that_are_none(change: dict[str, Any], message: str) -> None:
    value = {**OPTIONS.with_alphabet(Alphabet.bytes()).to_json(), **change}
    with pytest.raises(FastslowError, match=message):
        LMConfig.from_json(value)


def test_a_missing_field_is_named() -> None:
    value = OPTIONS.with_alphabet(Alphabet.bytes()).to_json()
    del value["depth"]
    with pytest.raises(ConfigError, match="has no field 'depth'"):
        LMConfig.from_json(value)


def test_an_alphabet_is_needed() -> None:
    with pytest.raises(ConfigError, match="alphabet must be an Alphabet; got bytes"):
        OPTIONS.with_alphabet(b"abc")  # type: ignore[arg-type]


def test_a_cell_goes_without_saying_where_it_is_an_lstm() -> None:
    """Files of versions without other cells read the same, and a GRU's are read back."""
    old = LMConfig(alphabet=Alphabet.bytes()).to_json()
    assert "cell" not in old
    assert LMConfig.from_json(old).cell == "lstm"
    gru = LMConfig(alphabet=Alphabet.bytes(), cell="gru", zoneout_h=0.1)
    assert gru.to_json()["cell"] == "gru"
    assert LMConfig.from_json(gru.to_json()) == gru
    with pytest.raises(ConfigError, match="zoneout_c must be 0 with cell gru"):
        ModelOptions(cell="gru", zoneout_c=0.1)
    with pytest.raises(ConfigError, match="cell must be one of lstm, gru; got 'mgu'"):
        ModelOptions(cell="mgu")  # type: ignore[arg-type]
