"""The mixer in compiled C++: built at first use, with results identical to `reference`."""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from fastslow.compiling.build import BuildError, Unit, ensure
from fastslow.mixing.reference import Coded
from fastslow.mixing.tables import Ints, tables

CSRC = Path(__file__).parent / "csrc"
HEADER = CSRC / "mixer.h"
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden")
MIXING = Unit("mixing", "the context mixer", lambda: sorted(CSRC.iterdir()), FLAGS)
_KINDS = {
    "stretch": np.int16,
    "squash": np.uint16,
    "rate": np.int32,
    "next_history": np.uint8,
    "initial": np.uint32,
    "logarithm": np.int32,
}


class TablesArgs(Structure):
    """`fs_mixing_tables`."""

    _fields_ = tuple((name, c_void_p) for name in _KINDS)


_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "fs_mixing_abi": (c_int64, ()),
    "fs_mixer_make": (c_void_p, (c_void_p, c_int64, c_int64, c_int64)),
    "fs_mixer_free": (None, (c_void_p,)),
    "fs_mixer_code": (
        None,
        (c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p),
    ),
}


@cache
def _arrays() -> tuple[NDArray[Any], ...]:
    made = tables()
    return tuple(np.ascontiguousarray(getattr(made, name), kind) for name, kind in _KINDS.items())


def tables_args() -> TablesArgs:
    """The mixer's tables for C++; their memory is never freed."""
    return TablesArgs(*(array.ctypes.data for array in _arrays()))


@cache
def _load() -> ctypes.CDLL | str:
    try:
        handle = ctypes.CDLL(str(ensure(MIXING)))
        for name, (returns, takes) in _FUNCTIONS.items():
            function = handle[name]
            function.restype, function.argtypes = returns, takes
            setattr(handle, name, function)
        if handle.fs_mixing_abi() != ctypes.sizeof(TablesArgs):
            return "the compiled mixer does not match this version of fastslow"
        return handle
    except (OSError, AttributeError, BuildError) as error:
        return str(error)


def library() -> ctypes.CDLL | str:
    """The library, compiled on the first call; or the reason why it is not available."""
    if os.environ.get("FASTSLOW_NATIVE", "") == "0":
        return "it is switched off by FASTSLOW_NATIVE=0"
    return _load()


class NativeMixer:
    """The compiled part of `Mixer`; the caller checks the arguments."""

    def __init__(self, length: int, lanes: int, network: bool) -> None:
        found = library()
        assert not isinstance(found, str)
        made = found.fs_mixer_make(ctypes.byref(tables_args()), length, lanes, network)
        if not made:
            raise MemoryError(f"not enough memory for a mixer of {length:,} bytes")
        self._library, self._address = found, made
        finalize(self, found.fs_mixer_free, made)

    def code(self, data: NDArray[np.uint8], frequencies: Ints | None, symbols: bytes, likeliest: int) -> Coded:
        """data (n,), frequencies (n, V)."""
        n = len(data)
        made = Coded(
            *(np.empty((n, k), kind) for k, kind in ((8, np.uint16), (likeliest, np.uint8), (likeliest, np.uint32)))
        )
        rows = None if frequencies is None else np.ascontiguousarray(frequencies, dtype=np.int64)
        self._library.fs_mixer_code(
            self._address,
            data.ctypes.data,
            n,
            None if rows is None else rows.ctypes.data,
            symbols,
            len(symbols),
            made.probabilities.ctypes.data,
            likeliest,
            made.likeliest.ctypes.data,
            made.chances.ctypes.data,
        )
        return made
