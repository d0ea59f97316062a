from __future__ import annotations

import os

import pytest

from fastslow.cli import main
from fastslow.training.launch import Launch, LaunchError, find_launch

JOB = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def test_one_process() -> None:
    assert find_launch({}) == Launch()
    assert find_launch({"MASTER_ADDR": "node0", "LOCAL_RANK": "0"}) == Launch()
    assert Launch().leads


def test_one_of_several() -> None:
    launch = find_launch(JOB)
    assert launch == Launch(3, 4, 1, None, 0, "node0:29500")
    assert not launch.leads


def test_restarts_of_one_job() -> None:
    env = {**JOB, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}
    first, again = find_launch(env), find_launch({**env, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert (first.restarts, again.restarts) == (0, 2)
    assert first.job == again.job is not None
    assert str(os.getppid()) in first.job


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MASTER_ADDR": None},
            "the environment contains RANK but no MASTER_ADDR: start several processes with torchrun, or",
        ),
        ({"MASTER_ADDR": "", "MASTER_PORT": None}, "contains RANK but no MASTER_ADDR and no MASTER_PORT"),
        ({"RANK": None}, "the environment contains WORLD_SIZE but no RANK"),
        ({"LOCAL_RANK": None}, "the environment contains RANK but no LOCAL_RANK"),
        ({"RANK": "4"}, "RANK in the environment must be a number from 0 to 3; got '4'"),
        ({"RANK": "one"}, "RANK in the environment must be a number from 0 to 3; got 'one'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE in the environment must be a number from 1 to"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT in the environment must be a number from 0 to 65535"),
    ],
)
def test_bad_environments(
    changes: dict[str, str | None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = {name: value for name, value in {**JOB, **changes}.items() if value is not None}
    with pytest.raises(LaunchError, match=message):
        find_launch(env)
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "text.txt"]) == 2
    assert message in capsys.readouterr().err
