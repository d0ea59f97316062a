"""The baselines for engines: `torch.nn.LSTM` of about the same size, and the matrix products alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastslow.bench.shapes import Shape
from fastslow.bench.timing import Work


def training_window(layer: nn.Module, shape: Shape, size: int) -> Work:
    """One window forward and backward, with gradients of every parameter and of x, as after an embedding."""
    x = torch.randn(shape.steps, shape.rows, shape.input_size).requires_grad_()
    dy = torch.randn(shape.steps, shape.rows, size)
    leaves = [x, *layer.parameters()]

    def work() -> tuple[Tensor, ...]:
        y, _ = layer(x)
        return torch.autograd.grad(y, leaves, dy)

    return work


def lstm_window(shape: Shape) -> Work:
    """`torch.nn.LSTM`, one layer, without dropout."""
    size = shape.equal_lstm()
    return training_window(nn.LSTM(shape.input_size, size), shape, size)


def lstm_flops(shape: Shape) -> int:
    size = shape.equal_lstm()
    return 6 * 4 * size * (shape.input_size + size) * shape.symbols


def product_floor(shape: Shape) -> Work:
    """Only the matrix products of a window, by `torch.mm` into preallocated memory.

    Products inside the recurrence are computed step by step; those of x and of the weight gradients at once. Matrices
    have the best layout for each product. (If a window's x is larger than the cache, so is the memory read here.)
    """
    rows, steps = shape.rows, shape.steps
    together = steps * rows
    forward: list[tuple[Sequence[Tensor], Tensor, Tensor]] = []
    backward: list[tuple[Sequence[Tensor], Tensor, Tensor]] = []
    once: list[tuple[Tensor, Tensor, Tensor]] = []
    for wide, inputs, of_x in shape.matrices:
        matrix = torch.randn(wide, inputs)
        value, dz = torch.randn(together, inputs), torch.randn(together, wide)
        if of_x:
            once += [(value, matrix.t(), torch.empty(together, wide)), (dz, matrix, torch.empty(together, inputs))]
        else:
            forward.append((torch.split(value, rows), matrix.t().contiguous(), torch.empty(rows, wide)))
            backward.append((torch.split(dz, rows), matrix, torch.empty(rows, inputs)))
        once.append((dz.t(), value, torch.empty(wide, inputs)))

    def work() -> None:
        for serial in (forward, backward):
            for t in range(steps):
                for each, matrix, result in serial:
                    torch.mm(each[t], matrix, out=result)
        for left, right, out in once:
            torch.mm(left, right, out=out)

    return work


def vector_floor(shape: Shape) -> Work:
    """Only the products of every matrix of a step with a vector."""
    products = [
        (torch.randn(wide, inputs), torch.randn(inputs), torch.empty(wide)) for wide, inputs, _ in shape.matrices
    ]

    def work() -> None:
        for matrix, vector, out in products:
            torch.mv(matrix, vector, out=out)

    return work
