"""The compiled library: loaded once per process, with its structures and functions in ctypes.

The structures mirror csrc/window.h, which documents each field; the sizes are compared when the library is loaded.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_double, c_int8, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import torch

from fastslow.compiling.build import BuildError, Unit, load
from fastslow.compiling.openmp import share_openmp

_CSRC = Path(__file__).parent / "csrc"
ENGINE = Unit("native", "the native engine", lambda: sorted(path for path in _CSRC.rglob("*") if path.is_file()))


class NodeArgs(Structure):
    """`fs_node`."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in ("hidden", "padded", "inputs", "padded_inputs", "slot", "source", "code", "norm")
        ),
        *((name, c_int64) for name in ("blocks", "x_first", "x_blocks", "h_first", "h_blocks")),
        *((name, c_int8 * 4) for name in ("x_rows", "h_rows")),
        ("forget_bias", c_double),
        *((name, c_void_p) for name in ("w_x", "w_h")),
        ("parameters", c_void_p * 8),
        ("places", (c_int8 * 4) * 8),
        *((name, c_void_p) for name in ("forward_panels", "backward_panels", "forward_panels_h", "backward_panels_h")),
        *((name, c_void_p) for name in ("forward_tiles", "backward_tiles", "forward_tiles_h", "backward_tiles_h")),
        ("vector_blocks", c_int64),
        *((name, c_void_p) for name in ("vectors", "z", "stats")),
        *((name, c_int64) for name in ("z_step", "stats_step")),
        ("read", c_void_p),
        *((name, c_int64) for name in ("read_step", "read_ld")),
        *((name, c_void_p) for name in ("dropped", "undropped")),
        *((name, c_int64) for name in ("undropped_step", "undropped_ld")),
        *((name, c_void_p) for name in ("h_old", "c_old", "h_new", "c_new")),
        *((name, c_int64) for name in ("old_step", "new_step")),
        ("emitted", c_void_p),
        ("emitted_step", c_int64),
        *((name, c_void_p) for name in ("d_out", "d_parameters")),
        *((name, c_int64) for name in ("input_grad", "input_adds")),
    )


class WindowArgs(Structure):
    """`fs_window`."""

    _fields_ = (
        *((name, c_int64) for name in ("steps", "rows", "nodes", "slots", "inputs", "output", "threads", "groups")),
        ("node", POINTER(NodeArgs)),
        *((name, c_void_p) for name in ("x", "y", "lengths", "resets")),
        *((name, c_int64) for name in ("random", "zoneout", "drop")),
        *((name, c_uint32) for name in ("key_low", "key_high", "first_step", "first_row")),
        *((name, c_uint32) for name in ("drop_threshold", "threshold_h", "threshold_c", "unused")),
        *((name, c_double) for name in ("drop_scale", "rate_h", "rate_c")),
        ("scratch", c_void_p),
        *((name, c_int64) for name in ("scratch_size", "parts", "tiles")),
        ("split", c_void_p),
        ("split_size", c_int64),
        ("gather", c_void_p),
        ("gather_ld", c_int64),
        *((name, POINTER(c_void_p)) for name in ("d_h", "d_c")),
        *((name, c_void_p) for name in ("d_y", "d_x")),
        *((name, c_int64) for name in ("first", "last", "replay")),
    )


class OuterArgs(Structure):
    """`fs_outer`."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "count", "hidden", "padded", "ldb", "blocks")),
        ("to", c_int8 * 8),
        *((name, c_int64) for name in ("parts", "tiles", "threads", "chunk", "add")),
        *((name, c_int64 * 2) for name in ("m", "lda")),
        *((name, c_void_p * 2) for name in ("a", "out")),
        *((name, c_void_p) for name in ("b", "sums", "scratch")),
        ("scratch_size", c_int64),
    )


class StepNodeArgs(Structure):
    """`fs_step_node`."""

    _fields_ = (
        *((name, c_int64) for name in ("hidden", "padded", "inputs", "slot", "source", "norm", "code", "blocks")),
        *((name, c_int64) for name in ("vector_blocks", "x_blocks", "h_blocks", "joint")),
        *((name, c_int8 * 4) for name in ("x_places", "h_places")),
        ("forget_bias", c_double),
        *((name, c_void_p) for name in ("w_x", "w_h", "scale_x", "scale_h")),
        *((name, c_int64) for name in ("ld_x", "ld_h")),
        ("parameters", c_void_p * 8),
        ("places", (c_int8 * 4) * 8),
    )


class StepArgs(Structure):
    """`fs_step`."""

    _fields_ = (
        *((name, c_int64) for name in ("steps", "rows", "nodes", "slots", "inputs", "output", "threads")),
        *((name, c_int64) for name in ("int8", "zoneout")),
        *((name, c_double) for name in ("rate_h", "rate_c")),
        ("node", POINTER(StepNodeArgs)),
        *((name, c_void_p) for name in ("scratch", "x", "y")),
        *((name, POINTER(c_void_p)) for name in ("state_in", "state_out")),
        *((name, c_void_p) for name in ("tokens", "embedding", "head", "head_bias", "logits")),
        ("vocabulary", c_int64),
    )


def _abi() -> int:
    """The value that `fs_abi` must return."""
    sizes = [ctypes.sizeof(kind) for kind in (NodeArgs, WindowArgs, OuterArgs, StepArgs, StepNodeArgs)]
    return sum(size * 1000**i for i, size in enumerate(sizes))


class Library:
    """The functions of csrc/engine.cpp, by type."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        handle.fs_abi.restype = handle.fs_vector_bytes.restype = c_int64
        if handle.fs_abi() != _abi():
            raise BuildError("the compiled library does not match this version of fastslow")
        self.vector_bytes: int = handle.fs_vector_bytes()
        types = {torch.float32: "float", torch.float64: "double"}
        self.forward = {dtype: handle[f"fs_forward_{name}"] for dtype, name in types.items()}
        self.backward = {dtype: handle[f"fs_backward_{name}"] for dtype, name in types.items()}
        for function in (*self.forward.values(), *self.backward.values()):
            function.argtypes, function.restype = (POINTER(WindowArgs), c_int64), None
        handle.fs_dots.restype = handle.fs_tiles.restype = c_int64
        self.dots = bool(handle.fs_dots())
        """Whether the processor has dot products of bfloat16 (AVX-512 BF16)."""
        self.tiles = bool(handle.fs_tiles())
        """Whether products of float32 can run on the processor's tile unit (AMX)."""
        self.outer = handle.fs_outer_float
        self.outer.argtypes, self.outer.restype = (POINTER(OuterArgs),), None
        self.step = {dtype: handle[f"fs_step_{name}"] for dtype, name in types.items()}
        self.step_scratch = {dtype: handle[f"fs_step_scratch_{name}"] for dtype, name in types.items()}
        for function in self.step.values():
            function.argtypes, function.restype = (c_void_p,), None
        for function in self.step_scratch.values():
            function.argtypes, function.restype = (c_void_p,), c_int64
        handle.fs_use_openmp.argtypes, handle.fs_use_openmp.restype = (c_void_p,) * 3, None
        share_openmp(handle)


@cache
def _load() -> Library | str:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_run_on_one_thread)
    return load(ENGINE, Library)


def _run_on_one_thread() -> None:
    """In a forked child PyTorch's OpenMP threads are gone: a matrix product on several would wait for them for ever."""
    torch.set_num_threads(1)


def library() -> Library | str:
    """The library, compiled at the first call of all; or why there is none, in words."""
    if os.environ.get("FASTSLOW_NATIVE", "") == "0":
        return "it is switched off by FASTSLOW_NATIVE=0"
    return _load()
