"""bfloat16 where the device has it, float32 where it would be emulated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastslow.training import precision, prepare
from fastslow.training.updater import Updater
from tests.training.test_updater import CONFIG, small_lm, window

CPU = torch.device("cpu")


def test_autocast_is_on_for_bf16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    for name, on in (("fp32", False), ("bf16", True)):
        with precision.autocast(CPU, name):  # type: ignore[arg-type]
            assert torch.is_autocast_enabled("cpu") == on


def test_a_gpu_multiplies_in_bf16_and_a_cpu_if_pytorch_says_so() -> None:
    assert precision.multiplies_bf16(torch.device("cuda"))
    assert precision.multiplies_bf16(CPU) == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_a_cpu_without_bfloat16_trains_in_float32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision, prepare):
        monkeypatch.setattr(module, "multiplies_bf16", lambda device: False)
    bf16 = replace(CONFIG, precision="bf16")
    lm, full = small_lm(), small_lm()
    step = Updater(lm, bf16).step(*window(), None, 0.01)
    expected = Updater(full, CONFIG).step(*window(), None, 0.01)
    assert torch.equal(step.loss_nats, expected.loss_nats)
    engine = prepare._engine(lm.config, bf16, 4, "auto", CPU)
    assert engine.split(";")[0] == "native in float32 (this CPU has no bfloat16 instructions)"
    assert prepare._engine(lm.config, CONFIG, 4, "auto", CPU).split(";")[0] == "native"
