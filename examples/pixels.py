"""Pixel by pixel: handwritten digits read one pixel per step, in order and permuted.

scikit-learn's digits are 1,797 images of 8 x 8 pixels with 17 levels of grey, read in 64 steps from the top left. In
the permuted task all images are shuffled by one fixed permutation, so that neighbouring pixels are far apart and the
network has to remember the whole image. The last 300 images are the test set, the 200 before them select the epoch. All
networks have about the same number of weights and see the training images equally often.

    python examples/pixels.py --figure pixels.png
    python examples/pixels.py --small
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fastslow import FSLSTM, SequentialLSTM, StackedLSTM

NETWORKS = {  # hidden size -> layer that reads one pixel per step
    "nn.LSTM": lambda h: nn.LSTM(1, h),
    "stacked LSTM-2": lambda h: StackedLSTM(1, h, num_layers=2),
    "sequential LSTM-2": lambda h: SequentialLSTM(1, h, num_cells=2),
    "FS-LSTM-2": lambda h: FSLSTM(1, h, slow_size=h // 2),
}


class Classifier(nn.Module):
    """Logits (B, 10) of images (64, B, 1), from the mean of the outputs over the last eight steps."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.layer, self.out = NETWORKS[name](size), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return self.out(y[-8:].mean(0))


def classifier(name: str, weights: int) -> Classifier:
    """The largest network of its kind with at most `weights` weights."""
    size = 2
    with torch.device("meta"):
        while sum(p.numel() for p in Classifier(name, size + 1).parameters()) <= weights:
            size += 1
    return Classifier(name, size)


@torch.no_grad()
def accuracy(model: Classifier, x: Tensor, labels: Tensor) -> float:
    return (model(x).argmax(-1) == labels).float().mean().item()


def train(model: Classifier, x: Tensor, labels: Tensor, args: argparse.Namespace) -> tuple[float, list[float]]:
    """The test accuracy after the best epoch on the validation images, and the validation accuracies."""
    last, curve, best = x.shape[1] - 500, [], None
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for _ in range(args.epochs):
        for rows in torch.randperm(last)[: args.images].split(args.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[:, rows]), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        curve.append(accuracy(model, x[:, last : last + 200], labels[last : last + 200]))
        if curve[-1] >= max(curve):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return accuracy(model, x[:, -300:], labels[-300:]), curve


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in {"weights": 8000, "epochs": 20, "batch": 32, "images": 1297, "seed": 1, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--figure", metavar="FILE", help="draw validation accuracy over the epochs")
    parser.add_argument("--small", action="store_true", help="a short run of half a minute")
    if parser.parse_args(argv).small:
        parser.set_defaults(weights=4000, epochs=8, seeds=1)
    args, rows = parser.parse_args(argv), []
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True, layout="constrained")
    print(f"{'order':8}  {'network':18} {'weights':>7}  test accuracy (%), one value per seed")
    for axis, (order, pixels) in zip(axes, {"plain": torch.arange(64), "permuted": shuffled}.items(), strict=True):
        axis.set(title=order, xlabel="epoch", ylabel="validation accuracy")
        x = images[:, pixels].t().unsqueeze(-1).contiguous()  # (64, N, 1)
        for i, name in enumerate(NETWORKS):
            tests: list[float] = []
            for seed in range(args.seed, args.seed + args.seeds):
                torch.manual_seed(seed)
                model = classifier(name, args.weights)
                test, curve = train(model, x, labels, args)
                axis.plot(range(1, args.epochs + 1), curve, f"C{i}", label="" if tests else name)
                tests.append(100 * test)
            weights, shown = sum(p.numel() for p in model.parameters()), ", ".join(f"{test:.1f}" for test in tests)
            print(f"{order:8}  {name:18} {weights:7,}  {shown}", flush=True)
            rows.append({"order": order, "network": name, "weights": weights, "accuracy": tests})
    axes[0].legend(frameon=False, fontsize="small")
    if args.figure:
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
