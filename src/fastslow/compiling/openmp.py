"""Use PyTorch's OpenMP threads in compiled code: a second team would compete with PyTorch's, whose threads spin."""

from __future__ import annotations

import ctypes
from pathlib import Path


def share_openmp(handle: ctypes.CDLL) -> None:
    """Pass the entry points of the OpenMP runtime loaded by PyTorch to a library, if it is GNU's."""
    for path in _loaded("libgomp"):
        try:
            runtime = ctypes.CDLL(path)
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            handle.fs_use_openmp(*(ctypes.cast(runtime[name], ctypes.c_void_p) for name in names))
        except (OSError, AttributeError):
            continue
        return


def _loaded(name: str) -> list[str]:
    """Shared libraries of this process whose file name starts with `name`; PyTorch's own first."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if name in line)
    found = [path for path in paths if Path(path).name.startswith(name)]
    return sorted(found, key=lambda path: "torch" not in path)
