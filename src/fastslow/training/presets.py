"""The presets: a network, how it is trained, and the text it is for.

The recipes are the authors' as they ran them (paper, table of hyper-parameters): Adam, the gradient of the time-summed
loss clipped at 1, PTB's rate times 0.1 after epoch 181 of 200, enwik8's times 0.1 after two validations in a row that
did not improve. The baselines differ in the network alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastslow.errors import unknown_name
from fastslow.lm.config import ModelOptions
from fastslow.lm.presets import MODELS
from fastslow.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A network, its recipe, and the corpus it is for: a name of `data.corpora`, or "stdlib".

    alphabet: "text" for the symbols of the training text, as the paper; "bytes" for all 256.
    """

    name: str
    summary: str
    model: ModelOptions
    train: TrainConfig
    corpus: str
    alphabet: str = "text"


_PTB = TrainConfig()
_ENWIK8 = replace(_PTB, rate=1e-3, epochs=35, schedule="plateau")
_DEMO = TrainConfig(
    batch=32,
    window=64,
    epochs=1000,
    max_updates=4500,
    max_time=165.0,
    rate=4e-3,
    schedule="cosine",
    anneal_by_time=True,
    warmup=135,
    clip=10.0,
    validate_every=1500,
    valid_streams=64,
    test_streams=64,
    checkpoint_seconds=60.0,
)
# Windows as for the large network: over 150 steps the gradient of five untrained cells in sequence is beyond float32.
_STUDY = replace(_ENWIK8, epochs=20, window=100)
# The study on two CPU cores: the same seconds for each network, annealed to the end of them.
_STUDY_SMALL = TrainConfig(
    batch=16,
    window=100,
    epochs=1000,
    max_time=600.0,
    rate=4e-3,
    schedule="cosine",
    anneal_by_time=True,
    warmup=200,
    clip=10.0,
    random_offset=True,
    validate_every=1500,
    valid_streams=64,
    test_streams=32,
    checkpoint_seconds=60.0,
)
# A million weights on a CPU: half an hour of one core with a tile unit, sixteen passes of many small
# updates. By updates, not by time: the same model whatever else the machine does.
_PTB_CPU = TrainConfig(
    batch=32,
    window=100,
    epochs=1000,
    max_updates=25_000,
    rate=4e-3,
    schedule="cosine",
    warmup=750,
    clip=10.0,
    average=0.999,
    random_offset=True,
    precision="bf16",
    validate_every=1250,
    checkpoint_seconds=120.0,
    log_every=100,
)
# The paper's sizes on a CPU: many small updates instead of 200 passes of few large ones. By updates, so repeatable.
_PTB_CPU_PAPER_SIZE = replace(
    _PTB_CPU, batch=64, max_updates=32_000, rate=3e-3, average=0.997, validate_every=800, checkpoint_seconds=300.0
)


def _preset(name: str, summary: str, train: TrainConfig, corpus: str, alphabet: str = "text") -> Preset:
    return Preset(name, summary, MODELS[name], train, corpus, alphabet)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset("demo", "a small FS-LSTM-2 that two cores train in three minutes", _DEMO, "stdlib", "bytes"),
        _preset("ptb-fs-lstm-2", "the paper's FS-LSTM-2 on Penn Treebank (test 1.190)", _PTB, "ptb"),
        _preset("ptb-fs-lstm-4", "the paper's FS-LSTM-4 on Penn Treebank (test 1.193)", _PTB, "ptb"),
        _preset("ptb-stacked-lstm-2", "two stacked LSTMs of as many weights as ptb-fs-lstm-2", _PTB, "ptb"),
        _preset("ptb-sequential-lstm-2", "two LSTMs in sequence, as many weights as ptb-fs-lstm-2", _PTB, "ptb"),
        _preset(
            "ptb-fs-lstm-2-cpu", "the paper's FS-LSTM-2 by our recipe for CPUs, 40 epochs", _PTB_CPU_PAPER_SIZE, "ptb"
        ),
        _preset(
            "ptb-fs-lstm-4-cpu", "the paper's FS-LSTM-4 by our recipe for CPUs, 40 epochs", _PTB_CPU_PAPER_SIZE, "ptb"
        ),
        _preset("ptb-stacked-lstm-2-cpu", "two stacked LSTMs of that size by that recipe", _PTB_CPU_PAPER_SIZE, "ptb"),
        _preset("ptb-cpu", "an FS-LSTM-2 of a million weights, for a CPU and half an hour", _PTB_CPU, "ptb"),
        _preset("ptb-cpu-stacked", "two stacked LSTMs of as many weights as ptb-cpu", _PTB_CPU, "ptb"),
        _preset("ptb-cpu-sequential", "two LSTMs in sequence, as many weights as ptb-cpu", _PTB_CPU, "ptb"),
        _preset("enwik8-fs-lstm-2", "the paper's FS-LSTM-2 on enwik8 (test 1.290)", _ENWIK8, "enwik8"),
        _preset("enwik8-fs-lstm-4", "the paper's FS-LSTM-4 on enwik8 (test 1.277)", _ENWIK8, "enwik8"),
        _preset(
            "enwik8-fs-lstm-4-large",
            "the paper's large FS-LSTM-4 on enwik8 (test 1.245)",
            replace(_ENWIK8, window=100, epochs=50),
            "enwik8",
        ),
        _preset("enwik8-stacked-lstm-2", "two stacked LSTMs of as many weights as enwik8-fs-lstm-2", _ENWIK8, "enwik8"),
        _preset(
            "enwik8-sequential-lstm-2",
            "two LSTMs in sequence, as many weights as enwik8-fs-lstm-2",
            _ENWIK8,
            "enwik8",
        ),
        _preset("study-fs-lstm-4", "the FS-LSTM-4 of the paper's study of the dynamics (test 1.49)", _STUDY, "enwik8"),
        _preset("study-stacked-lstm-5", "the stacked LSTM of that study (test 1.61)", _STUDY, "enwik8"),
        _preset("study-sequential-lstm-5", "the sequential LSTM of that study (test 1.58)", _STUDY, "enwik8"),
        _preset("study-small-fs-lstm-4", "that study's FS-LSTM-4 for two cores and ten minutes", _STUDY_SMALL, "ptb"),
        _preset("study-small-stacked-lstm-5", "that study's stack for two cores and ten minutes", _STUDY_SMALL, "ptb"),
        _preset(
            "study-small-sequential-lstm-5",
            "that study's sequential LSTM for two cores and ten minutes",
            _STUDY_SMALL,
            "ptb",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises UnknownNameError, with the nearest names, where there is none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
