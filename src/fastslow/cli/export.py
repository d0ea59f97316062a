"""`fastslow export`: a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from fastslow.cli.common import Count, OptionError, load_model


def export(
    run: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[RUN]", help_behavior_hint="(default: the newest run in runs/, or else the bundled model)"
        ),
    ] = None,
    *,
    onnx: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    window: Count = None,
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False,
) -> None:
    """Write a model to an ONNX file, for programs without PyTorch, and check the file with ONNX Runtime.

    Inputs are token indices and the state, outputs are logits and the new state. The alphabet is in the metadata.

    Args:
        run: the folder of a run or model, or english for the bundled model
        onnx: the file to write
        window: steps per call, at most 256 (default: one step, without a time dimension)
        force: overwrite the file
    """
    if onnx.exists() and not force:
        raise OptionError(f"{onnx} exists: name another file, or overwrite it with --force")
    lm = load_model(run, "cpu", "reference")
    from fastslow.lm.export import export_onnx

    difference = export_onnx(lm, onnx, window=window)
    steps = "one step" if window is None else f"windows of {window} steps"
    print(f"wrote {onnx} ({onnx.stat().st_size / 1e6:.1f} MB), {steps}, {lm.num_parameters:,} weights")
    print(f"checked with ONNX Runtime: outputs differ from PyTorch's by at most {difference:.1e}")
