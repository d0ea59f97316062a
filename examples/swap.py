"""Swap: a word-level language model whose `nn.LSTM` is replaced by an FS-LSTM in one line.

The model has the structure of PyTorch's example `word_language_model`: embedding, recurrent layer, and a linear output
that shares the embedding's weights; text split into parallel streams, with the state carried from window to window.
Both networks have about the same number of weights, and are trained alternately for equal CPU time of one thread.

    python examples/swap.py PTB_FOLDER --figure swap.png      # a folder with train.txt, valid.txt and test.txt
    python examples/swap.py PTB_FOLDER --small
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastslow import FSLSTM
from fastslow.state import detach_state


class RNNModel(nn.Module):
    """Logits (T, B, V) of the next word from words (T, B)."""

    def __init__(self, network: str, words: int, size: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.embedding = nn.Embedding(words, size)
        if network == "nn.LSTM":
            self.rnn: nn.Module = nn.LSTM(size, size, num_layers=2, dropout=dropout)
        else:  # the replaced line; this slow size gives about the same number of weights
            self.rnn = FSLSTM(size, size, slow_size=round(0.385 * size), dropout=dropout)
        self.decoder = nn.Linear(size, words)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.rnn(self.drop(self.embedding(words)), state)
        return self.decoder(self.drop(y)), state


def corpus(folder: Path) -> tuple[int, dict[str, Tensor]]:
    """The size of the vocabulary, and each part as word indices (N,); a word not in train.txt is `<unk>`."""
    parts = {}
    for part in ("train", "valid", "test"):
        lines = (folder / f"{part}.txt").read_text(encoding="utf-8").splitlines()
        parts[part] = [word for line in lines for word in (*line.split(), "<eos>")]
    numbers = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *parts["train"]]))}
    return len(numbers), {part: torch.tensor([numbers.get(w, 0) for w in words]) for part, words in parts.items()}


def streams(words: Tensor, batch: int) -> Tensor:
    """(N,) -> (N // B, B): each column is a stream of consecutive words."""
    return words[: len(words) // batch * batch].view(batch, -1).t().contiguous()


@torch.no_grad()
def perplexity(model: RNNModel, words: Tensor, batch: int = 10, window: int = 70) -> float:
    model.eval()
    data, state, nats = streams(words, batch), None, 0.0
    for start in range(0, len(data) - 1, window):
        targets = data[start + 1 : start + 1 + window]
        logits, state = model(data[start : start + len(targets)], state)
        nats += nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    model.train()
    return math.exp(nats / data[1:].numel())


def train(model: RNNModel, parts: dict[str, Tensor], args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Train for `args.minutes`; yield validation perplexity, training steps and minutes at each of `args.reports`."""
    data, state, start, step, spent = streams(parts["train"], args.batch), None, 0, 0, 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for report in range(1, args.reports + 1):
        began = time.process_time() - spent
        while spent < 60 * args.minutes * report / args.reports:
            if start + 1 >= len(data):
                start, state = 0, None
            targets = data[start + 1 : start + 1 + args.window]
            logits, state = model(data[start : start + len(targets)], state)
            state, start, step = detach_state(state), start + args.window, step + 1
            for group in optimizer.param_groups:  # the learning rate decays to zero over the given time
                group["lr"] = args.lr * max(0.02, 1 - spent / (60 * args.minutes))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            spent = time.process_time() - began
        yield {"steps": step, "minutes": spent / 60, "valid": perplexity(model, parts["valid"])}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--minutes", type=float, default=0.5, help="minutes of CPU time per network")
    parser.add_argument("--size", type=int, default=128, help="size of embedding and hidden state")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--window", type=int, default=35)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--reports", type=int, default=2, help="number of evaluations on the validation text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", metavar="FILE", help="draw validation perplexity over time")
    parser.add_argument("--small", action="store_true", help="a short run of a few seconds")
    if parser.parse_args(argv).small:
        parser.set_defaults(minutes=0.04, size=32, reports=2, lr=1e-2)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    words, parts = corpus(args.folder)
    models, rows = {}, []
    for network in ("nn.LSTM", "FS-LSTM-2"):
        torch.manual_seed(args.seed)
        models[network] = RNNModel(network, words, args.size, args.dropout)
        recurrent = sum(p.numel() for p in models[network].rnn.parameters())
        weights = sum(p.numel() for p in models[network].parameters())
        rows.append({"network": network, "weights": weights, "recurrent": recurrent, "curve": []})
    for reports in zip(*(train(model, parts, args) for model in models.values()), strict=True):  # alternately
        for row, report in zip(rows, reports, strict=True):
            row["curve"].append(report)
    print(
        f"{'network':10} {'weights':>9} {'recurrent':>9} {'minutes':>7} {'steps':>6} {'valid ppl':>9} {'test ppl':>8}"
    )
    for row, model in zip(rows, models.values(), strict=True):
        row["test"], last = perplexity(model, parts["test"]), row["curve"][-1]
        print(f"{row['network']:10} {row['weights']:9,} {row['recurrent']:9,} {last['minutes']:7.2f} "
              f"{last['steps']:6,} {last['valid']:9.1f} {row['test']:8.1f}")  # fmt: skip
    if args.figure:
        from matplotlib import pyplot as plt

        figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
        for row in rows:
            axis.plot([r["minutes"] for r in row["curve"]], [r["valid"] for r in row["curve"]], label=row["network"])
        axis.set(xlabel="minutes of one thread", ylabel="validation perplexity", yscale="log")
        axis.legend(frameon=False)
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
