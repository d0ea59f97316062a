"""The network once more, in NumPy, one unit at a time where that is clearer, sharing no code with the package.

Written from the equations alone: a row of the batch at a time, gates by name, masks passed in as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray


def sigmoid(v: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-v))


def normalise(v: Array) -> Array:
    centred = v - v.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-3)


def cell(
    p: Mapping[str, Array],
    x: Array | None,
    h: Array,
    c: Array,
    *,
    zone_h: float | Array,
    zone_c: float | Array,
    forget_bias: float = 1.0,
) -> tuple[Array, Array]:
    """One row. zone_h, zone_c: how much of the old value is kept, a number (the mean) or 0/1 a unit."""
    size = len(h)
    gates = {}
    for k, name in enumerate("ifgo"):
        rows = slice(k * size, (k + 1) * size)
        z = p["weight_hh"][rows] @ h
        if x is not None:
            z = z + p["weight_ih"][rows] @ x
        if "bias" in p:
            z = z + p["bias"][rows]
        if "gate_norm.weight" in p:
            z = normalise(z) * p["gate_norm.weight"][rows] + p["gate_norm.bias"][rows]
        gates[name] = z
    new_c = sigmoid(gates["f"] + forget_bias) * c + sigmoid(gates["i"]) * np.tanh(gates["g"])
    inner = new_c
    if "cell_norm.weight" in p:
        inner = normalise(new_c) * p["cell_norm.weight"] + p["cell_norm.bias"]
    new_h = sigmoid(gates["o"]) * np.tanh(inner)
    return zone_h * h + (1 - zone_h) * new_h, zone_c * c + (1 - zone_c) * new_c


def fast_slow(
    fast: Sequence[Mapping[str, Array]],
    slow: Mapping[str, Array],
    xs: Array,
    state: tuple[Array, Array, Array, Array],
    *,
    zoneout_h: float = 0.0,
    zoneout_c: float = 0.0,
    zones: Mapping[tuple[str, int], tuple[Array, Array]] | None = None,
    drops: Mapping[str, Array] | None = None,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """One row of a batch through T steps. xs (T, X), state (fast h, fast c, slow h, slow c).

    zones[(cell, t)]: the units of h and c that keep their old value (training), else the rates are expectations.
    drops["x" | "fs" | "sf" | "y"]: (T, units) factors of the four dropout sites.
    """
    fh, fc, sh, sc = state
    ys = []

    def kept(name: str, t: int) -> tuple[float | Array, float | Array]:
        return (zoneout_h, zoneout_c) if zones is None else zones[(name, t)]

    def drop(name: str, t: int, v: Array) -> Array:
        return v if drops is None else v * drops[name][t]

    for t, x in enumerate(xs):
        zh, zc = kept("fast.0", t)
        fh, fc = cell(fast[0], drop("x", t, x), fh, fc, zone_h=zh, zone_c=zc)
        zh, zc = kept("slow", t)
        sh, sc = cell(slow, drop("fs", t, fh), sh, sc, zone_h=zh, zone_c=zc)
        zh, zc = kept("fast.1", t)
        fh, fc = cell(fast[1], drop("sf", t, sh), fh, fc, zone_h=zh, zone_c=zc)
        for i in range(2, len(fast)):
            zh, zc = kept(f"fast.{i}", t)
            fh, fc = cell(fast[i], None, fh, fc, zone_h=zh, zone_c=zc)
        ys.append(drop("y", t, fh))
    return np.stack(ys), (fh, fc, sh, sc)


def hash_bits(key: int, step: int, site: int, row: int, unit: int) -> int:
    """The counter-based function of the masks, on Python integers."""
    m = 0xFFFFFFFF

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x21F0AAAD & m
        x ^= x >> 15
        x = x * 0x735A2D97 & m
        return x ^ x >> 15

    low, high = key & m, key >> 32 & m
    a = mix((row + mix((step + mix((site + mix(low)) & m)) & m)) & m)
    b = mix(row ^ mix(step ^ mix(site ^ mix((high + 0x9E3779B9) & m))))
    u = (unit * 0x9E3779B9 + a) & m
    u ^= u >> 16
    u = u * 0x21F0AAAD & m
    u ^= u >> 15
    u = (u + b) * 0x735A2D97 & m
    return u ^ u >> 16
