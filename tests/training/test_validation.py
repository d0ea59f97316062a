from __future__ import annotations

from dataclasses import replace

import torch

from fastslow.training.config import TrainConfig
from fastslow.training.validation import scoring_type


def test_validations_on_a_gpu_are_in_the_precision_of_the_training() -> None:
    plain, gpu, cpu = TrainConfig(), torch.device("cuda"), torch.device("cpu")
    rounded = replace(plain, precision="bf16")
    assert scoring_type("valid", gpu, rounded) == torch.bfloat16
    assert scoring_type("test", gpu, rounded) is None
    assert scoring_type("valid", cpu, rounded) is None
    assert scoring_type("valid", gpu, plain) is None
