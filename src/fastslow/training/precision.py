"""The precision of the matrix products of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastslow.training.config import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a training step: autocast to bfloat16 for "bf16", if the device has such products."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and multiplies_bf16(device))


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has fast bfloat16 products.

    A CPU without instructions for them emulates them, and takes several times as long as in float32.
    """
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
