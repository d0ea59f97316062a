from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from fastslow.lm.config import ConfigError
from fastslow.training import TrainConfig, parse_duration
from fastslow.training.config import CHANGEABLE


def test_the_defaults_are_the_authors_recipe_for_penn_treebank() -> None:
    config = TrainConfig()
    assert (config.batch, config.window, config.epochs) == (128, 150, 200)
    assert (config.rate, config.schedule, config.decay, config.decay_epoch) == (2e-3, "step", 0.1, 181)
    assert (config.clip, config.beta1, config.beta2, config.epsilon) == (1.0, 0.9, 0.999, 1e-8)
    assert (config.average, config.random_offset, config.test_streams, config.warmup) == (0.0, False, 1, 0)


def test_json_round_trip_is_exact() -> None:
    config = TrainConfig(rate=1 / 3, max_time=5400, max_updates=7, schedule="plateau")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_stored_recipes_that_are_none() -> None:
    value = TrainConfig().to_json()
    with pytest.raises(ConfigError, match="the recipe has an unknown field 'momentum'"):
        TrainConfig.from_json({**value, "momentum": 0.9})
    del value["clip"]
    with pytest.raises(ConfigError, match="the recipe has no field 'clip'"):
        TrainConfig.from_json(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be a whole number from 1 to 1,000,000,000; got 0"),
        ({"batch": 1.5}, "batch must be a whole number"),
        ({"accumulate": 0}, "accumulate must be a whole number from 1 to 128; got 0"),
        ({"batch": 4, "accumulate": 5}, "accumulate must be a whole number from 1 to 4; got 5"),
        ({"window": True}, "window must be a whole number"),
        ({"rate": -1.0}, "rate must be a number from 0 to 1,000"),
        ({"rate": float("nan")}, "rate must be a number"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"beta2": 1.0}, "beta2 must be a number at least 0 and below 1; got 1.0"),
        ({"average": 1}, "average must be a number at least 0 and below 1"),
        ({"schedule": "linear"}, "schedule must be one of constant, step, plateau, cosine; got 'linear'"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9,223,372,036,854,775,807; got -1"),
        ({"max_updates": 0}, "max_updates must be"),
        ({"max_time": -1}, "max_time must be"),
        ({"average": 0.9, "average_from": 0.5}, "average and average_from cannot be combined"),
        ({"average_from": 1}, "average_from must be a number at least 0 and below 1"),
        ({"window": 9, "jitter": 5}, "jitter must be a whole number from 0 to 4; got 5"),
        ({"reset": 1.5}, "reset must be a number from 0 to 1"),
        ({"tensorboard": 1}, "tensorboard must be true or false"),
        ({"anneal_by_time": True}, "got schedule step and max_time None: change them, or turn it off"),
    ],
)
def test_bad_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**options)


def test_changeable_fields_exist() -> None:
    assert set(CHANGEABLE) <= {field.name for field in fields(TrainConfig)}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("1h30m", 5400), ("45s", 45), ("90", 90), ("1.5h", 5400), (" 2D ", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "90x", "-5m", "1h 30m", "0s", "1e9h", "9" * 400 + "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="a duration"):
        parse_duration(text)
