"""The mixer's tables: the same on every machine.

    logarithm[i] = 2^16 ln(1 + i / 4096)                                   0 <= i < 4096
    stretch[p]   = 2^10 ln(p / (65536 - p)), within +-12287                0 <= p < 65536
    squash[s]    = 2^16 / (1 + exp(-(s - 12288) / 2^10)), within 1..65535  0 <= s < 24576
    rate[n]      = floor(2^17 / (2n + 3))                                  0 <= n < 1024

No entry of `logarithm` is within 10^-4 of a half, and the library's logarithm is wrong by 10^-11 at most, so it rounds
to the same integer everywhere. `stretch` comes from `logarithm`, and `squash` from two short tables of exp, whose
entries `decimal` rounds correctly; both in integer arithmetic.
A bit history (n0, n1, last) counts the zeros and ones seen in a context, with more weight on recent ones;
`next_history` is the successor of each history after a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

LIMIT = 12287
"""The range of logits, in units of 2^-10: plus and minus this."""
LOGIT_BITS = 10
LN2 = 45426
"""2^16 ln 2."""
_EXP_BITS = 40
_MOST = (41, 38, 13, 8, 6, 5)
"""The largest value of one count while the other is 0, 1, ... 5."""
_ORDERED = 12
"""Up to this many bits, a history also stores the last bit, if both bits have occurred."""


@dataclass(frozen=True)
class Tables:
    """stretch (65536), squash (24576), rate (1024), next_history (256, 2), initial (256), logarithm (4096)."""

    stretch: Ints
    squash: Ints
    rate: Ints
    next_history: Ints
    initial: Ints
    logarithm: Ints


def ln(n: Ints | int, logarithm: Ints) -> Ints:
    """2^16 ln n for 1 <= n < 2^32, to 12 bits of n."""
    value = np.asarray(n, dtype=np.int64)
    top = np.frexp(value.astype(np.float64))[1] - 1  # floor(log2 n), exact
    cut = np.where(top >= 12, value >> np.maximum(top - 12, 0), value << np.maximum(12 - top, 0))
    result: Ints = top * LN2 + logarithm[cut & 4095]
    return result


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables, computed once; they must not be modified."""
    context = Context(prec=40, rounding=ROUND_HALF_EVEN)

    def exp(numerator: int, denominator: int) -> int:
        power = context.exp(context.divide(Decimal(-numerator), Decimal(denominator)))
        return int(context.multiply(power, Decimal(1 << _EXP_BITS)).to_integral_value(ROUND_HALF_EVEN, context))

    logarithm = np.array([round(math.log1p(i / 4096) * (1 << 16)) for i in range(4096)], dtype=np.int64)
    p = np.arange(1, 65536)
    inner = (ln(p, logarithm) - ln(65536 - p, logarithm) + 32) >> 6
    stretch = np.concatenate(([-LIMIT], inner)).clip(-LIMIT, LIMIT)

    coarse = [exp(a, 4) for a in range(49)]
    fine = [exp(b, 1 << LOGIT_BITS) for b in range(256)]
    one = 1 << _EXP_BITS
    falling = [(coarse[s >> 8] * fine[s & 255]) >> _EXP_BITS for s in range(12289)]  # exp(-s / 2^10)
    upper = [((one << 17) + one + e) // (2 * (one + e)) for e in falling]
    squash = np.array([65536 - upper[12288 - s] for s in range(12288)] + upper[:12288]).clip(1, 65535)

    histories = _histories()
    number = {history: i for i, history in enumerate(histories)}
    following = np.zeros((256, 2), dtype=np.int64)
    initial = np.full(256, 1 << 31, dtype=np.int64)
    for i, (zeros, ones, _) in enumerate(histories):
        for bit in (0, 1):
            following[i, bit] = number[_after(zeros, ones, bit)]
        # (ones + 0.4) / (all + 0.8) in 2^-22, with a prior of two bits
        initial[i] = ((5 * ones + 2) * 4194303 // (5 * (zeros + ones) + 4)) << 10 | 2
    made = Tables(stretch, squash, (1 << 17) // (2 * np.arange(1024) + 3), following, initial, logarithm)
    for table in vars(made).values():
        table.flags.writeable = False
    return made


def _allowed(zeros: int, ones: int) -> bool:
    less, more = sorted((zeros, ones))
    return less < len(_MOST) and more <= _MOST[less]


def _last(zeros: int, ones: int, bit: int) -> int:
    """The last bit if the history stores it, else 0."""
    return bit if zeros and ones and zeros + ones <= _ORDERED else 0


def _histories() -> list[tuple[int, int, int]]:
    """All histories, those with few bits first; history 0 is empty."""
    found = []
    for total in range(2 * max(_MOST)):
        for zeros in range(total, -1, -1):
            ones = total - zeros
            if _allowed(zeros, ones):
                found += [(zeros, ones, last) for last in sorted({_last(zeros, ones, 0), _last(zeros, ones, 1)})]
    return found


def _after(zeros: int, ones: int, bit: int) -> tuple[int, int, int]:
    """The history after one more bit: the bit's count grows; the other count, if above 2, drops to its bit length."""
    same, other = (ones, zeros) if bit else (zeros, ones)
    same += 1
    if other > 2:
        other = other.bit_length()
    while not _allowed(same, other):
        same -= 1
    zeros, ones = (other, same) if bit else (same, other)
    return zeros, ones, _last(zeros, ones, bit)
