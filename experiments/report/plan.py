"""The rows of `RESULTS.md`: those of the paper and further ones, with the commands that measure them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One planned row.

    name: the name of its records. paper_bpc: the paper's result by `protocol`, as printed there, empty if there is
    none.
    paper_parameters: as printed in the paper. command: measures the row, given only the corpus.
    """

    name: str
    model: str
    protocol: str
    command: str
    paper_bpc: str = ""
    paper_parameters: str = ""


@dataclass(frozen=True)
class Table:
    """A table of `RESULTS.md`. protocols: one column per protocol."""

    name: str
    title: str
    about: str
    protocols: tuple[str, ...]
    rows: tuple[Row, ...]


def _train(preset: str) -> str:
    return f"fastslow train --preset {preset} --out runs/{preset}"


def _dynamic(preset: str, corpus: str) -> str:
    return f"{_train(preset)} && fastslow evaluate runs/{preset} {corpus} --dynamic"


_LARGE = "enwik8-fs-lstm-4-large"
_STUDY = "python -m experiments.study"
_CPU = "python -m experiments.ptb_cpu"
_OURS = "python -m experiments.ptb --jobs 2 --nice 19"

_RECIPES = {
    "base": "the base recipe of ptb-cpu",
    "no-average": "no average of the weights (base: exponential, 0.999)",
    "tail-average": "the mean of the weights of the last 30% (base: exponential, 0.999)",
    "no-random-offset": "no random offset (base: one each epoch)",
    "jitter": "windows of random length, 60 to 140 steps (base: 100)",
    "reset": "1% of the states reset before each update (base: none)",
    "clip-1": "clip at 1 (base: 10)",
    "beta1-0": "Adam without momentum, beta1 0 (base: 0.9)",
    "fp32": "products in float32 (base: bfloat16)",
    "no-dropout": "no dropout (base: 0.05)",
    "more-dropout": "dropout 0.15 (base: 0.05)",
    "zoneout": "zoneout 0.1 of c, 0.05 of h in place of dropout",
    "dropout-and-zoneout": "that zoneout besides the dropout",
    "small": "fast 160, slow 96 (base: 256, 160)",
    "large": "fast 384, slow 256 (base: 256, 160)",
}

TABLES = (
    Table(
        "ptb",
        "Penn Treebank",
        "Test bits per character, by the paper's raw protocol (the files as they are) and by the char protocol of most "
        "other work (the same lines without the space at both ends), both from one run.",
        ("raw", "char"),
        (
            Row("ptb-fs-lstm-2", "FS-LSTM-2", "raw", _train("ptb-fs-lstm-2"), "1.190", "7.2M"),
            Row("ptb-fs-lstm-4", "FS-LSTM-4", "raw", _train("ptb-fs-lstm-4"), "1.193", "6.5M"),
            Row("ptb-stacked-lstm-2", "stacked LSTM-2", "raw", _train("ptb-stacked-lstm-2"), "1.243", "6.6M"),
            Row("ptb-sequential-lstm-2", "sequential LSTM-2", "raw", _train("ptb-sequential-lstm-2")),
            Row("ptb-fs-lstm-2-dynamic", "FS-LSTM-2, dynamic evaluation", "raw", _dynamic("ptb-fs-lstm-2", "ptb")),
        ),
    ),
    Table(
        "ptb-ours",
        "Penn Treebank at the paper's sizes, by our recipe for CPUs",
        "12 epochs of many small updates instead of 200 of few large ones, one thread per network (`fastslow info` has "
        "the recipe). Dynamic evaluation's settings are tuned on validation text alone; a pair is FS-LSTM-2 with "
        "FS-LSTM-4, their probabilities averaged.",
        ("raw", "char"),
        (
            Row("ptb-fs-lstm-2-cpu", "FS-LSTM-2", "raw", _OURS),
            Row("ptb-fs-lstm-4-cpu", "FS-LSTM-4", "raw", _OURS),
            Row("ptb-stacked-lstm-2-cpu", "stacked LSTM-2", "raw", _OURS),
            Row("ptb-fs-lstm-2-cpu-dynamic", "FS-LSTM-2, dynamic evaluation", "raw", _OURS),
            Row("ptb-fs-lstm-4-cpu-dynamic", "FS-LSTM-4, dynamic evaluation", "raw", _OURS),
            Row("ptb-pair-cpu", "the pair", "raw", _OURS),
            Row("ptb-pair-cpu-dynamic", "the pair, dynamic evaluation", "raw", _OURS),
        ),
    ),
    Table(
        "ptb-cpu",
        "Penn Treebank, on two CPU cores",
        "An FS-LSTM-2 of a million weights (`ptb-cpu`), its baselines of equal size after as many updates, and what "
        "lowers its loss further without more training but that of a second model. Temperature and dynamic "
        "evaluation's settings are tuned on validation text alone.",
        ("raw", "char"),
        (
            Row("ptb-cpu", "FS-LSTM-2", "raw", _CPU),
            Row("ptb-cpu-stacked", "stacked LSTM-2", "raw", _train("ptb-cpu-stacked")),
            Row("ptb-cpu-sequential", "sequential LSTM-2", "raw", _train("ptb-cpu-sequential")),
            Row("ptb-cpu-temperature", "FS-LSTM-2, temperature fitted", "raw", _CPU),
            Row("ptb-cpu-dynamic", "FS-LSTM-2, dynamic evaluation", "raw", _CPU),
            Row("ptb-cpu-pair", "two FS-LSTM-2, probabilities averaged", "raw", _CPU),
            Row("ptb-cpu-pair-temperature", "two FS-LSTM-2, probabilities averaged, temperature fitted", "raw", _CPU),
            Row("ptb-cpu-pair-dynamic", "two FS-LSTM-2, probabilities averaged, dynamic evaluation", "raw", _CPU),
        ),
    ),
    Table(
        "ptb-cpu-equal",
        "Penn Treebank: networks of equal size, trained for equal time",
        "About a million weights each, the recipe of `ptb-cpu`, the same minutes of training on the same cores, "
        "several seeds.",
        ("raw", "char"),
        (
            Row("ptb-cpu-equal-fs-lstm-2", "FS-LSTM-2", "raw", f"{_CPU} --compare"),
            Row("ptb-cpu-equal-stacked-lstm-2", "stacked LSTM-2", "raw", f"{_CPU} --compare"),
            Row("ptb-cpu-equal-sequential-lstm-2", "sequential LSTM-2", "raw", f"{_CPU} --compare"),
        ),
    ),
    Table(
        "ptb-speed",
        "Penn Treebank: what minutes of one core buy",
        "An FS-LSTM-2 for each budget, with a recipe chosen for it, on one core.",
        ("raw", "char"),
        tuple(
            Row(f"ptb-speed-{minutes}", f"{minutes} minutes", "raw", "python -m experiments.speed")
            for minutes in (6, 30, 60, 300)
        ),
    ),
    Table(
        "ptb-cpu-recipes",
        "Penn Treebank: one technique at a time",
        "What a change of the recipe of `ptb-cpu` does in a short training of equal time for each; bits per character "
        "of the validation text, raw protocol.",
        ("validation",),
        tuple(
            Row(f"ptb-cpu-recipe-{name}", words, "validation", f"{_CPU} --recipes") for name, words in _RECIPES.items()
        ),
    ),
    Table(
        "shakespeare",
        "Tiny Shakespeare, on two CPU cores",
        "The last 10% after training on the first 90%, by the best network of the validations on that text, as one "
        "stream and in windows of 256 symbols without context. nanoGPT has 2.12 in such windows after 3 minutes on an "
        "A100, and 2.71 in windows of 64 after 3 minutes on a laptop's CPU.",
        ("bytes",),
        tuple(
            Row(
                f"shakespeare-{minutes}{ending}",
                f"FS-LSTM-2, {minutes} minutes{words}",
                "bytes",
                "python -m experiments.shakespeare --text tinyshakespeare.txt",
            )
            for minutes in (3, 15, 60)
            for ending, words in (("", ""), ("-windows", ", in windows"))
        ),
    ),
    Table(
        "enwik8",
        "enwik8",
        "Test bits per character on the last 5 MB, after training on the first 90.",
        ("bytes",),
        (
            Row("enwik8-fs-lstm-2", "FS-LSTM-2", "bytes", _train("enwik8-fs-lstm-2"), "1.290", "27M"),
            Row("enwik8-fs-lstm-4", "FS-LSTM-4", "bytes", _train("enwik8-fs-lstm-4"), "1.277", "27M"),
            Row(_LARGE, "large FS-LSTM-4", "bytes", _train(_LARGE), "1.245", "47M"),
            Row(
                f"{_LARGE}-pair",
                "two large FS-LSTM-4, probabilities averaged",
                "bytes",
                f"{_train(_LARGE)} && fastslow train --preset {_LARGE} --seed 2 --out runs/{_LARGE}-2 && "
                f"fastslow evaluate runs/{_LARGE} runs/{_LARGE}-2 enwik8",
                "1.198",
                "2 × 47M",
            ),
            Row("enwik8-stacked-lstm-2", "stacked LSTM-2", "bytes", _train("enwik8-stacked-lstm-2")),
            Row("enwik8-sequential-lstm-2", "sequential LSTM-2", "bytes", _train("enwik8-sequential-lstm-2")),
        ),
    ),
    Table(
        "study",
        "The study of the dynamics, at the paper's sizes",
        "enwik8, 20 epochs, no dropout and no zoneout; networks that take about the same time per step.",
        ("bytes",),
        (
            Row("study-fs-lstm-4", "FS-LSTM-4", "bytes", _train("study-fs-lstm-4"), "1.49"),
            Row("study-stacked-lstm-5", "stacked LSTM-5", "bytes", _train("study-stacked-lstm-5"), "1.61"),
            Row("study-sequential-lstm-5", "sequential LSTM-5", "bytes", _train("study-sequential-lstm-5"), "1.58"),
        ),
    ),
    Table(
        "study-small",
        "The study of the dynamics, on two CPU cores",
        "Penn Treebank; the same seconds of training for each network, several seeds. The paper has no such figures; "
        "its order on enwik8 is FS-LSTM, sequential, stacked.",
        ("raw", "char"),
        (
            Row("study-small-fs-lstm-4", "FS-LSTM-4", "raw", _STUDY),
            Row("study-small-stacked-lstm-5", "stacked LSTM-5", "raw", _STUDY),
            Row("study-small-sequential-lstm-5", "sequential LSTM-5", "raw", _STUDY),
        ),
    ),
)


def find_row(name: str) -> tuple[Table, Row] | None:
    """The planned row with this name and its table, or None."""
    for table in TABLES:
        for row in table.rows:
            if row.name == name:
                return table, row
    return None
