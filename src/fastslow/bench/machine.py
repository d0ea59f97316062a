"""A description of the machine on which results were measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import fastslow
from fastslow.compiling.build import BuildError, compiler


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, threads, versions, compiler, date; also the name of a CUDA device."""
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": _compiler(),
        "fastslow": fastslow.__version__,
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {"device": about.name, "multiprocessors": about.multi_processor_count, "cuda": torch.version.cuda}
    return found


def describe(machine: dict[str, Any]) -> str:
    """One line."""
    parts = [
        *([f"{machine['device']} (CUDA {machine['cuda']})"] if "device" in machine else []),
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, {machine['vectors']}",
        f"torch {machine['torch']}, Python {machine['python']}, {machine['compiler'] or 'no compiler'}",
        f"fastslow {machine['fastslow']}",
        machine["date"],
    ]
    return "; ".join(parts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _compiler() -> str | None:
    try:
        told = subprocess.run([compiler(), "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (BuildError, OSError, subprocess.SubprocessError):
        return None
    return " ".join(told.splitlines()[0].split()) if told else None
