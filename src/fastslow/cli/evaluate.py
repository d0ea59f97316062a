"""`fastslow evaluate`: bits per character of one model, or of an ensemble, on text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastslow.cli.common import (
    RUNS,
    Backend,
    Device,
    Flag,
    OptionError,
    OutFile,
    check_path,
    latest_model,
    load_model,
    note,
    note_form,
    print_json,
)
from fastslow.data import corpora
from fastslow.data.corpora import is_corpus, load_corpus
from fastslow.data.text import Splits, Text, open_text
from fastslow.errors import FastslowError
from fastslow.lm.packaged import is_packaged, packaged, shown_name
from fastslow.storage import StorageError

if TYPE_CHECKING:
    from fastslow.evaluation import Evaluation
    from fastslow.evaluation.dynamic import DynamicEvaluation, Trial
    from fastslow.evaluation.temperature import FittedTemperature
    from fastslow.lm import CharLM

Part = Literal["train", "valid", "test"]


def evaluate(
    runs_and_text: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...] [TEXT]", help_behavior_hint="")
    ] = (),
    *,
    part: Part = "test",
    protocol: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    streams: Annotated[int, tyro.conf.arg(metavar="N")] = 1,
    warm: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    documents: Annotated[
        Literal["files", "lines", "none"] | None,
        tyro.conf.arg(metavar="{files,lines,none}", help_behavior_hint="(default: as the run was trained)"),
    ] = None,
    dynamic: Flag = False,
    rate: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="(default: tuned)")] = None,
    decay: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="(default: tuned)")] = None,
    segment: Annotated[int, tyro.conf.arg(metavar="N")] = 50,
    int8: Flag = False,
    fit_temperature: Annotated[str | None, tyro.conf.arg(metavar="PART|FILE", help_behavior_hint="")] = None,
    per_symbol: OutFile = None,
    against: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    raw: Flag = False,
    json: Flag = False,
    device: Device = None,
    backend: Backend = "auto",
) -> None:
    """Print a model's bits per character on a text, over every symbol but the first.

    TEXT is a file, - for standard input, or a corpus (`fastslow data list`), whose test part is used. Without TEXT it
    is the run's own test part. The probabilities of several RUNs are averaged. Without RUN it is the newest run in
    runs/, or the bundled model, english, if there is none. A file with CRLF, a byte-order mark or UTF-16 is read as the
    same text in UTF-8 with LF, and the bits per byte of the file are printed as well.

    Args:
        runs_and_text: the folders of the runs, or english for the bundled model; then the text
        part: which part of a corpus, or of the run's own text
        protocol: the protocol, for a corpus that has several (see `fastslow data list`); default: the paper's
        streams: split the text into N streams that run in parallel: faster, but each starts without context
        warm: number of preceding symbols that each stream reads without scoring them
        documents: start each file, or each line, from a zero state; none: the text is one document
        dynamic: dynamic evaluation: update the weights on each segment after it was scored (Krause et al. 2018)
        rate: learning rate of --dynamic; default: tuned once, with --decay, on the run's validation text, or that of
            the corpus for a model without its run
        decay: decay of --dynamic towards the trained weights
        segment: number of symbols per update of --dynamic
        int8: round the layer's matrices to 8 bits, and print the loss in bits per character
        fit_temperature: also evaluate at the temperature that is best on valid (the run's validation text) or a file
        per_symbol: save the loss of each symbol, in nats, as a NumPy file (.npy)
        against: losses saved by --per-symbol for another model: print the difference with a confidence interval
        raw: use the bytes of the file unchanged: keep CRs, byte-order marks and UTF-16
        json: print the result as JSON
        device: the device, such as cpu or cuda:1
        backend: the engine, or auto
    """
    for name, value, least in (("--streams", streams, 1), ("--warm", warm, 0)):
        if value < least:
            raise OptionError(f"{name} must be at least {least}; got {value}")
    if not dynamic and (rate is not None or decay is not None):
        raise OptionError("--rate and --decay need --dynamic: add it, or leave them out")
    if (rate is None) != (decay is None):
        raise OptionError("give both --rate and --decay, or neither to tune both on validation text")
    if dynamic and int8:
        raise OptionError("--int8 rounds weights that --dynamic would train: give only one of them")
    if dynamic and fit_temperature is not None:
        raise OptionError("--fit-temperature needs fixed weights, and --dynamic changes them: give only one of them")
    if dynamic and (streams, warm) != (1, 0):
        raise OptionError("--dynamic reads the text in one stream: leave out --streams and --warm")
    if dynamic and documents not in (None, "none"):
        raise OptionError("--dynamic reads the text as one document: leave out --documents")

    from fastslow.evaluation.compare import compare, load_nats, save_nats

    other = None if against is None else load_nats(against)
    runs, named = _runs_and_text(runs_and_text)
    for run in runs:
        check_path(run)
    each = None if dynamic else _documents(runs[0], documents)
    if each is not None and fit_temperature is not None:
        raise OptionError("--fit-temperature reads a text as one document: give --documents none with it")
    corpus = None if named is None else _corpus(named, protocol)
    text = _own_text(runs[0], part) if named is None else _text(named, corpus, part, protocol, raw)
    note_form(text)
    other_text = None if fit_temperature is None else _fitting_text(runs[0], fit_temperature, text, raw)
    models = [load_model(run, device, backend) for run in runs]
    kept = per_symbol is not None or other is not None
    result: Evaluation
    exact_bpc = None
    if int8:
        whole = min(streams, max(1, len(text) - 1))
        exact_bpc = measure(models, text, streams=whole, warm=warm, documents=each).bpc
        for lm in models:
            lm.layer.round_to_int8_()
    if dynamic:
        result = measure_dynamic(models, runs, text, corpus, rate=rate, decay=decay, segment=segment, per_symbol=kept)
    else:
        streams = min(streams, max(1, len(text) - 1))
        result = measure(models, text, streams=streams, warm=warm, per_symbol=kept, documents=each)
    tempered = None
    if other_text is not None:
        tempered = measure_tempered(models, text, other_text, streams=streams, warm=warm)
    if per_symbol is not None:
        save_nats(per_symbol, result)
    difference = None if other is None else compare(result, other)
    if json:
        found = {"runs": [shown_name(run) for run in runs], "text": text.describe(), **result.to_json()}
        if not text.form.is_plain:
            found |= {
                "form": str(text.form),
                "file_bytes": text.file_size,
                "bits_per_file_byte": per_byte(result, text),
            }
        if exact_bpc is not None:
            found |= {"int8": True, "bpc_before_rounding": exact_bpc}
        if tempered is not None:
            found["tempered"] = tempered.to_json()
        print_json(found if difference is None else {**found, "difference": asdict(difference)})
        return
    print(f"{result.bpc:.4f} bits per character on {text.name}")
    print(f"{result.symbols:,} of {len(text):,} symbols: {result.protocol}")
    if not text.form.is_plain:
        print(
            f"{per_byte(result, text):.4f} bits per byte of the file, which has {text.form}: {text.file_size:,} bytes"
        )
    if result.char is not None:
        print(f"char protocol: {result.char.bpc:.4f} bits per character over {result.char.symbols:,} symbols")
    if exact_bpc is not None:
        print(f"with 8-bit matrices; {exact_bpc:.4f} before, so rounding costs {result.bpc - exact_bpc:+.5f}")
    if tempered is not None:
        print(tempered)
    if difference is not None:
        sure = "" if difference.excludes_zero else ": not distinguishable from chance"
        print(f"difference from {against} (negative is better): {difference}{sure}")
    print(f"{result.seconds:.1f} s, {result.symbols / max(result.seconds, 1e-9):,.0f} characters per second")


def per_byte(result: Evaluation, text: Text) -> float:
    """Bits per byte of the file that `text` was read from, over the bytes that its scored symbols stand for."""
    from fastslow.metrics import nats_to_bits

    start, stop = text.offsets(0, 2)[-1], text.file_size
    return nats_to_bits(result.nats) / float(stop - start)


def measure(
    models: Sequence[CharLM],
    text: Text,
    *,
    streams: int = 1,
    warm: int = 0,
    per_symbol: bool = False,
    documents: Literal["files", "lines"] | None = None,
) -> Evaluation:
    """`evaluation.evaluate` with progress on a terminal."""
    from fastslow.cli.progress import CountingView
    from fastslow.evaluation import evaluate as run

    with CountingView("evaluate") as view:
        return run(models, text, streams=streams, warm=warm, per_symbol=per_symbol, on_window=view, documents=documents)


def _documents(run: str | Path, asked: Literal["files", "lines", "none"] | None) -> Literal["files", "lines"] | None:
    """How to divide a text into documents: as requested, otherwise as in the run's training."""
    if asked is not None:
        return None if asked == "none" else asked
    from fastslow.training.folder import RunError, read_record

    try:
        source = read_record(Path(run)).source
    except (FastslowError, RunError):
        return None  # a model without its run
    return None if source is None else source.documents


@dataclass(frozen=True)
class Tempered:
    """An evaluation at a temperature that was fitted on another text."""

    fitted: FittedTemperature
    fitted_on: Text
    result: Evaluation

    def to_json(self) -> dict[str, Any]:
        fit = {**self.fitted.to_json(), "text": self.fitted_on.describe()}
        return {**self.result.to_json(), "fit": fit, "temperature": self.fitted.temperature}

    def __str__(self) -> str:
        char = "" if self.result.char is None else f" (char protocol: {self.result.char.bpc:.4f})"
        return (
            f"at temperature {self.fitted.temperature:.3f}, fitted on {self.fitted_on.name}: {self.result.bpc:.4f} "
            f"bits per character{char}"
        )


def measure_tempered(
    models: Sequence[CharLM], text: Text, fitting: Text, *, streams: int = 1, warm: int = 0
) -> Tempered:
    """`measure` at the temperature that `evaluation.temperature` fits on the text `fitting`."""
    from fastslow.cli.progress import CountingView
    from fastslow.evaluation.temperature import at_temperature, fit_temperature

    with CountingView("temperature") as view:
        fitted = fit_temperature(models, fitting, on_window=view)
    with at_temperature(models, fitted.temperature):
        return Tempered(fitted, fitting, measure(models, text, streams=streams, warm=warm))


def _fitting_text(run: str, named: str, text: Text, raw: bool) -> Text:
    """The text to fit a temperature on: a part of the run's own text, or a file; never the evaluated text."""
    if named in ("valid", "train") and not Path(named).exists():
        found = _own_text(run, "valid" if named == "valid" else "train", "--fit-temperature needs such a text")
    else:
        found = open_text(named, raw=raw)
    if found.sha256 == text.sha256:
        raise OptionError(
            f"--fit-temperature {named} is the text to evaluate: name another, such as valid (validation text)"
        )
    return found


def measure_dynamic(
    models: Sequence[CharLM],
    runs: Sequence[str],
    text: Text,
    corpus: Splits | None = None,
    *,
    rate: float | None = None,
    decay: float | None = None,
    segment: int = 50,
    per_symbol: bool = False,
) -> DynamicEvaluation:
    """`evaluation.dynamic.evaluate_dynamic` with each run's cached statistics and settings.

    corpus: what `text` is a part of. A model without its run gets its statistics and settings from the other parts.
    """
    if segment < 1:
        raise OptionError(f"--segment must be at least 1; got {segment}")
    from fastslow.cli.progress import CountingView
    from fastslow.evaluation import dynamic
    from fastslow.lm.files import make_folder
    from fastslow.training.folder import RUN_FILE

    statistics, hows = [], []
    for lm, run in zip(models, runs, strict=True):
        others = None if (Path(run) / RUN_FILE).is_file() else corpus
        kept_in = Path(run)
        if others is not None:
            kept_in = RUNS / shown_name(run).replace("/", "--")
            with suppress(StorageError):  # nothing is stored in a read-only folder
                make_folder(kept_in)
        train = _training_text(run, "train", others, "--dynamic needs the gradient statistics of its training text")
        streams = max(1, min(32, (len(train) - 1) // segment))
        with CountingView(f"statistics of {run}", unit="windows") as view:
            statistics.append(
                dynamic.cached_statistics(kept_in, lm, train, streams=streams, segment=segment, on_window=view)
            )
        if rate is not None and decay is not None:
            how = dynamic.DynamicSettings(rate=rate, decay=decay, segment=segment)
        else:
            need = "--dynamic needs settings tuned on its validation text (or give --rate and --decay)"
            valid = _training_text(run, "valid", others, need)
            how = dynamic.cached_tuning(
                kept_in, lm, valid, statistics[-1], segment=segment, on_trial=partial(_tried, run)
            ).settings
        hows.append(how)
        note(f"{run}: rate {how.rate:.3g}, decay {how.decay:.3g}, segments of {how.segment} symbols")
    with CountingView("evaluate") as view:
        return dynamic.evaluate_dynamic(models, text, statistics, hows, per_symbol=per_symbol, on_segment=view)


def _tried(run: str, trial: Trial) -> None:
    s = trial.settings
    note(f"{run}: tuning: {trial.bpc:.4f} bits per character at rate {s.rate:.3g}, decay {s.decay:.3g}")


def _runs_and_text(names: Sequence[str]) -> tuple[list[str], str | None]:
    """The runs, and the text if the last name is neither a folder nor a bundled model, or is a file."""
    runs, text = list(names), None
    if runs and not Path(runs[-1]).is_dir() and (packaged(runs[-1]) is None or Path(runs[-1]).exists()):
        text = runs.pop()
        if not runs and not (text == "-" or is_corpus(text) or Path(text).exists()):
            raise OptionError(f"there is neither a run nor a text {text}: name the folder of a run, then a file")
    if not runs:
        runs = [latest_model()]
    return runs, text


def _corpus(name: str, protocol: str | None) -> Splits | None:
    """The corpus called `name`, or None."""
    return load_corpus(name, protocol).splits if is_corpus(name) and not Path(name).exists() else None


def _text(name: str, corpus: Splits | None, part: Part, protocol: str | None, raw: bool) -> Text:
    """A part of the corpus called `name`, or the file of this name."""
    if corpus is not None:
        return _part(corpus, part, name)
    if protocol is not None:
        raise OptionError(f"--protocol needs a corpus ({', '.join(corpora.CORPORA)}); {name} is a file: leave it out")
    return open_text(name, stdin=True, raw=raw)


def _training_text(run: str, part: Part, corpus: Splits | None, need: str) -> Text:
    """A part of `corpus`, or without one of the text the run was trained on."""
    return _own_text(run, part, need) if corpus is None else _part(corpus, part, "the corpus", need)


def _own_text(run: str, part: Part, what: str | None = None) -> Text:
    """A part of the text a run was trained on. Error messages begin with `what`, the reason why it is needed."""
    from fastslow.training.folder import read_record

    need = "name a text to evaluate on" if what is None else what
    folder = packaged(run) or Path(run)
    if is_packaged(folder):
        raise OptionError(f"{need}: {folder.name}, the bundled model, comes without the text it was trained on")
    try:
        record = read_record(run)
    except FastslowError as error:
        raise OptionError(f"{need}: {error}") from error
    if record.source is None:
        raise OptionError(f"{need}: {run} was trained on a text passed in Python")
    text = _part(record.source.open(), part, run, need)
    recorded = record.data.get(part)
    if not isinstance(recorded, dict) or recorded.get("sha256") != text.sha256:
        raise OptionError(f"{need}: the text of {run} has changed since it was trained")
    return text


def _part(splits: Splits, part: Part, where: str, need: str = "name a text to evaluate on") -> Text:
    text: Text | None = getattr(splits, part)
    if text is None:
        raise OptionError(f"{need}: {where} has no {part} part")
    return text
