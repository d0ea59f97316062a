"""Functions captured once as a CUDA graph and replayed: a training step, a window of evaluation.

A window of 150 steps is about a thousand kernels, each shorter than its launch from Python; a replayed graph launches
them all at once. Values that change between replays are in memory, not in Python: inputs and the carried state have
their own buffers, the learning rate is a tensor, and random keys come from the device's generator, which a graph
advances at every replay. Nothing here waits for the device: losses stay tensors until they are read.

    recorded = Recorded(fn)         any function of tensors, one graph for each combination of shapes
    GraphedStep(objective, ...)     forward, backward, clipping, optimizer and state, as one training step

The first calls of each combination of shapes run eagerly, on a separate stream (they compile kernels, choose
algorithms, and are real training steps), and the next call records. Rare shapes, such as the last window of a text,
stay eager. Without a CUDA device the same code uses `Rerun`, which calls the function instead of replaying it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastslow.state import detach_state, map_state, state_tensors
from fastslow.training.clip import clip_gradients

WARMUP = 3
"""Number of eager calls of a combination of shapes before it is recorded."""


class Recorder(Protocol):
    """Runs functions without arguments before a recording, and records them."""

    def warm(self, fn: Callable[[], Any]) -> Any:
        """Run `fn` now."""
        ...

    def record(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """A function that repeats the work of `fn` and returns its (overwritten) results."""
        ...


class Graphs:
    """The recorder of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm(self, fn: Callable[[], Any]) -> Any:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = fn()
        current.wait_stream(self.stream)
        return result

    def record(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (data loaders, TensorBoard) may use the device meanwhile.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            result = fn()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


class Rerun:
    """The recorder without a CUDA device: it runs the function again instead of replaying it."""

    def warm(self, fn: Callable[[], Any]) -> Any:
        return fn()

    def record(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        return fn


def recorder_for(device: torch.device) -> Recorder:
    """`Graphs` on a CUDA device, otherwise `Rerun`."""
    return Graphs(device) if device.type == "cuda" else Rerun()


@dataclass
class _Entry:
    """One combination of shapes: `inputs` are the buffers the graph reads, `calls` the number of eager calls so far."""

    inputs: tuple[Any, ...]
    calls: int = 0
    replay: Callable[[], Any] | None = None


class Recorded:
    """fn(*inputs) -> result, by a graph for each combination of the inputs' shapes and types.

    inputs: tensors, or (named) tuples of tensors; those on another device are copied to `device`. The result, and
    inputs that `fn` changes in place, are overwritten by the next call of the same shapes: clone results that are kept.
    An input that already is such a buffer is not copied.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        device: torch.device,
        *,
        warmup: int = WARMUP,
        recorder: Recorder | None = None,
    ) -> None:
        self.fn, self.device, self.warmup = fn, device, warmup
        self.recorder = recorder_for(device) if recorder is None else recorder
        self._entries: dict[tuple[Any, ...], _Entry] = {}

    def __call__(self, *inputs: Any) -> Any:
        entry = self._entry(inputs)
        if entry.replay is None:
            if entry.calls < self.warmup:
                entry.calls += 1
                return self.recorder.warm(lambda: self.fn(*entry.inputs))
            entry.replay = self.recorder.record(lambda: self.fn(*entry.inputs))
        return entry.replay()

    @property
    def graphs(self) -> int:
        """The number of recordings."""
        return sum(entry.replay is not None for entry in self._entries.values())

    def reset(self) -> None:
        """Discard all recordings and buffers, after data of `fn` were replaced rather than changed in place."""
        self._entries.clear()

    def _entry(self, inputs: tuple[Any, ...]) -> _Entry:
        given = state_tensors(inputs)
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in given)
        entry = self._entries.get(key)
        # Buffers are ordinary tensors even if the caller is in inference mode, so that they can be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            if entry is None:
                entry = _Entry(map_state(self._buffer, inputs))
                self._entries[key] = entry
            for buffer, tensor in zip(state_tensors(entry.inputs), given, strict=True):
                if buffer is not tensor:
                    buffer.copy_(tensor, non_blocking=True)
        return entry

    def _buffer(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)


# ---------------------------------------------------------------------------------------------------- training


class StepResult(NamedTuple):
    """The result of a training step; see `GraphedStep`."""

    loss_nats: Tensor
    gradient_norm: Tensor
    state: Any


class Reduction(Protocol):
    """Sums gradients and losses over processes; the updater uses `training.reduction.GradientSum`."""

    def take(self, loss: Tensor) -> None:
        """Copy the gradients and the loss of this process; part of a recording."""
        ...

    def exchange(self) -> Tensor:
        """Replace the gradients by their sums over all processes; return the sum of the losses, ()."""
        ...


class GraphedStep:
    """One training step: forward, backward, clipping, optimizer, and the carried state.

    Args:
        objective: (*inputs, state) -> (the objective, the loss to report in nats, the new state). It must not wait
            for the device, and must enter autocast itself.
        optimizer: on a CUDA device it must be `capturable`, with learning rates that are tensors (see `tensor_rates`).
        clip: maximum global norm of the gradient; 0: no clipping.
        reduction: sums gradients and losses over several processes, between two recordings: one computes the
            gradients, one applies them.
        warmup, recorder: as for `Recorded`.

    `step(*inputs, state=state, rate=rate)` -> StepResult. The loss and the norm before clipping are new scalar
    tensors; the state is a buffer that the next step overwrites, so pass it to that step or copy it.
    """

    def __init__(
        self,
        objective: Callable[..., tuple[Tensor, Tensor, Any]],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        clip: float = 0.0,
        reduction: Reduction | None = None,
        warmup: int = WARMUP,
        recorder: Recorder | None = None,
    ) -> None:
        if warmup < 1:
            raise ValueError("warmup must be at least 1: a recording would reset the optimizer state at every replay")
        self.objective, self.optimizer, self.clip = objective, optimizer, clip
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.reduction = reduction
        work = self._update if reduction is None else self._gradients
        self.recorded = Recorded(work, device, warmup=warmup, recorder=recorder)
        self.applied = Recorded(self._apply, device, warmup=warmup, recorder=recorder)
        if isinstance(self.recorded.recorder, Graphs):
            _check_capturable(optimizer)

    def step(self, *inputs: Tensor, state: Any, rate: float) -> StepResult:
        self._set_rate(rate)
        if self.reduction is None:
            loss, norm, carried = self.recorded(*inputs, state)
        else:
            carried = self.recorded(*inputs, state)
            loss = self.reduction.exchange()
            norm = self.applied()
        return StepResult(loss.clone(), norm.clone(), carried)

    def reset(self) -> None:
        """Record again after the optimizer state was replaced, as by `load_state_dict`."""
        self.recorded.reset()
        self.applied.reset()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _update(self, *inputs: Any) -> tuple[Tensor, Tensor, Any]:
        loss, new = self._backward(*inputs)
        norm = self._apply()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm, _carry(inputs[-1], new)

    def _gradients(self, *inputs: Any) -> Any:
        assert self.reduction is not None
        loss, new = self._backward(*inputs)
        self.reduction.take(loss)
        return _carry(inputs[-1], new)

    def _backward(self, *inputs: Any) -> tuple[Tensor, Any]:
        self.optimizer.zero_grad(set_to_none=True)
        # Detached from the buffer, which is overwritten below.
        objective, loss, new = self.objective(*inputs[:-1], detach_state(inputs[-1]))
        objective.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), new

    def _apply(self) -> Tensor:
        norm = clip_gradients(self.parameters, self.clip or 0.0)
        self.optimizer.step()
        return norm


@torch.no_grad()
def _carry(state: Any, new: Any) -> Any:
    """Copy the new state to the buffers of the old one."""
    for buffer, leaf in zip(state_tensors(state), state_tensors(new), strict=True):
        buffer.copy_(leaf)
    return state


def tensor_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Make the optimizer's learning rates tensors on the device, so that a recorded step reads them at every replay."""
    for group in optimizer.param_groups:
        rate = group["lr"]
        value = float(rate)
        if not isinstance(rate, Tensor) or rate.device.type != device.type:
            group["lr"] = torch.tensor(value, dtype=torch.float32, device=device)


def _check_capturable(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if not group.get("capturable", False):
            raise ValueError("a recorded step needs an optimizer created with capturable=True")
        if not isinstance(group["lr"], Tensor):
            raise ValueError(
                "a recorded step would freeze a learning rate that is a Python number: call tensor_rates first"
            )
