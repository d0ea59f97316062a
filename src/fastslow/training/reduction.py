"""Summation of the gradients over all ranks.

Like `DistributedDataParallel`, for this package's updates: gradients are copied into flat *buckets*, in the order in
which the backward pass produces them, and each bucket is sent while the pass computes the next. There are three
differences. Gradients are summed instead of averaged, so that ranks may own different numbers of streams. The loss of
the window is sent with the first bucket. And an update that is captured as a graph can compute its gradients, exchange
them and apply them in three steps (`take`, `exchange`), because hooks inside a capture would not run.

In backpropagation through time the gradient of a recurrent weight is a sum over all steps, which is complete only when
the pass has reached the first step. So only the exchange of the output layer overlaps with the pass itself; that of the
recurrent weights overlaps with the other buckets and with the gradient of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastslow.training.distributed import Group

BUCKET_BYTES = 8 << 20
"""A bucket is closed above this size: small enough to be sent early, large enough for efficient messages."""

ALIGNMENT = 16
"""Every gradient starts at a multiple of this number of elements in its bucket."""


class _Bucket:
    """Some parameters, the flat sum of their gradients, and a view of it for each parameter."""

    def __init__(self, parameters: Sequence[Tensor], extra: int) -> None:
        self.parameters = list(parameters)
        sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in parameters]
        first = parameters[0]
        self.flat = torch.zeros(sum(sizes) + extra, dtype=first.dtype, device=first.device)
        parts = torch.split(self.flat[: sum(sizes)], sizes)
        self.views = [part[: p.numel()].view_as(p) for part, p in zip(parts, parameters, strict=True)]
        self.ready = 0
        self.work: Any = None


class GradientSum:
    """Replaces the gradients of `parameters` (of one dtype and device) by their sum over ranks.

    For one update, call either

        begin(loss); the backward pass (the last one if there are several); finish() -> the sum of the losses

    or, if the pass is captured, `take(loss)` after it and `exchange()` -> the sum of the losses. Afterwards each
    parameter's `grad` is a view of a bucket until the next update, which must set it to None first.
    """

    def __init__(self, parameters: Sequence[Tensor], ranks: Group) -> None:
        self.ranks = ranks
        self.buckets: list[_Bucket] = []
        held: list[Tensor] = []
        backwards = list(reversed(parameters))  # a backward pass computes the last parameters' gradients first
        for i, parameter in enumerate(backwards):
            held.append(parameter)
            if sum(p.numel() * p.element_size() for p in held) > BUCKET_BYTES or i == len(backwards) - 1:
                self.buckets.append(_Bucket(held, extra=0 if self.buckets else 1))
                held = []
        self._loss = self.buckets[0].flat[-1]
        self._sending = 0
        self._begun = False
        for bucket in self.buckets:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                hook = partial(self._made, bucket, view)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def begin(self, loss: Tensor) -> None:
        """Send every bucket as soon as the following backward pass has filled it."""
        self._loss.copy_(loss)
        self._begun, self._sending = True, 0
        for bucket in self.buckets:
            bucket.ready, bucket.work = 0, None

    @torch.no_grad()
    def _made(self, bucket: _Bucket, view: Tensor, parameter: Tensor) -> None:
        if not self._begun:
            return
        assert parameter.grad is not None
        view.copy_(parameter.grad)
        parameter.grad = view
        bucket.ready += 1
        # In the same order on every rank, independent of the order of the gradients.
        while self._sending < len(self.buckets) and self._full(self.buckets[self._sending]):
            self._send()

    def _full(self, bucket: _Bucket) -> bool:
        return bucket.ready == len(bucket.parameters)

    def _send(self) -> None:
        bucket = self.buckets[self._sending]
        bucket.work = self.ranks.add_up(bucket.flat)
        self._sending += 1

    def finish(self) -> Tensor:
        """Wait for all buckets; returns the sum of the losses, ()."""
        for bucket in self.buckets[self._sending :]:
            _fill(bucket)
            self._send()
        self._begun = False
        for bucket in self.buckets:
            self.ranks.done(bucket.work)
        return self._loss.clone()

    @torch.no_grad()
    def take(self, loss: Tensor) -> None:
        """Copy the gradients of a backward pass, and this rank's loss."""
        self._loss.copy_(loss)
        for bucket in self.buckets:
            _fill(bucket)

    def exchange(self) -> Tensor:
        """Sum the copies of all ranks; returns the sum of the losses, ()."""
        for work in [self.ranks.add_up(bucket.flat) for bucket in self.buckets]:
            self.ranks.done(work)
        return self._loss.clone()


@torch.no_grad()
def _fill(bucket: _Bucket) -> None:
    """Copy the missing gradients into the bucket; zeros for parameters that the loss does not depend on."""
    for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
        if parameter.grad is None:
            view.zero_()
        elif parameter.grad.data_ptr() != view.data_ptr():
            view.copy_(parameter.grad)
        parameter.grad = view
