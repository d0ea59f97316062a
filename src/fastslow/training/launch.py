"""The other processes of a job, from the environment variables set by torchrun."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from fastslow.errors import FastslowError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that are set in every process of a job."""

HOW = "start several processes with torchrun, or unset RANK and WORLD_SIZE to train with one process"


class LaunchError(FastslowError):
    """The processes of the job were not started correctly, or cannot be reached."""


@dataclass(frozen=True)
class Launch:
    """This process and its place in the job.

    rank: 0 to size - 1. local_rank: the rank on this machine.
    job: identifies the job across restarts of its processes; None without torchrun.
    restarts: how often torchrun has restarted the processes after a failure.
    address: where the processes connect.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    job: str | None = None
    restarts: int = 0
    address: str = ""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """The place of this process; a single process if the environment has no others. Raises LaunchError."""
    env = os.environ if environment is None else environment
    if "RANK" not in env and "WORLD_SIZE" not in env:
        return Launch()
    missing = [name for name in NEEDED if not env.get(name)]
    if missing:
        there = "RANK" if "RANK" in env else "WORLD_SIZE"
        raise LaunchError(f"the environment contains {there} but no {' and no '.join(missing)}: {HOW}")
    size = _number(env, "WORLD_SIZE", 1, 10**6)
    rank = _number(env, "RANK", 0, size - 1)
    local_rank = _number(env, "LOCAL_RANK", 0, rank)
    port = _number(env, "MASTER_PORT", 0, 65535)
    job = None
    if "TORCHELASTIC_RUN_ID" in env:
        # torchrun's agent is the parent of all processes and outlives them.
        job = f"{env['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()}"
    restarts = _number(env, "TORCHELASTIC_RESTART_COUNT", 0, 10**9)
    return Launch(rank, size, local_rank, job, restarts, f"{env['MASTER_ADDR']}:{port}")


def _number(env: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = env.get(name, "0")
    if not text.isdecimal() or not low <= int(text) <= high:
        raise LaunchError(f"{name} in the environment must be a number from {low} to {high}; got {text[:40]!r}: {HOW}")
    return int(text)
