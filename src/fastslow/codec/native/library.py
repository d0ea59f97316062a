"""The codec's compiled library: built at first use, loaded once a process, its structures as ctypes sees them.

The structures mirror csrc/step.h and csrc/coder.h, which say what each field is.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path

from fastslow.compiling.build import BuildError, Unit
from fastslow.compiling.build import load as load_unit
from fastslow.compiling.openmp import share_openmp
from fastslow.mixing import native as mixing

_CSRC = Path(__file__).parent / "csrc"
CODEC = Unit(
    "codec",
    "the codec",
    lambda: [*sorted(_CSRC.iterdir()), mixing.HEADER],
    # All that is computed is exact, or is IEEE's in any build: no flag here may loosen that.
    (
        *("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"),
        *("-fno-trapping-math", "-fopenmp-simd", f"-I{mixing.CSRC}"),
    ),
)


class NormArgs(Structure):
    """`fs_norm`."""

    _fields_ = (("gain", c_void_p), ("shift", c_void_p), ("epsilon", c_double))


class CellArgs(Structure):
    """`fs_exact_cell`."""

    _fields_ = (
        *((name, c_int64) for name in ("hidden", "input", "embedded", "norm")),
        *((name, c_double) for name in ("scale", "z_to_index")),
        *((name, c_void_p) for name in ("weight", "table")),
        *((name, NormArgs) for name in ("gates", "memory")),
    )


class NodeArgs(Structure):
    """`fs_exact_node`."""

    _fields_ = tuple((name, c_int64) for name in ("cell", "slot", "source"))


class ModelArgs(Structure):
    """`fs_exact_model`."""

    _fields_ = (
        *((name, c_int64) for name in ("cells", "nodes", "slots", "output", "symbols", "tiles")),
        *((name, c_double) for name in ("keep_h", "keep_c")),
        ("cell", POINTER(CellArgs)),
        ("node", POINTER(NodeArgs)),
        *((name, c_void_p) for name in ("slot", "head")),
        ("head_scale", c_double),
        *((name, c_void_p) for name in ("head_bias", "sigmoid", "tanh")),
        ("half", c_int64),
        ("limit", c_double),
    )


class BlockArgs(Structure):
    """`fs_block`."""

    _fields_ = (
        *((name, c_int64) for name in ("lanes", "length", "symbols", "start")),
        *((name, c_void_p) for name in ("alphabet", "coarse", "fine")),
        *((name, c_int64) for name in ("coarse_size", "fine_bits", "knot_bits")),
        *((name, c_void_p) for name in ("text", "payload")),
        ("payload_size", c_int64),
        ("mixing", POINTER(mixing.TablesArgs)),
    )


_ABI = sum(ctypes.sizeof(kind) * 1000**i for i, kind in enumerate((NormArgs, CellArgs, NodeArgs, ModelArgs, BlockArgs)))

_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "fs_codec_abi": (c_int64, ()),
    "fs_codec_tiles": (c_int64, ()),
    "fs_use_openmp": (None, (c_void_p,) * 3),
    "fs_engine_make": (c_void_p, (c_void_p,)),
    "fs_engine_free": (None, (c_void_p,)),
    "fs_engine_begin": (c_int64, (c_void_p, c_int64)),
    "fs_engine_step": (None, (c_void_p, c_void_p, c_void_p, c_int64)),
    "fs_block_make": (c_void_p, (c_void_p,)),
    "fs_block_free": (None, (c_void_p,)),
    "fs_block_run": (c_int64, (c_void_p, c_void_p, c_int64, c_int64, c_int64)),
    "fs_block_step": (c_int64, (c_void_p, c_void_p, c_int64)),
    "fs_block_previous": (c_void_p, (c_void_p,)),
    "fs_block_text": (c_void_p, (c_void_p,)),
    "fs_block_size": (c_int64, (c_void_p,)),
    "fs_block_finish": (c_void_p, (c_void_p,)),
    "fs_block_read": (c_int64, (c_void_p,)),
}
"""Name: what it returns, what it takes; csrc/codec.cpp has the meaning."""


def load(handle: ctypes.CDLL) -> ctypes.CDLL:
    """The library, its functions typed. BuildError for one of another version."""
    for name, (returns, takes) in _FUNCTIONS.items():
        function = handle[name]
        function.restype, function.argtypes = returns, takes
        setattr(handle, name, function)
    if handle.fs_codec_abi() != _ABI:
        raise BuildError("the compiled codec does not match this version of fastslow")
    share_openmp(handle)
    return handle


@cache
def _load() -> ctypes.CDLL | str:
    return load_unit(CODEC, load)


def library() -> ctypes.CDLL | str:
    """The library, compiled at the first call of all; or why there is none, in words."""
    if os.environ.get("FASTSLOW_NATIVE", "") == "0":
        return "it is switched off by FASTSLOW_NATIVE=0"
    return _load()
