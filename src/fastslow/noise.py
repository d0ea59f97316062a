"""Random masks as a pure function of (key, step, site, row, unit).

Dropout and zoneout draw new bits at every step, site, row and unit. They come from one counter-based function,
so that every engine (tensors here, compiled loops, GPU kernels) uses the same masks for any tiling, a backward pass can
recompute them instead of storing them, and a rank of a distributed job draws the masks of its rows.

All arithmetic is on 32-bit words, modulo 2^32, `>>` fills with zeros, `^` is exclusive or:

    mix(x):  x ^= x >> 16;  x *= 0x21F0AAAD;  x ^= x >> 15;  x *= 0x735A2D97;  x ^= x >> 15
    a = mix(row + mix(step + mix(site + mix(key_low))))
    b = mix(row ^ mix(step ^ mix(site ^ mix(key_high + 0x9E3779B9))))
    u = unit * 0x9E3779B9 + a
    u ^= u >> 16;  u *= 0x21F0AAAD;  u ^= u >> 15;  u += b;  u *= 0x735A2D97;  u ^= u >> 16
    bits(key, step, site, row, unit) = u

`key_low` and `key_high` are the halves of a 64-bit key. Dropout keeps a unit where `bits >> 8 >= round(p * 2^24)`.
Zoneout takes two masks from one word: h is updated where `bits & 0xFFFF >= round(p_h * 2^16)`, c where
`bits >> 16 >= round(p_c * 2^16)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MULTIPLIER_1 = 0x21F0AAAD
MULTIPLIER_2 = 0x735A2D97
GOLDEN = 0x9E3779B9


class Noise(NamedTuple):
    """The randomness of one window.

    key: int64 tensor without dimensions, on the device of the input (a tensor, so that a captured graph reads a new
        one at every replay).
    first_step: the number of the window's first step.
    first_row: the number of its first row: a rank that owns rows 32..63 of a batch draws the masks of those rows.
    """

    key: Tensor
    first_step: int = 0
    first_row: int = 0


def draw_key(device: torch.device | str | None = None) -> Tensor:
    """A new key from torch's generator of this device, so that `torch.manual_seed` repeats it."""
    key = torch.empty((), dtype=torch.int64, device=device)
    if torch.compiler.is_compiling():  # which does not support the in-place version
        drawn: Tensor = torch.ops.aten.random(key)
        return drawn
    return key.random_()


def dropout_threshold(p: float) -> int:
    """A unit is dropped where `bits >> 8` is below this."""
    return round(p * 2**24)


def zoneout_threshold(p: float) -> int:
    """A unit keeps its old value where its 16 bits are below this."""
    return round(p * 2**16)


def _int32(value: int) -> int:
    """The int32 with the same bits as this uint32."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _shift_xor(x: Tensor, by: int) -> Tensor:
    # torch shifts int32 arithmetically: the mask clears the copies of the sign bit.
    return x ^ ((x >> by) & ((1 << (32 - by)) - 1))


def _mix(x: Tensor) -> Tensor:
    x = _shift_xor(x, 16) * MULTIPLIER_1
    x = _shift_xor(x, 15) * MULTIPLIER_2
    return _shift_xor(x, 15)


def row_words(noise: Noise, steps: int, site: int, rows: int) -> tuple[Tensor, Tensor]:
    """The words a and b of the module's formula, each (steps, rows) int32."""
    device = noise.key.device
    # int32 arithmetic wraps modulo 2^32, as the formula requires.
    step = torch.arange(noise.first_step, noise.first_step + steps, dtype=torch.int32, device=device).unsqueeze(1)
    row = torch.arange(noise.first_row, noise.first_row + rows, dtype=torch.int32, device=device)
    low = noise.key.bitwise_and(0xFFFFFFFF)
    high = (noise.key >> 32).bitwise_and(0xFFFFFFFF)
    low, high = (torch.where(half >= 2**31, half - 2**32, half).to(torch.int32) for half in (low, high))
    a = _mix(row + _mix(step + _mix(_mix(low) + site)))
    b = _mix(row ^ _mix(step ^ _mix(_mix(high + _int32(GOLDEN)) ^ site)))
    return a, b


def random_bits(noise: Noise, steps: int, site: int, rows: int, units: int) -> Tensor:
    """The words `bits` of the module's formula, (steps, rows, units) int32 (the same bits as the uint32)."""
    a, b = row_words(noise, steps, site, rows)
    unit = torch.arange(units, dtype=torch.int32, device=a.device) * _int32(GOLDEN)
    u = _shift_xor(unit + a.unsqueeze(-1), 16) * MULTIPLIER_1
    u = (_shift_xor(u, 15) + b.unsqueeze(-1)) * MULTIPLIER_2
    return _shift_xor(u, 16)


def dropout_keep(noise: Noise, steps: int, site: int, rows: int, units: int, p: float) -> Tensor:
    """(steps, rows, units) bool: true where dropout keeps the unit, with probability 1 - p."""
    bits = random_bits(noise, steps, site, rows, units)
    return ((bits >> 8) & 0xFFFFFF) >= dropout_threshold(p)


def zoneout_update(
    noise: Noise, steps: int, site: int, rows: int, units: int, p_h: float, p_c: float
) -> tuple[Tensor, Tensor]:
    """Two (steps, rows, units) bool: true where h, and where c, take the new value (probability 1 - p)."""
    bits = random_bits(noise, steps, site, rows, units)
    return (bits & 0xFFFF) >= zoneout_threshold(p_h), ((bits >> 16) & 0xFFFF) >= zoneout_threshold(p_c)
