"""The processes of a job that train one model together, started by torchrun.

Each *rank* owns some columns of the batch, the same ones throughout, since their states are carried from window to
window. What the ranks must agree on - when to stop, what the best validation was, what is in the checkpoint - they
exchange here, through gloo, in numbers, JSON and bytes; gradients go through gloo on CPUs and NCCL on GPUs. Rank 0
writes files and logs; its failures are raised on all ranks, so that none waits for it.

One process alone is a `Ranks` too, and exchanges nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from fastslow.data.streams import rank_columns
from fastslow.errors import FastslowError
from fastslow.lm.config import ConfigError
from fastslow.state import map_state
from fastslow.training.launch import Launch, LaunchError, find_launch

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another, at the start and at every exchange, before it gives the job up."""


class LostError(FastslowError):
    """The other processes do not answer."""


class ElsewhereError(FastslowError):
    """Another rank has failed, and its job with it."""


class Ranks:
    """One process alone; `Group` is several."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.rank, self.size = launch.rank, launch.size

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def columns(self, count: int) -> slice | None:
        """The part of `count` streams that is this rank's; None where there are too few for it to have one."""
        return rank_columns(count, self.rank, min(self.size, count)) if self.rank < count else None

    def device(self, name: str) -> torch.device:
        """The device `name` of this rank: several share out the GPUs of their machine. Raises ConfigError."""
        return torch.device(name)

    def lead(self, fn: Callable[[], T]) -> T:
        """What `fn` returns on rank 0, a JSON value where there are several; its FastslowError is everybody's."""
        return fn()

    def together(self, fn: Callable[[], T]) -> T:
        """What `fn` returns here; a FastslowError of any rank is everybody's."""
        return fn()

    def largest(self, *values: float) -> list[float]:
        """The largest of all ranks' first values, of their second ones, ..."""
        return list(values)

    def sum(self, *values: float) -> list[float]:
        """The sums of all ranks' values."""
        return list(values)

    def tensors(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors, bit for bit; several ranks get them on the CPU."""
        return dict(mine)

    def whole(self, state: Any, batch: int) -> Any:
        """The state of all `batch` streams from that of each rank's columns."""
        return state


class Group(Ranks):
    """Several processes. All of them call its methods, but for `columns` and `device`, in the same order."""

    def __init__(self, launch: Launch, control: dist.ProcessGroup) -> None:
        super().__init__(launch)
        self._control = self._gradients = control

    def device(self, name: str) -> torch.device:
        device = torch.device(name)
        if device.type != "cuda":
            return device
        if ":" in name:
            raise ConfigError(f"several processes take one GPU each: use device cuda, not {name}")
        local, there = self.launch.local_rank, torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"this process needs GPU {local}, and the machine has {there}: start fewer processes per machine"
            )
        return torch.device("cuda", local)

    def connect(self, device: torch.device) -> None:
        """Make the way for gradients on that device."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._gradients = self._call(dist.new_group, backend="nccl", timeout=TIMEOUT)

    def add_up(self, tensor: Tensor) -> dist.Work:
        """Begin to replace a tensor on the device of `connect` by the sum of all ranks'; `done` ends it."""
        work: dist.Work = self._call(dist.all_reduce, tensor, group=self._gradients, async_op=True)
        return work

    def done(self, work: dist.Work) -> None:
        self._call(work.wait)

    def lead(self, fn: Callable[[], T]) -> T:
        told: dict[str, Any] = {}
        failure: FastslowError | None = None
        if self.leads:
            try:
                told = {"value": fn()}
            except FastslowError as error:
                failure, told = error, {"error": str(error)}
        told = self._json(told, 0)
        if failure is not None:
            raise failure
        if "error" in told:
            raise ElsewhereError(told["error"])
        value: T = told["value"]
        return value

    def together(self, fn: Callable[[], T]) -> T:
        failure: FastslowError | None = None
        try:
            result = fn()
        except FastslowError as error:
            failure = error
        first = self.size - int(self.largest(0 if failure is None else self.size - self.rank)[0])
        if first == self.size:
            return result
        told = self._json(f"on rank {first} ({socket.gethostname()}): {failure}", first)
        if failure is not None and first == self.rank:
            raise failure if self.leads else ElsewhereError(told)
        raise ElsewhereError(told)

    def largest(self, *values: float) -> list[float]:
        return self._reduced(values, dist.ReduceOp.MAX)

    def sum(self, *values: float) -> list[float]:
        return self._reduced(values, dist.ReduceOp.SUM)

    def tensors(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kinds = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in mine.items()}
        result = {}
        for name, (kind, *shape) in self._json(kinds, 0).items():
            like = mine[name].detach().cpu() if self.leads else torch.empty(shape, dtype=getattr(torch, kind))
            # As bytes, which every type is sent as.
            flat = like.contiguous().reshape(-1).view(torch.uint8)
            self._broadcast(flat, 0)
            result[name] = flat.view(like.dtype).reshape(shape)
        return result

    def whole(self, state: Any, batch: int) -> Any:
        columns = self.columns(batch)

        def gathered(leaf: Tensor) -> Tensor:
            rows = torch.zeros(batch, *leaf.shape[1:], dtype=leaf.dtype)
            rows[columns] = leaf.detach().cpu()
            # Every row is one rank's: the sum adds zeros to it.
            self._call(dist.all_reduce, rows, group=self._control)
            return rows

        return None if state is None else map_state(gathered, state)

    # ------------------------------------------------------------------ the wire

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        exchanged = torch.tensor(values, dtype=torch.float64)
        self._call(dist.all_reduce, exchanged, op=operation, group=self._control)
        return [float(value) for value in exchanged]

    def _json(self, value: Any, source: int) -> Any:
        """Rank `source`'s value."""
        data = json.dumps(value).encode() if self.rank == source else b""
        length = torch.tensor([len(data)], dtype=torch.int64)
        self._broadcast(length, source)
        text = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == source:
            text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._broadcast(text, source)
        return json.loads(text.numpy().tobytes())

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        if tensor.numel():
            self._call(dist.broadcast, tensor, group=self._control, group_src=source)

    def _call(self, fn: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return fn(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # that of the wire, or of a time that is over
            raise LostError(
                f"rank {self.rank} has lost contact with the other {self.size - 1}: one of them has ended, or has not "
                f"answered for {TIMEOUT.total_seconds() / 60:g} minutes"
            ) from error


_meetings = itertools.count()


@functools.cache
def _meeting_place(launch: Launch) -> Any:
    """What the address of the environment leads to: connected to once a process."""
    return next(rendezvous("env://", launch.rank, launch.size, timeout=TIMEOUT))[0]


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes of this job, connected inside. Raises LaunchError where they cannot be."""
    launch = find_launch()
    if launch.size == 1:
        yield Ranks(launch)
        return
    if not dist.is_available():
        raise LaunchError("this build of torch does not support several processes: start one")
    ours = not dist.is_initialized()
    try:
        if ours:
            # Names of its own for every meeting: those of the last would lead to its closed doors.
            store = PrefixStore(f"fastslow/{launch.restarts}/{next(_meetings)}", _meeting_place(launch))
            dist.init_process_group("gloo", store=store, rank=launch.rank, world_size=launch.size, timeout=TIMEOUT)
        control = dist.group.WORLD if ours else dist.new_group(backend="gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise LaunchError(f"rank {launch.rank} cannot connect to the others at {launch.address}: {reason}") from error
    assert control is not None
    try:
        yield Group(launch, control)
    finally:
        if ours:
            with contextlib.suppress(RuntimeError):  # the others may be gone
                dist.destroy_process_group()


def rows_at_once(batch: int, accumulate: int, ranks: int) -> int:
    """The most streams that go through the network together. Raises FastslowError where some part would have none."""
    rank_columns(batch, 0, ranks)
    if batch // ranks < accumulate:
        raise ConfigError(
            f"accumulate {accumulate} needs at least as many streams per process; a batch of {batch} on {ranks} has "
            f"{batch // ranks}: use fewer parts, fewer processes or a larger batch"
        )
    return math.ceil(math.ceil(batch / ranks) / accumulate)
