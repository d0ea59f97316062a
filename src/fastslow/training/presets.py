"""The presets: each a network, its training recipe, and its corpus.

To add a preset, add an entry to `PRESETS`.

The networks are the paper's (its table of hyper-parameters), those of its study of the dynamics, those for Penn
Treebank on a CPU, and the demo's. A baseline has the embedding and the regularization of its FS-LSTM-2 and the hidden
size with the closest number of weights; only the network differs.

The paper's recipes are those of the authors' program: Adam, the gradient of the time-summed loss clipped at 1, the rate
multiplied by 0.1 after epoch 181 of 200 (PTB) or after two validations in a row without improvement (enwik8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastslow.errors import unknown_name
from fastslow.lm.config import ModelOptions
from fastslow.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A network, its recipe, and its corpus: a name of `data.corpora`, or "stdlib".

    alphabet: "text" for the symbols of the training text, as in the paper; "bytes" for all 256.
    """

    name: str
    summary: str
    model: ModelOptions
    train: TrainConfig
    corpus: str
    alphabet: str = "text"


_PTB_NET = ModelOptions(embedding_size=128, hidden_size=700, slow_size=400, dropout=0.35, zoneout_c=0.5, zoneout_h=0.1)
_ENWIK8_NET = ModelOptions(
    embedding_size=256, hidden_size=900, slow_size=1500, dropout=0.2, zoneout_c=0.3, zoneout_h=0.05
)

# The study of the dynamics (paper, section 4.2): networks of equal time per step, without regularization.
# The paper does not give their embedding size; here it is that of its enwik8 networks.
_STUDY_NET = ModelOptions(embedding_size=256, hidden_size=450, slow_size=450, depth=4)
# On two CPU cores: 49, 41 and 47 ms of one core per training step of 16 streams and 100 steps.
_STUDY_SMALL_NET = ModelOptions(embedding_size=64, hidden_size=112, slow_size=112, depth=4)

# About a million weights: two cores train them for many epochs of Penn Treebank in an hour.
_PTB_CPU_NET = ModelOptions(embedding_size=32, hidden_size=256, slow_size=160, dropout=0.05)

# The paper's sizes under our own recipe for CPUs: fewer passes, so less regularisation than the paper's 200 take.
_PTB_TWO_CPU_NET = replace(_PTB_NET, dropout=0.25, zoneout_c=0.1, zoneout_h=0.03)
_PTB_FOUR_CPU_NET = replace(
    _PTB_NET, hidden_size=500, slow_size=400, depth=4, dropout=0.25, zoneout_c=0.15, zoneout_h=0.03
)


def _stacked(model: ModelOptions, size: int, depth: int) -> ModelOptions:
    return replace(model, architecture="stacked", hidden_size=size, slow_size=None, depth=depth)


def _sequential(model: ModelOptions, size: int, depth: int) -> ModelOptions:
    return replace(model, architecture="sequential", hidden_size=size, slow_size=None, depth=depth)


_PTB_RECIPE = TrainConfig()
_ENWIK8_RECIPE = replace(_PTB_RECIPE, rate=1e-3, epochs=35, schedule="plateau")
_DEMO_RECIPE = TrainConfig(
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
# Windows as for the large network: over 150 steps the gradient of five untrained sequential cells overflows float32.
_STUDY_RECIPE = replace(_ENWIK8_RECIPE, epochs=20, window=100)
# The study on two CPU cores: the same wall-clock time for each network, annealed to its end.
_STUDY_SMALL_RECIPE = TrainConfig(
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
_PTB_CPU_RECIPE = TrainConfig(
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
_PTB_CPU_PAPER_SIZE_RECIPE = replace(
    _PTB_CPU_RECIPE,
    batch=64,
    max_updates=9_600,
    rate=3e-3,
    warmup=300,
    average=0.995,
    validate_every=800,
    checkpoint_seconds=300.0,
)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "demo",
            "a small FS-LSTM-2 that two cores train in three minutes",
            ModelOptions(embedding_size=64, hidden_size=160, slow_size=96, dropout=0.02),
            _DEMO_RECIPE,
            "stdlib",
            "bytes",
        ),
        Preset("ptb-fs-lstm-2", "the paper's FS-LSTM-2 on Penn Treebank (test 1.190)", _PTB_NET, _PTB_RECIPE, "ptb"),
        Preset(
            "ptb-fs-lstm-4",
            "the paper's FS-LSTM-4 on Penn Treebank (test 1.193)",
            replace(_PTB_NET, hidden_size=500, slow_size=400, depth=4),
            _PTB_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-stacked-lstm-2",
            "two stacked LSTMs of as many weights as ptb-fs-lstm-2",
            _stacked(_PTB_NET, 752, depth=2),
            _PTB_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-sequential-lstm-2",
            "two LSTMs in sequence, as many weights as ptb-fs-lstm-2",
            _sequential(_PTB_NET, 914, depth=2),
            _PTB_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-fs-lstm-2-cpu",
            "the paper's FS-LSTM-2 by our recipe for CPUs, 12 epochs",
            _PTB_TWO_CPU_NET,
            _PTB_CPU_PAPER_SIZE_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-fs-lstm-4-cpu",
            "the paper's FS-LSTM-4 by our recipe for CPUs, 12 epochs",
            _PTB_FOUR_CPU_NET,
            _PTB_CPU_PAPER_SIZE_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-stacked-lstm-2-cpu",
            "two stacked LSTMs of that size by that recipe",
            _stacked(_PTB_TWO_CPU_NET, 752, depth=2),
            _PTB_CPU_PAPER_SIZE_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-cpu",
            "an FS-LSTM-2 of a million weights, for a CPU and half an hour",
            _PTB_CPU_NET,
            _PTB_CPU_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-cpu-stacked",
            "two stacked LSTMs of as many weights as ptb-cpu",
            _stacked(_PTB_CPU_NET, 282, depth=2),
            _PTB_CPU_RECIPE,
            "ptb",
        ),
        Preset(
            "ptb-cpu-sequential",
            "two LSTMs in sequence, as many weights as ptb-cpu",
            _sequential(_PTB_CPU_NET, 343, depth=2),
            _PTB_CPU_RECIPE,
            "ptb",
        ),
        Preset(
            "enwik8-fs-lstm-2", "the paper's FS-LSTM-2 on enwik8 (test 1.290)", _ENWIK8_NET, _ENWIK8_RECIPE, "enwik8"
        ),
        Preset(
            "enwik8-fs-lstm-4",
            "the paper's FS-LSTM-4 on enwik8 (test 1.277)",
            replace(_ENWIK8_NET, hidden_size=730, depth=4),
            _ENWIK8_RECIPE,
            "enwik8",
        ),
        Preset(
            "enwik8-fs-lstm-4-large",
            "the paper's large FS-LSTM-4 on enwik8 (test 1.245)",
            replace(_ENWIK8_NET, hidden_size=1200, depth=4, dropout=0.25),
            replace(_ENWIK8_RECIPE, window=100, epochs=50),
            "enwik8",
        ),
        Preset(
            "enwik8-stacked-lstm-2",
            "two stacked LSTMs of as many weights as enwik8-fs-lstm-2",
            _stacked(_ENWIK8_NET, 1460, depth=2),
            _ENWIK8_RECIPE,
            "enwik8",
        ),
        Preset(
            "enwik8-sequential-lstm-2",
            "two LSTMs in sequence, as many weights as enwik8-fs-lstm-2",
            _sequential(_ENWIK8_NET, 1774, depth=2),
            _ENWIK8_RECIPE,
            "enwik8",
        ),
        Preset(
            "study-fs-lstm-4",
            "the FS-LSTM-4 of the paper's study of the dynamics (test 1.49)",
            _STUDY_NET,
            _STUDY_RECIPE,
            "enwik8",
        ),
        Preset(
            "study-stacked-lstm-5",
            "the stacked LSTM of that study (test 1.61)",
            _stacked(_STUDY_NET, 375, depth=5),
            _STUDY_RECIPE,
            "enwik8",
        ),
        Preset(
            "study-sequential-lstm-5",
            "the sequential LSTM of that study (test 1.58)",
            _sequential(_STUDY_NET, 500, depth=5),
            _STUDY_RECIPE,
            "enwik8",
        ),
        Preset(
            "study-small-fs-lstm-4",
            "that study's FS-LSTM-4 for two cores and ten minutes",
            _STUDY_SMALL_NET,
            _STUDY_SMALL_RECIPE,
            "ptb",
        ),
        Preset(
            "study-small-stacked-lstm-5",
            "that study's stack for two cores and ten minutes",
            _stacked(_STUDY_SMALL_NET, 96, depth=5),
            _STUDY_SMALL_RECIPE,
            "ptb",
        ),
        Preset(
            "study-small-sequential-lstm-5",
            "that study's sequential LSTM for two cores and ten minutes",
            _sequential(_STUDY_SMALL_NET, 128, depth=5),
            _STUDY_SMALL_RECIPE,
            "ptb",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset with this name. Raises UnknownNameError, with the nearest names, if there is none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
