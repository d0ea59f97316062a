"""Long memory: the number of training steps that networks need for the copying and adding problems.

Copying: `--symbols` random symbols out of 8, then T blanks, then a signal to repeat them in order. The loss is the
cross-entropy; the problem counts as solved at 99% accuracy. Without memory the accuracy is 12.5%.
Adding: T pairs of a number in [0, 1) and a mark; one number in each half is marked. The target is the sum of both, the
loss the squared error; the problem counts as solved below 0.01. Always predicting 1, without memory, gives 0.167.
Every training batch is new, so the training loss is the test loss. All networks have about the same number of weights,
the same optimizer and data, and forget gates that are initially open for about T steps.

    python examples/memory.py --figure memory.png
    python examples/memory.py --small
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM

EVERY = 25  # number of training steps over which loss and score are averaged


def lstm(x: int, h: int, forget_bias: float) -> nn.LSTM:
    """`nn.LSTM` with open forget gates and closed input gates (Tallec and Ollivier 2018)."""
    layer = nn.LSTM(x, h)
    with torch.no_grad():
        layer.bias_hh_l0.zero_()
        layer.bias_ih_l0[:h], layer.bias_ih_l0[h : 2 * h] = -forget_bias, forget_bias
    return layer


NETWORKS: dict[str, Callable[[int, int, float], nn.Module]] = {  # input size, hidden size, forget bias -> layer
    "nn.LSTM": lstm,
    "stacked LSTM-2": lambda x, h, b: StackedLSTM(x, h, num_layers=2, forget_bias=b),
    "sequential LSTM-2": lambda x, h, b: SequentialLSTM(x, h, num_cells=2, forget_bias=b),
    "FS-LSTM-2": lambda x, h, b: FSLSTM(x, h, slow_size=h // 2, forget_bias=b),
}


def copying(lag: int, batch: int, symbols: int) -> tuple[Tensor, Tensor]:
    """x (lag + 2 * symbols, B, 10), one-hot, and the targets (symbols, B)."""
    targets = torch.randint(8, (symbols, batch))
    blanks, signals = torch.full((lag - 1, batch), 8), torch.full((symbols + 1, batch), 9)
    return nn.functional.one_hot(torch.cat([targets, blanks, signals]), 10).float(), targets


def copying_score(y: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    """The loss, the score, and the score of a solved problem."""
    loss = nn.functional.cross_entropy(y.flatten(0, 1), targets.flatten())
    return loss, (y.argmax(-1) == targets).float().mean().item(), 0.99


def adding(lag: int, batch: int, symbols: int) -> tuple[Tensor, Tensor]:
    """x (lag, B, 2), numbers and marks, and the targets (1, B, 1)."""
    numbers, marks = torch.rand(lag, batch), torch.zeros(lag, batch)
    marks.scatter_(0, torch.randint(lag // 2, (2, batch)) + torch.tensor([[0], [lag // 2]]), 1.0)
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(0).view(1, batch, 1)


def adding_score(y: Tensor, targets: Tensor) -> tuple[Tensor, float, float]:
    loss = nn.functional.mse_loss(y, targets)
    return loss, -loss.item(), -0.01


PROBLEMS = {"copying": (copying, copying_score, 10, 8), "adding": (adding, adding_score, 2, 1)}


def network(name: str, problem: str, lag: int, weights: int) -> nn.ModuleDict:
    """The largest network of its kind with at most `weights` weights: a layer and a linear output."""
    _, _, inputs, outputs = PROBLEMS[problem]

    def made(size: int) -> nn.ModuleDict:
        return nn.ModuleDict({"layer": NETWORKS[name](inputs, size, math.log(lag)), "out": nn.Linear(size, outputs)})

    size = 2
    with torch.device("meta"):
        while sum(p.numel() for p in made(size + 1).parameters()) <= weights:
            size += 1
    return made(size)


def train(model: nn.ModuleDict, problem: str, lag: int, args: argparse.Namespace) -> tuple[int | None, list[float]]:
    """The training step at which the problem was solved, or None, and the loss, one value every `EVERY` steps."""
    data, score, _, _ = PROBLEMS[problem]
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    curve, losses, scores = [], [], []
    for step in range(1, args.updates + 1):
        x, targets = data(lag, args.batch, args.symbols)
        y, _ = model["layer"](x)
        loss, value, solved = score(model["out"](y[-len(targets) :]), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        scores.append(value)
        if step % EVERY == 0:
            curve.append(sum(losses[-EVERY:]) / EVERY)
            if sum(scores[-EVERY:]) / EVERY >= solved:
                return step, curve
    return None, curve


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--lags", nargs="+", type=int, default=[100, 400], metavar="T")
    for name, default in {"symbols": 1, "weights": 6000, "updates": 600, "batch": 16, "seed": 1, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--figure", metavar="FILE", help="draw the learning curves")
    parser.add_argument("--small", action="store_true", help="a short run of a few seconds: adding with T = 12")
    if parser.parse_args(argv).small:
        parser.set_defaults(problems=["adding"], lags=[12], weights=3000, updates=300, seeds=1)
    args, rows = parser.parse_args(argv), []
    torch.set_num_threads(1)  # networks this small do not benefit from more
    torch.set_flush_denormal(True)  # computing with denormal gradients is slow
    panels = [(problem, lag) for problem in args.problems for lag in args.lags]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3), squeeze=False, layout="constrained")
    print(f"{'problem':8} {'T':>4}  {'network':18} {'weights':>7}  training steps to solution, one value per seed")
    for (problem, lag), axis in zip(panels, axes[0], strict=True):
        axis.set(title=f"{problem}, T = {lag}", xlabel="training step", ylabel="loss")
        for i, name in enumerate(NETWORKS):
            solved: list[int | None] = []
            for seed in range(args.seed, args.seed + args.seeds):
                torch.manual_seed(seed)
                model = network(name, problem, lag, args.weights)
                step, curve = train(model, problem, lag, args)
                axis.plot(range(EVERY, EVERY * len(curve) + 1, EVERY), curve, f"C{i}", label="" if solved else name)
                solved.append(step)
            weights = sum(p.numel() for p in model.parameters())
            shown = ", ".join(f"> {args.updates}" if step is None else str(step) for step in solved)
            print(f"{problem:8} {lag:4}  {name:18} {weights:7,}  {shown}", flush=True)
            rows.append({"problem": problem, "T": lag, "network": name, "weights": weights, "steps": solved})
    axes[0][-1].legend(frameon=False, fontsize="small")
    if args.figure:
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
