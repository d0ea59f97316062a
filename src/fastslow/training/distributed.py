"""The processes of a job that train one model together, started by torchrun.

Each *rank* owns some columns of the batch, always the same ones, because their states are carried from window to
window. Everything that the ranks must agree on (when to stop, the best validation, the content of the checkpoint) is
exchanged here through gloo, as numbers, JSON and bytes; gradients are exchanged through gloo on CPUs and NCCL on GPUs.
Rank 0 writes files and logs; its errors are raised on all ranks, so that none waits for it.

A single process uses `Ranks` as well, and exchanges nothing.
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
"""The time that a rank waits for another, at the start and in every exchange, before the job fails."""


class LostError(FastslowError):
    """The other processes do not respond."""


class ElsewhereError(FastslowError):
    """The job has failed on another rank."""


class Ranks:
    """A single process; for several see `Group`."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.rank, self.size = launch.rank, launch.size

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def columns(self, count: int) -> slice | None:
        """This rank's part of `count` streams; None if there are fewer streams than ranks and it has none."""
        return rank_columns(count, self.rank, min(self.size, count)) if self.rank < count else None

    def device(self, name: str) -> torch.device:
        """The device `name` for this rank: several ranks use one GPU of their machine each. Raises ConfigError."""
        return torch.device(name)

    def lead(self, fn: Callable[[], T]) -> T:
        """The result of `fn` on rank 0 (JSON if there are several ranks); a FastslowError is raised on all ranks."""
        return fn()

    def together(self, fn: Callable[[], T]) -> T:
        """The result of `fn` on this rank; a FastslowError of any rank is raised on all ranks."""
        return fn()

    def largest(self, *values: float) -> list[float]:
        """The elementwise maximum of the values over all ranks."""
        return list(values)

    def sum(self, *values: float) -> list[float]:
        """The elementwise sum of the values over all ranks."""
        return list(values)

    def tensors(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of rank 0, bit for bit; on the CPU if there are several ranks."""
        return dict(mine)

    def whole(self, state: Any, batch: int) -> Any:
        """The state of all `batch` streams, gathered from the columns of each rank."""
        return state


class Group(Ranks):
    """Several processes. All of them must call its methods, except `columns` and `device`, in the same order."""

    def __init__(self, launch: Launch, control: dist.ProcessGroup) -> None:
        super().__init__(launch)
        self._control = self._gradients = control

    def device(self, name: str) -> torch.device:
        device = torch.device(name)
        if device.type != "cuda":
            return device
        if ":" in name:
            raise ConfigError(f"several processes use one GPU each: use device cuda, not {name}")
        local, there = self.launch.local_rank, torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"this process needs GPU {local}, but the machine has {there}: start fewer processes per machine"
            )
        return torch.device("cuda", local)

    def connect(self, device: torch.device) -> None:
        """Create the process group for gradients on this device."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._gradients = self._call(dist.new_group, backend="nccl", timeout=TIMEOUT)

    def add_up(self, tensor: Tensor) -> dist.Work:
        """Start to replace a tensor on the device of `connect` by its sum over all ranks; `done` waits for it."""
        work: dist.Work = self._call(dist.all_reduce, tensor, group=self._gradients, async_op=True)
        return work

    def done(self, work: dist.Work) -> None:
        self._call(work.wait)

    def lead(self, fn: Callable[[], T]) -> T:
        reply: dict[str, Any] = {}
        failure: FastslowError | None = None
        if self.leads:
            try:
                reply = {"value": fn()}
            except FastslowError as error:
                failure, reply = error, {"error": str(error)}
        reply = self._json(reply, 0)
        if failure is not None:
            raise failure
        if "error" in reply:
            raise ElsewhereError(reply["error"])
        value: T = reply["value"]
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
        reply = self._json(f"on rank {first} ({socket.gethostname()}): {failure}", first)
        if failure is not None and first == self.rank:
            raise failure if self.leads else ElsewhereError(reply)
        raise ElsewhereError(reply)

    def largest(self, *values: float) -> list[float]:
        return self._reduced(values, dist.ReduceOp.MAX)

    def sum(self, *values: float) -> list[float]:
        return self._reduced(values, dist.ReduceOp.SUM)

    def tensors(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kinds = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in mine.items()}
        result = {}
        for name, (kind, *shape) in self._json(kinds, 0).items():
            like = mine[name].detach().cpu() if self.leads else torch.empty(shape, dtype=getattr(torch, kind))
            # As bytes, which works for every dtype.
            flat = like.contiguous().reshape(-1).view(torch.uint8)
            self._broadcast(flat, 0)
            result[name] = flat.view(like.dtype).reshape(shape)
        return result

    def whole(self, state: Any, batch: int) -> Any:
        columns = self.columns(batch)

        def gathered(leaf: Tensor) -> Tensor:
            rows = torch.zeros(batch, *leaf.shape[1:], dtype=leaf.dtype)
            rows[columns] = leaf.detach().cpu()
            # Each row belongs to one rank; the others add zeros.
            self._call(dist.all_reduce, rows, group=self._control)
            return rows

        return None if state is None else map_state(gathered, state)

    # ------------------------------------------------------------------ communication

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        exchanged = torch.tensor(values, dtype=torch.float64)
        self._call(dist.all_reduce, exchanged, op=operation, group=self._control)
        return [float(value) for value in exchanged]

    def _json(self, value: Any, source: int) -> Any:
        """The value of rank `source`."""
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
        except RuntimeError as error:  # a failed connection or a timeout
            raise LostError(
                f"rank {self.rank} has lost contact with the other {self.size - 1}: one of them has exited, or has not "
                f"responded for {TIMEOUT.total_seconds() / 60:g} minutes"
            ) from error


_meetings = itertools.count()


@functools.cache
def _meeting_place(launch: Launch) -> Any:
    """The store at the address in the environment; a process connects to it once."""
    return next(rendezvous("env://", launch.rank, launch.size, timeout=TIMEOUT))[0]


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes of this job for this context. Raises LaunchError if that fails."""
    launch = find_launch()
    if launch.size == 1:
        yield Ranks(launch)
        return
    if not dist.is_available():
        raise LaunchError("this build of torch does not support distributed training: start a single process")
    ours = not dist.is_initialized()
    try:
        if ours:
            # Use new names for every connection; the old names refer to closed connections.
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
            with contextlib.suppress(RuntimeError):  # the others may have exited
                dist.destroy_process_group()


def rows_at_once(batch: int, accumulate: int, ranks: int) -> int:
    """The largest number of streams in one forward pass. Raises FastslowError if a part would have none."""
    rank_columns(batch, 0, ranks)
    if batch // ranks < accumulate:
        raise ConfigError(
            f"accumulate {accumulate} needs at least as many streams per process; a batch of {batch} on {ranks} has "
            f"{batch // ranks}: use fewer parts, fewer processes or a larger batch"
        )
    return math.ceil(math.ceil(batch / ranks) / accumulate)
