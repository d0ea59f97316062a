"""Dynamic evaluation (Krause et al. 2018): the weights adapt to the text that is being scored.

1. Over the training text, at the trained weights W0 and without noise: MS = sqrt(mean over windows of g^2) for each
   weight, where g is the gradient of a window's mean loss. `gradient_statistics`, stored in the run's folder by
   `cached_statistics`.
2. r = MS / mean(MS), the mean over all weights of the model.
3. The text is one stream, processed in segments: score the segment, *then* learn from it

       W += min(decay r, 1) (W0 - W) - rate g / (MS + epsilon)

   with g the gradient of the segment's mean loss. The state is carried over between segments, detached.

Every symbol is scored by weights that have learned from earlier segments only, so no symbol is scored with knowledge of
itself or of later symbols. The best `rate` depends on the number of streams of the statistics: more streams give a
smaller MS and larger updates. Settings are tuned on validation text (`tune`), never on the reported text.

Several models adapt independently to the same segments; their probabilities are averaged.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastslow.data.alphabet import Buffer, as_bytes_array
from fastslow.data.streams import Streams
from fastslow.data.text import Text
from fastslow.errors import DataError, FastslowError
from fastslow.evaluation.bpc import Evaluation, averaged, char_protocol, check_members, evaluate
from fastslow.lm.model import CharLM
from fastslow.metrics import bits_per_character
from fastslow.state import detach_state
from fastslow.storage import (
    FLOATS,
    ModelError,
    StorageError,
    TensorSpec,
    check_fields,
    is_finite_number,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

STATISTICS_FILE = "dynamic.safetensors"
SETTINGS_FILE = "dynamic.json"
FORMAT_VERSION = "1"

RATES = (1e-4, 3e-4, 1e-3)
DECAYS = (0.0, 0.005, 0.02, 0.05)
"""Where tuning searches first."""
TUNING_SYMBOLS = 25_000
"""Symbols of the validation text that each trial scores."""
STATISTICS_WINDOWS = 500
"""Windows of the training text whose gradients are averaged, at most."""


class SettingsError(FastslowError, ValueError):
    """Invalid settings of dynamic evaluation."""


@dataclass(frozen=True, kw_only=True)
class DynamicSettings:
    """The parameters of the update rule; see this module.

    rate: eta. decay: lambda, the pull back to the trained weights. segment: number of symbols scored before each
    update.
    epsilon: added to MS.
    """

    rate: float = 1e-4
    decay: float = 0.005
    segment: int = 50
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name, low in (("rate", 0.0), ("decay", 0.0), ("epsilon", 0.0)):
            value = getattr(self, name)
            if not is_finite_number(value) or value < low:
                raise SettingsError(f"{name} of dynamic evaluation must be a number of at least 0; got {value}")
        if not isinstance(self.segment, int) or isinstance(self.segment, bool) or self.segment < 1:
            raise SettingsError(f"segment of dynamic evaluation must be at least 1 symbol; got {self.segment}")
        if self.epsilon == 0.0:
            raise SettingsError("epsilon of dynamic evaluation must be above 0: some weights have zero gradients")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the settings") -> DynamicSettings:
        """The inverse of `to_json`. Raises SettingsError for anything else."""
        check_fields(value, (field.name for field in fields(cls)), where, SettingsError)
        return cls(**value)


@dataclass(frozen=True)
class DynamicEvaluation(Evaluation):
    """The result of dynamic evaluation.

    settings: those of each model. Only compare it with other dynamic evaluations, not with static ones.
    """

    settings: tuple[DynamicSettings, ...] = ()

    @property
    def protocol(self) -> str:
        segments = {s.segment for s in self.settings}
        length = f"segments of {min(segments)}" if segments else "segments"
        return f"{super().protocol}, dynamic evaluation: the weights are updated after each of the {length} symbols"

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "dynamic": [settings.to_json() for settings in self.settings]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DynamicEvaluation:
        plain = Evaluation.from_json(value)
        given = {field.name: getattr(plain, field.name) for field in fields(Evaluation)}
        return cls(**given, settings=tuple(DynamicSettings.from_json(settings) for settings in value["dynamic"]))


# ---------------------------------------------------------------------- statistics


@dataclass(frozen=True)
class GradientStatistics:
    """Root mean square gradients of a model over its training text.

    rms: weight name -> float32 tensor on the CPU, of the weight's shape.
    identity: what they depend on: hashes of the weights and the text, streams, segment, windows.
    """

    rms: Mapping[str, Tensor]
    identity: Mapping[str, str]


def gradient_statistics(
    lm: CharLM,
    text: Buffer | Text,
    *,
    streams: int = 32,
    segment: int = 50,
    max_windows: int = STATISTICS_WINDOWS,
    on_window: Callable[[int, int], None] | None = None,
) -> GradientStatistics:
    """MS of the module's rule 1, over at most `max_windows` windows of `segment` steps of `streams` streams.

    The streams are evenly spaced in the text, so that a limited number of windows still samples all of it.
    on_window: called with the number of windows done and in total; may raise to stop.

    Raises DataError for a text too short for one window, AlphabetError for symbols outside the model's alphabet.
    """
    data, name = _bytes_of(text)
    cut = Streams.training(lm.alphabet.encode(data, name=name), streams, segment)
    windows = min(len(cut), max_windows)
    names, weights = _trained(lm)
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    state: Any = None
    with lm.evaluating(), torch.enable_grad():
        for part in itertools.islice(cut, windows):
            scored = lm.token_nats(part.inputs.to(lm.device), part.targets.to(lm.device), state)
            state = detach_state(scored.state)
            for total, gradient in zip(sums, _gradients(scored.nats.mean(), weights), strict=True):
                total.addcmul_(gradient.float(), gradient.float())
            if on_window is not None:
                on_window(part.index + 1, windows)
    rms = {name: (total / windows).sqrt_().cpu() for name, total in zip(names, sums, strict=True)}
    for name, value in rms.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"the gradient of {name} is NaN or infinite on the training text: the weights are damaged")
    return GradientStatistics(rms, _identity(lm, text, streams, segment, max_windows))


def cached_statistics(
    folder: Path,
    lm: CharLM,
    text: Buffer | Text,
    *,
    streams: int = 32,
    segment: int = 50,
    max_windows: int = STATISTICS_WINDOWS,
    on_window: Callable[[int, int], None] | None = None,
) -> GradientStatistics:
    """`gradient_statistics`, stored in `folder` under `STATISTICS_FILE`, and loaded from there if they match the
    weights, the text and the options. A read-only folder is left unchanged.
    """
    identity = _identity(lm, text, streams, segment, max_windows)
    path = Path(folder) / STATISTICS_FILE
    with suppress(ModelError):  # missing, damaged, or for other weights: compute them
        return _read_statistics(path, lm, identity)
    made = gradient_statistics(lm, text, streams=streams, segment=segment, max_windows=max_windows, on_window=on_window)
    with suppress(StorageError):
        write_tensors(path, made.rms, made.identity, what="the gradient statistics")
    return made


def _read_statistics(path: Path, lm: CharLM, identity: Mapping[str, str]) -> GradientStatistics:
    names, weights = _trained(lm)

    def expected(metadata: dict[str, str]) -> Mapping[str, TensorSpec]:
        if any(metadata.get(key) != value for key, value in identity.items()):
            raise ModelError(f"{path} contains statistics of other weights, another text or other options")
        return {name: TensorSpec(tuple(w.shape), FLOATS) for name, w in zip(names, weights, strict=True)}

    rms, _ = read_tensors(path, expected, what="the gradient statistics")
    return GradientStatistics(rms, identity)


def _identity(lm: CharLM, text: Buffer | Text, streams: int, segment: int, max_windows: int) -> dict[str, str]:
    return {
        "format": "fastslow-dynamic",
        "format_version": FORMAT_VERSION,
        "weights": _weights_hash(lm),
        "text": _text_hash(text),
        "streams": str(streams),
        "segment": str(segment),
        "max_windows": str(max_windows),
    }


def _weights_hash(lm: CharLM) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(lm.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text_hash(text: Buffer | Text) -> str:
    return text.sha256 if isinstance(text, Text) else hashlib.sha256(as_bytes_array(text).data).hexdigest()


def _bytes_of(text: Buffer | Text) -> tuple[NDArray[np.uint8], str]:
    return (text.data, text.name) if isinstance(text, Text) else (as_bytes_array(text), "the text")


def _trained(lm: CharLM) -> tuple[list[str], list[Tensor]]:
    """The weights that adapt, by name: all trainable ones."""
    found = [(name, weight) for name, weight in lm.named_parameters() if weight.requires_grad]
    if not found:
        raise SettingsError("all weights of the model are frozen; dynamic evaluation needs trainable weights")
    return [name for name, _ in found], [weight for _, weight in found]


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


# ---------------------------------------------------------------------- scoring


class _Adapting:
    """One adapting model: scores a segment, then updates its weights; `restore` restores the trained weights."""

    def __init__(self, lm: CharLM, statistics: GradientStatistics, settings: DynamicSettings) -> None:
        self.lm, self.state = lm, None
        names, self.weights = _trained(lm)
        if set(names) != set(statistics.rms):
            raise SettingsError("the gradient statistics belong to another model: their weights differ")
        rms = [statistics.rms[name].to(w.device, w.dtype) for name, w in zip(names, self.weights, strict=True)]
        count = sum(value.numel() for value in rms)
        mean = float(sum(value.sum(dtype=torch.float64) for value in rms)) / count
        if mean == 0.0:
            raise SettingsError("the gradient statistics are all zero: compute them on a training text")
        self.trained = [weight.detach().clone() for weight in self.weights]
        self.pull = [(value * (settings.decay / mean)).clamp_(max=1.0) for value in rms]
        self.reach = [settings.rate / (value + settings.epsilon) for value in rms]

    def score(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(T,) int64 both, on any device -> (T,) nats with their graph, for `learn`."""
        device = self.lm.device
        scored = self.lm.token_nats(inputs.to(device).unsqueeze(1), targets.to(device).unsqueeze(1), self.state)
        self.state = detach_state(scored.state)
        return scored.nats.squeeze(1)

    def learn(self, nats: Tensor) -> None:
        """Update the weights with the loss of the segment just scored."""
        steps = _gradients(nats.mean(), self.weights)
        with torch.no_grad():
            change = torch._foreach_sub(self.trained, self.weights)
            torch._foreach_mul_(change, self.pull)
            torch._foreach_mul_(steps, self.reach)
            torch._foreach_sub_(change, steps)
            torch._foreach_add_(self.weights, change)

    def restore(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.trained)


@contextmanager
def _adapting(
    members: Sequence[CharLM], statistics: Sequence[GradientStatistics], settings: Sequence[DynamicSettings]
) -> Iterator[list[_Adapting]]:
    with ExitStack() as stack:
        made: list[_Adapting] = []
        for lm, of_it, how in zip(members, statistics, settings, strict=True):
            stack.enter_context(lm.evaluating())
            one = _Adapting(lm, of_it, how)
            stack.callback(one.restore)
            made.append(one)
        stack.enter_context(torch.enable_grad())
        yield made


def evaluate_dynamic(
    models: CharLM | Sequence[CharLM],
    text: Buffer | Text,
    statistics: GradientStatistics | Sequence[GradientStatistics],
    settings: DynamicSettings | Sequence[DynamicSettings],
    *,
    per_symbol: bool = False,
    on_segment: Callable[[int, int], None] | None = None,
) -> DynamicEvaluation:
    """Dynamic evaluation of one model, or of an ensemble whose probabilities are averaged, on a text.

    Args:
        models: with the same alphabet. Their weights are changed during the evaluation and restored afterwards.
        text: bytes.
        statistics: those of each model, in the same order.
        settings: those of each model, or one for all; segment lengths must be equal.
        per_symbol: whether to store the loss of each symbol.
        on_segment: called after each segment with the symbols done and their total; may raise to stop.

    Raises as `evaluate` does; SettingsError for settings or statistics that do not match the models.
    """
    members = [models] if isinstance(models, CharLM) else list(models)
    check_members(members)
    if len({id(lm) for lm in members}) < len(members):
        raise ValueError("a model is passed twice: models adapt independently, so load it twice")
    result = _run(members, text, statistics, settings, per_symbol, on_segment)
    if not math.isfinite(result.nats):
        raise ModelError(
            f"the model's predictions on {_bytes_of(text)[1]} became NaN: use a lower rate, or check whether "
            "static evaluation works at all"
        )
    return result


def _run(
    members: Sequence[CharLM],
    text: Buffer | Text,
    statistics: GradientStatistics | Sequence[GradientStatistics],
    settings: DynamicSettings | Sequence[DynamicSettings],
    per_symbol: bool,
    on_segment: Callable[[int, int], None] | None,
) -> DynamicEvaluation:
    started = time.perf_counter()
    of_each = [statistics] if isinstance(statistics, GradientStatistics) else list(statistics)
    hows = [settings] * len(members) if isinstance(settings, DynamicSettings) else list(settings)
    for what, given in (("statistics", of_each), ("settings", hows)):
        if len(given) != len(members):
            raise SettingsError(f"{len(members)} models need as many {what}; got {len(given)}")
    segment = hows[0].segment
    if any(how.segment != segment for how in hows):
        raise SettingsError("the models of an ensemble must have the same segment length")
    data, name = _bytes_of(text)
    if len(data) < 2:
        raise DataError(f"{name} is too short: it has {len(data)} bytes; at least 2 are needed")
    symbols = torch.from_numpy(members[0].alphabet.encode(data, name=name).astype(np.int64)).to(members[0].device)
    targets = len(symbols) - 1
    total = torch.zeros((), dtype=torch.float64, device=members[0].device)
    first: Tensor | None = None
    kept: list[Tensor] = []
    with _adapting(members, of_each, hows) as adapting:
        for start in range(0, targets, segment):
            stop = min(start + segment, targets)
            scores = [one.score(symbols[start:stop], symbols[start + 1 : stop + 1]) for one in adapting]
            losses = [nats.detach().to(total.device) for nats in scores]
            nats = losses[0] if len(losses) == 1 else averaged(losses)
            total += nats.sum(dtype=torch.float64)
            if not bool(total.isfinite()):
                break  # the weights have diverged: nothing after this would be finite again
            first = nats[0] if first is None else first
            if per_symbol:
                kept.append(nats.float().cpu())
            if stop < targets:  # no update is needed after the last segment
                for one, own in zip(adapting, scores, strict=True):
                    one.learn(own)
            if on_segment is not None:
                on_segment(stop, targets)
    return DynamicEvaluation(
        nats=float(total),
        symbols=targets,
        streams=1,
        warm=0,
        models=len(members),
        seconds=time.perf_counter() - started,
        char=None if first is None else char_protocol(data, float(total), float(first)),
        symbol_nats=torch.cat(kept).numpy() if per_symbol else None,
        settings=tuple(hows),
    )


# ---------------------------------------------------------------------- tuning


@dataclass(frozen=True)
class Trial:
    """The result of one choice of settings on the validation text; bpc is infinite if the adaptation diverged."""

    settings: DynamicSettings
    bpc: float


@dataclass(frozen=True)
class Tuned:
    """The best settings, all trials in order, and the static result on the same symbols."""

    settings: DynamicSettings
    trials: tuple[Trial, ...]
    static_bpc: float
    symbols: int

    @property
    def bpc(self) -> float:
        return min(trial.bpc for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_json(),
            "static_bpc": self.static_bpc,
            "symbols": self.symbols,
            "trials": [
                {"settings": t.settings.to_json(), "bpc": t.bpc if math.isfinite(t.bpc) else None} for t in self.trials
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the settings") -> Tuned:
        """The inverse of `to_json`. Raises SettingsError for anything else."""
        check_fields(value, ("settings", "static_bpc", "symbols", "trials"), where, SettingsError)
        try:
            trials = tuple(
                Trial(DynamicSettings.from_json(t["settings"]), math.inf if t["bpc"] is None else float(t["bpc"]))
                for t in value["trials"]
            )
            best = DynamicSettings.from_json(value["settings"])
            return cls(best, trials, float(value["static_bpc"]), int(value["symbols"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"{where} are damaged: {error}") from error


def tune(
    lm: CharLM,
    valid: Buffer | Text,
    statistics: GradientStatistics,
    *,
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
    segment: int = 50,
    max_symbols: int = TUNING_SYMBOLS,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """The rate and the decay that score best on the first `max_symbols` symbols of a validation text.

    The search starts in the middle of both lists. It moves to the next larger or smaller rate as long as that improves
    the result, up to four factors of 3 beyond either end of the list, and then does the same with the decay.

    The models of an ensemble are tuned separately. Raises as `evaluate_dynamic` does; settings with which the weights
    diverge get an infinite result.
    """
    if not rates or not decays:
        raise SettingsError("tuning needs at least one rate and one decay")
    data, name = _bytes_of(valid)
    part = Text.of(data[: max_symbols + 1], name)
    static = evaluate(lm, part)
    trials: dict[DynamicSettings, float] = {}

    def attempt(settings: DynamicSettings) -> float:
        if settings not in trials:
            nats = _run([lm], part, statistics, settings, False, None).nats
            trials[settings] = bits_per_character(nats, static.symbols) if math.isfinite(nats) else math.inf
            if on_trial is not None:
                on_trial(Trial(settings, trials[settings]))
        return trials[settings]

    given = sorted(set(rates))
    ladder = [given[0] / 3.0**n for n in (4, 3, 2, 1)] + given + [given[-1] * 3.0**n for n in (1, 2, 3, 4)]
    levels = sorted(set(decays))
    start = DynamicSettings(rate=given[len(given) // 2], decay=levels[len(levels) // 2], segment=segment)
    best = _climb([replace(start, rate=rate) for rate in ladder], start, attempt)
    best = _climb([replace(best, decay=decay) for decay in levels], best, attempt)
    return Tuned(best, tuple(Trial(*trial) for trial in trials.items()), static.bpc, static.symbols)


def _climb(
    choices: Sequence[DynamicSettings], start: DynamicSettings, attempt: Callable[[DynamicSettings], float]
) -> DynamicSettings:
    """The best of `choices`, from one to the next as long as the result falls: upwards, otherwise downwards."""
    at = choices.index(start)
    for way in (choices[at:], choices[at::-1]):
        best = way[0]
        for nearby in way[1:]:
            if attempt(nearby) >= attempt(best):
                break
            best = nearby
        if best != start:
            return best
    return start


def cached_tuning(
    folder: Path,
    lm: CharLM,
    valid: Buffer | Text,
    statistics: GradientStatistics,
    *,
    segment: int = 50,
    max_symbols: int = TUNING_SYMBOLS,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """`tune` with the default rates and decays, stored in `folder` under `SETTINGS_FILE`, and loaded from there if it
    matches the validation text and the statistics. A read-only folder is left unchanged.
    """
    identity = {**statistics.identity, "valid": _text_hash(valid), "max_symbols": str(max_symbols)}
    identity |= {"tuned_segment": str(segment)}
    path = Path(folder) / SETTINGS_FILE
    with suppress(FastslowError, KeyError):  # missing, damaged, or for another input: tune again
        stored = read_json(path, what="the settings of dynamic evaluation")
        if stored["identity"] == identity:
            return Tuned.from_json(stored["tuned"], f"the settings {path}")
    tuned = tune(lm, valid, statistics, segment=segment, max_symbols=max_symbols, on_trial=on_trial)
    with suppress(StorageError):
        write_json(path, {"identity": identity, "tuned": tuned.to_json()}, what="the settings of dynamic evaluation")
    return tuned
