"""`CharLM`: embedding -> recurrent layer -> logits, over an alphabet of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastslow import hub
from fastslow.backends.streaming import Walk
from fastslow.cells.module import orthogonal_
from fastslow.data.alphabet import Alphabet
from fastslow.layers import FSGRU, FSLSTM, SequentialGRU, SequentialLSTM, StackedGRU, StackedLSTM, WiredRNN
from fastslow.lm import files
from fastslow.lm.config import LMConfig
from fastslow.lm.generation import stream


class TokenNats(NamedTuple):
    """What a model thought of the symbols that came.

    nats: (T, B) float32, -ln of the probability given to each target.
    state: the state after the last input.
    top_symbols, top_probabilities: (T, B, K) int64 and float32, the K likeliest symbols at each place, likeliest first;
        None where they were not asked for.
    """

    nats: Tensor
    state: Any
    top_symbols: Tensor | None = None
    top_probabilities: Tensor | None = None


class CharLM(nn.Module, hub.Uploadable):
    """A character language model.

        e_t = embedding[token_t]                   (V, E), orthogonal
        y_t, state = layer(e_t, state)             FS-LSTM, or a stacked or sequential LSTM; or of GRU cells
        logits_t = W y_t + b                       (V, H), orthogonal; b = 0 at the start

    Shape: `logits, state = lm(tokens, state=None)`, tokens (T, B) int64 in 0..V-1, logits (T, B, V); without B both
    ways for one stream. state: as the layer's, zeros if None. `resets=` bool laid out as tokens: where true the state
    is zeros before that step, as a document begins there.

    Parameters: `embedding.weight` (V, E), `layer.*`, `head.weight` (V, H), `head.bias` (V). `config` is the `LMConfig`,
    `alphabet` the one in it; `backend` names the layer's engine or leaves it to choose ("auto").
    """

    def __init__(
        self,
        config: LMConfig,
        *,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        size = len(config.alphabet), config.embedding_size
        # Without numbers there is nothing to draw, and torch takes two seconds to find that out.
        unset = torch.empty(size, device="meta", dtype=dtype) if str(device) == "meta" else None
        self.embedding = nn.Embedding(*size, _weight=unset, device=device, dtype=dtype)
        self.layer = _layer(config, backend, device, dtype)
        self.head = nn.Linear(config.hidden_size, len(config.alphabet), device=device, dtype=dtype)
        for weight in (self.embedding.weight, self.head.weight):
            orthogonal_(weight)
        nn.init.zeros_(self.head.bias)

    @property
    def alphabet(self) -> Alphabet:
        """The model's `Alphabet`."""
        return self.config.alphabet

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return sum(p.numel() for p in self.parameters())

    # ------------------------------------------------------------------ running

    def forward(self, tokens: Tensor, state: Any = None, *, resets: Tensor | None = None) -> tuple[Tensor, Any]:
        if tokens.dim() not in (1, 2):
            raise ValueError(f"tokens must be (T, B) or (T,); got {tuple(tokens.shape)}")
        given = {} if resets is None else {"resets": resets}
        y, state = self.layer(self.embedding(tokens), state, **given)
        return self.head(y), state

    def step(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step: tokens (B,) or (), logits (B, V) or (V,)."""
        if tokens.dim() not in (0, 1):
            raise ValueError(f"tokens must be (B,) or (); got {tuple(tokens.shape)}")
        streamed = self.layer.logits_step(self.embedding, self.head, tokens, state)
        if streamed is not None:
            return streamed
        y, state = self.layer.step(self.embedding(tokens), state)
        return self.head(y), state

    def walk(self, state: Any) -> Walk | None:
        """`step` of one stream again and again from `state` (leaves (H,)), with less around it, where there is such a
        thing: see :class:`fastslow.backends.streaming.Walk`."""
        if type(self).step is not CharLM.step:  # another's step does something else
            return None
        return self.layer.logits_walk(self.embedding, self.head, state)

    def initial_state(self, batch: int) -> Any:
        """The zero state of `batch` streams: what `state=None` stands for."""
        return self.layer.initial_state(batch)

    def token_nats(
        self, inputs: Tensor, targets: Tensor, state: Any = None, *, top: int = 0, resets: Tensor | None = None
    ) -> TokenNats:
        """The loss of each target, targets[t] following inputs[t], both (T, B) int64; and the `top` likeliest symbols.

        With autograd as `forward`; call it under `torch.inference_mode()` to score.
        """
        logits, state = self(inputs, state) if resets is None else self(inputs, state, resets=resets)
        logits = logits.float() if logits.dtype != torch.float64 else logits
        nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
        if top < 1:
            return TokenNats(nats, state)
        values, symbols = logits.topk(min(top, logits.shape[-1]), dim=-1)
        return TokenNats(nats, state, symbols, (values - logits.logsumexp(-1, keepdim=True)).exp())

    # ------------------------------------------------------------------ generating

    def generate(
        self,
        prompt: bytes | str,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        state: Any = None,
    ) -> bytes:
        """`length` bytes that go on from `prompt`, without the prompt; `stream` has the meaning of the options."""
        parts = self.stream(
            prompt,
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            generator=generator,
            state=state,
        )
        return b"".join(parts)

    def stream(
        self,
        prompt: bytes | str,
        length: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        state: Any = None,
    ) -> Iterator[bytes]:
        """The same, one byte at a time; endless if `length` is None.

        prompt: bytes, or text that is encoded in UTF-8. An empty one starts after a line break (a blank, or the first
            symbol, where the alphabet has none).
        temperature: divides the logits; 0 always takes the likeliest symbol.
        top_k: keep only the k likeliest symbols.
        top_p: of those, keep only the fewest whose probabilities add up to p.
        seed: of a generator made for this call; or `generator`, a CPU one; with neither, torch's own.
        state: the state of one stream to go on from, zeros if None.

        Raises SamplingError for senseless options, AlphabetError for a prompt with other symbols than the model's.
        """
        return stream(
            self,
            prompt,
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            generator=generator,
            state=state,
        )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside: no masks, zoneout's expectation; the mode of before outside."""
        before = self.training
        if before:
            self.eval()
        try:
            yield
        finally:
            if before:
                self.train()

    # ------------------------------------------------------------------ files

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` to `folder`, made if need be, each atomically.

        Raises StorageError where the system refuses.
        """
        path = Path(folder)
        files.make_folder(path)
        files.write_config(path, self.config)
        files.write_weights(path, self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> CharLM:
        """The model in a folder that `save_pretrained` or a training run wrote, or a bundled one, in evaluation mode.

        Args:
            name: a folder; "english" for the bundled model, unless a folder of that name holds a model; or, where there
                is no such folder, `owner/name` on the Hugging Face Hub (with the package `huggingface-hub` installed).
            backend, device: as of a new model.
            dtype: default the stored one; float32 for a bundled model.
            revision: on the Hub, a branch, tag or commit.

        Raises ModelError, in one line, for a folder that is missing, half written, damaged or of a newer version.
        """
        path = files.find_folder(name, revision)
        config = files.read_config(path)
        weights, _ = files.read_weights(path, weight_shapes(CharLM(config, device="meta")))
        lm = cls(config, backend=backend, device="meta", dtype=next(iter(weights.values())).dtype)
        lm.load_state_dict(weights, assign=True)
        return lm.to(device=device, dtype=dtype).eval()

    def card_text(self, name: str) -> tuple[str, tuple[str, ...]]:
        """What the card says of this model once it is `owner/name`, in Markdown, and its own tags."""
        c = self.config
        sizes = f"{c.hidden_size}" + (f", slow {c.slow_size}" if c.slow_size else "")
        text = (
            f"A character language model of {self.num_parameters:,} weights over {len(self.alphabet)} symbols: "
            f"{c.architecture}, {c.depth} cells, size {sizes}, embedding {c.embedding_size}.\n\n"
            f"```python\nfrom fastslow import CharLM\n\nlm = CharLM.from_pretrained({name!r})\n"
            'print(lm.generate("The ", length=200))\n```\n'
        )
        return text, ("character-level", "language-model", "rnn", "lstm", c.architecture)


def parameter_count(config: LMConfig) -> int:
    """The number of weights of a model, without making it."""
    return CharLM(config, device="meta").num_parameters


def weight_shapes(lm: CharLM) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by name."""
    return {name: tuple(value.shape) for name, value in lm.state_dict().items()}


def _layer(config: LMConfig, backend: str, device: torch.device | str | None, dtype: torch.dtype | None) -> WiredRNN:
    options: dict[str, Any] = {
        "dropout": config.dropout,
        "zoneout_h": config.zoneout_h,
        "layer_norm": config.layer_norm,
        "backend": backend,
        "device": device,
        "dtype": dtype,
    }
    embedding, hidden, depth = config.embedding_size, config.hidden_size, config.depth
    if config.cell == "lstm":
        options |= {"zoneout_c": config.zoneout_c, "forget_bias": config.forget_bias}
    of_gru = config.cell == "gru"
    if config.architecture == "fs-lstm":
        return (FSGRU if of_gru else FSLSTM)(embedding, hidden, config.slow_size, depth, **options)
    if config.architecture == "stacked":
        return (StackedGRU if of_gru else StackedLSTM)(embedding, hidden, depth, **options)
    return (SequentialGRU if of_gru else SequentialLSTM)(embedding, hidden, depth, **options)
