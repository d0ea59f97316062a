"""Music: predicting the next chord of Bach chorales, as piano rolls.

A chorale is a sequence of chords, each a vector of 88 keys that are on or off. The loss is the negative log-likelihood
of the next chord given the chords so far, with independent keys, in nats per chord. The data is `JSB_Chorales.mat`, the
split of Boulanger-Lewandowski, Bengio and Vincent (2012) as distributed with the TCN of Bai, Kolter and Koltun (2018),
who publish LSTM 8.45, GRU 8.43 and TCN 8.10 for networks of 300,000 weights. Both networks here have about the same
number, and the same optimizer, dropout and number of epochs; the validation chorales select the best epoch.

    python examples/music.py JSB_Chorales.mat --figure music.png
    python examples/music.py JSB_Chorales.mat --small
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from scipy.io import loadmat
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fastslow import FSLSTM

KEYS = 88
NETWORKS = ("nn.LSTM", "FS-LSTM-2")
PUBLISHED = {"LSTM": 8.45, "GRU": 8.43, "TCN": 8.10}  # arXiv 1803.01271, table 1


class Player(nn.Module):
    """Logits (T, B, 88) of the next chord from chords (T, B, 88); `size` is the FS-LSTM's hidden size."""

    def __init__(self, name: str, size: int, dropout: float) -> None:
        super().__init__()
        if name == "nn.LSTM":  # about as many weights
            self.layer: nn.Module = nn.LSTM(KEYS, round(1.655 * size))
        else:
            self.layer = FSLSTM(KEYS, size, slow_size=size // 2)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(self.layer.hidden_size, KEYS)

    def forward(self, chords: Tensor) -> Tensor:
        return self.out(self.drop(self.layer(self.drop(chords))[0]))


def chorales(path: Path) -> dict[str, list[Tensor]]:
    """The chorales (T, 88) of each part."""
    data = loadmat(path)
    return {p: [torch.tensor(piece).float() for piece in data[f"{p}data"][0]] for p in ("train", "valid", "test")}


def nats(model: Player, pieces: list[Tensor]) -> tuple[Tensor, int]:
    """The sum over all chords except the first of each piece, and the number of these chords."""
    padded = pad_sequence(pieces)  # (T, B, 88)
    steps = torch.arange(len(padded) - 1).unsqueeze(1)
    there = steps < torch.tensor([len(piece) - 1 for piece in pieces])  # (T - 1, B): chords that have a next one
    loss = nn.functional.binary_cross_entropy_with_logits(model(padded[:-1]), padded[1:], reduction="none").sum(-1)
    return (loss * there).sum(), int(there.sum())


@torch.no_grad()
def score(model: Player, pieces: list[Tensor]) -> float:
    """Nats per chord."""
    model.eval()
    total, chords = nats(model, pieces)
    model.train()
    return total.item() / chords


def train(model: Player, parts: dict[str, list[Tensor]], args: argparse.Namespace) -> list[float]:
    """Train the model and restore the best epoch on the validation chorales; returns the score of every epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    curve, best, pieces = [], None, parts["train"]
    for _ in range(args.epochs):
        for rows in torch.randperm(len(pieces)).split(args.batch):
            optimizer.zero_grad()
            total, chords = nats(model, [pieces[row] for row in rows])
            (total / chords).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        curve.append(score(model, parts["valid"]))
        if curve[-1] <= min(curve):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return curve


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="JSB_Chorales.mat, or another file with the same fields")
    for name, default in {"size": 134, "epochs": 20, "batch": 16, "seed": 1, "seeds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--dropout", type=float, default=0.3, help="dropout of the chords and of the layer's output")
    parser.add_argument("--figure", metavar="FILE", help="draw the validation scores")
    parser.add_argument("--small", action="store_true", help="a short run of a few seconds")
    if parser.parse_args(argv).small:
        parser.set_defaults(size=24, epochs=25, batch=4, seeds=1, dropout=0.0, lr=1e-2)
    args, rows = parser.parse_args(argv), []
    torch.set_num_threads(1)
    parts = chorales(args.file)
    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    print(f"{'network':10} {'weights':>8} {'valid':>7}  test, nats per chord, one value per seed")
    for i, name in enumerate(NETWORKS):
        tests: list[float] = []
        least = math.inf
        for seed in range(args.seed, args.seed + args.seeds):
            torch.manual_seed(seed)
            model = Player(name, args.size, args.dropout)
            curve = train(model, parts, args)
            axis.plot(range(1, args.epochs + 1), curve, f"C{i}", label="" if tests else name)
            least = min(least, *curve)
            tests.append(score(model, parts["test"]))
        weights = sum(p.numel() for p in model.parameters())
        shown = ", ".join(f"{test:.2f}" for test in tests)
        print(f"{name:10} {weights:8,} {least:7.2f}  {shown}", flush=True)
        rows.append({"network": name, "weights": weights, "valid": least, "test": tests})
    for name, value in PUBLISHED.items():
        print(f"{name:10} {'~300,000':>8} {'':7}  {value:.2f} (published)")
    axis.set(xlabel="epoch", ylabel="validation, nats per chord")
    axis.legend(frameon=False)
    if args.figure:
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
