"""The masks of a window as multipliers, drawn for a few steps at a time.

The random words are those of `fastslow.noise`. Here they are generated in place, for as many steps at once as fit in
the cache, and returned as floating-point tensors: products and `torch.lerp` are several times faster with them than
with bool masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastslow.backends.base import Rates
from fastslow.backends.window.workspace import Workspace
from fastslow.noise import GOLDEN, MULTIPLIER_1, MULTIPLIER_2, Noise, dropout_threshold, row_words, zoneout_threshold
from fastslow.wiring import Wiring

Share: TypeAlias = Tensor | float | None
"""The share of the new value that a unit takes: (k, B, H) or (k, B, 1) for k steps, a float, or None for all of it."""

PIECE = {"cpu": 2**17, "cuda": 2**24}
"""The number of words generated at once."""
_GOLDEN = GOLDEN - 2**32


class Masks:
    """All masks of one window, by site and steps [t0, t1). A site's masks are valid until its next draw into the same
    room.

    x (T, B, X). noise: None in evaluation. running: (T, B, 1) bool, false where a row has ended, or None.
    """

    def __init__(
        self,
        wiring: Wiring,
        weights: Sequence[Any],
        x: Tensor,
        noise: Noise | None,
        rates: Rates,
        running: Tensor | None,
    ) -> None:
        self.rates, self.noise, self.dtype = rates, noise, x.dtype
        self.running = None if running is None else running.to(x.dtype)
        self.sites: dict[int, _Site] = {}
        if noise is None:
            return
        steps, rows, _ = x.shape
        wanted: dict[int, int] = {}
        if rates.dropout > 0:
            wanted |= {wiring.input_site(n): w.w_x.shape[1] for n, w in enumerate(weights) if w.w_x is not None}
            wanted[wiring.output_site] = weights[wiring.output_index].hidden_size
        if rates.zoneout_h > 0 or rates.zoneout_c > 0:
            wanted |= {wiring.zoneout_site(n): w.hidden_size for n, w in enumerate(weights)}
        for site, units in wanted.items():
            a, b = row_words(noise, steps, site, rows)
            unit = torch.arange(units, dtype=torch.int32, device=a.device) * _GOLDEN
            self.sites[site] = _Site(a.unsqueeze(-1), b.unsqueeze(-1), unit)

    def dropout(self, site: int, t0: int, t1: int, room: Workspace) -> Tensor | None:
        """The dropout factor of each unit, (t1 - t0, B, units): 0 or 1 / (1 - p); None without dropout."""
        p = self.rates.dropout
        if self.noise is None or p == 0:
            return None
        drawn = self.sites[site]
        factor = room.take(("dropout", site), t1 - t0, *drawn.shape)
        for p0, p1 in drawn.pieces(t0, t1):
            bits, spare = drawn.draw(p0, p1, room)
            factor[p0 - t0 : p1 - t0] = _top(bits, 8, spare).ge_(dropout_threshold(p))
        return factor.mul_(0.0 if p == 1 else 1 / (1 - p))

    def zoneout(self, site: int, t0: int, t1: int, room: Workspace) -> tuple[Share, Share]:
        """The shares of the new h and of the new c that a unit takes."""
        p_h, p_c = self.rates.zoneout_h, self.rates.zoneout_c
        if self.noise is None or p_h == p_c == 0:
            return self._among_running(p_h, t0, t1), self._among_running(p_c, t0, t1)
        drawn = self.sites[site]
        h, c = (
            room.take(("zoneout", site, letter), t1 - t0, *drawn.shape) if p else None
            for p, letter in ((p_h, "h"), (p_c, "c"))
        )
        for p0, p1 in drawn.pieces(t0, t1):
            bits, spare = drawn.draw(p0, p1, room)
            if h is not None:
                h[p0 - t0 : p1 - t0] = torch.bitwise_and(bits, 0xFFFF, out=spare).ge_(zoneout_threshold(p_h))
            if c is not None:
                c[p0 - t0 : p1 - t0] = _top(bits, 16, spare).ge_(zoneout_threshold(p_c))
        return self._share(h, t0, t1), self._share(c, t0, t1)

    def _share(self, drawn: Tensor | None, t0: int, t1: int) -> Share:
        if drawn is None:
            return self._among_running(0.0, t0, t1)
        return drawn if self.running is None else drawn.mul_(self.running[t0:t1])

    def _among_running(self, p: float, t0: int, t1: int) -> Share:
        if self.running is None:
            return None if p == 0 else 1.0 - p
        return self.running[t0:t1] * (1.0 - p)


@dataclass(frozen=True)
class _Site:
    """The words of `fastslow.noise.row_words`, each (T, B, 1), and those of the units."""

    a: Tensor
    b: Tensor
    unit: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and units."""
        return self.a.shape[1], self.unit.shape[0]

    def pieces(self, t0: int, t1: int) -> Iterator[tuple[int, int]]:
        """[t0, t1) in pieces that fit in the cache, which also bounds their memory."""
        length = max(1, PIECE[self.a.device.type] // max(1, math.prod(self.shape)))
        for start in range(t0, t1, length):
            yield start, min(start + length, t1)

    def draw(self, t0: int, t1: int, room: Workspace) -> tuple[Tensor, Tensor]:
        """`fastslow.noise.random_bits` of these steps, and a scratch tensor of the same shape."""
        u, spare = (room.take(name, t1 - t0, *self.shape, dtype=torch.int32) for name in ("bits", "spare bits"))
        torch.add(self.unit, self.a[t0:t1], out=u)
        u.bitwise_xor_(_top(u, 16, spare)).mul_(MULTIPLIER_1)
        u.bitwise_xor_(_top(u, 15, spare)).add_(self.b[t0:t1]).mul_(MULTIPLIER_2)
        return u.bitwise_xor_(_top(u, 16, spare)), spare


def _top(bits: Tensor, by: int, out: Tensor) -> Tensor:
    """`bits >> by` for unsigned words."""
    return torch.bitwise_right_shift(bits, by, out=out).bitwise_and_((1 << (32 - by)) - 1)
