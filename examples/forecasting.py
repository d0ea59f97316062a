"""Forecasting: one-month-ahead forecasts of a monthly series, streamed through `layer.step`.

Two series from statsmodels: `co2`, the atmospheric carbon dioxide at Mauna Loa (trend and season), and
`elnino`, the temperature of the Pacific near Peru (season and irregular warm years). A network reads the standardised
change since last month and the season, and forecasts the next change. It is trained on the months before the last
`--test` ones, and then run month by month: forecast, observe the value, step. The baselines are the last value plus the
change of the same month a year ago (seasonal naive), a linear autoregression of thirteen months, and `nn.LSTM`.

    python examples/forecasting.py --figure forecasting.png
    python examples/forecasting.py --small
"""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

import numpy as np
import statsmodels.api as sm
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from fastslow import FSLSTM

NETWORKS = {"nn.LSTM": lambda h: nn.LSTM(3, round(1.85 * h)), "FS-LSTM-2": lambda h: FSLSTM(3, h, slow_size=h // 2)}


def series(name: str) -> np.ndarray:
    """The monthly values (N,)."""
    if name == "co2":  # weekly, with gaps
        return sm.datasets.co2.load_pandas().data["co2"].resample("MS").mean().interpolate().to_numpy()
    table = sm.datasets.elnino.load_pandas().data  # one row per year
    return table.drop(columns="YEAR").to_numpy().ravel()


class Forecaster(nn.Module):
    """Predicts the next standardised change from the changes and seasons so far."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.layer = NETWORKS[name](size)
        self.out = nn.Linear(self.layer.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0]).squeeze(-1)  # (T, B)

    @torch.no_grad()
    def stream(self, x: Tensor) -> Tensor:
        """The same for one stream x (T, 3), one month at a time, as in a program that waits for each value."""
        state, forecasts = None, []
        for x_t in x:
            if isinstance(self.layer, nn.LSTM):
                y, state = self.layer(x_t.unsqueeze(0), state)
            else:
                y, state = self.layer.step(x_t, state)
            forecasts.append(self.out(y).view(()))
        return torch.stack(forecasts)


def train(model: Forecaster, x: Tensor, targets: Tensor, args: argparse.Namespace) -> None:
    """Train on random windows; the last 60 months select the best training step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=1e-4)
    fit, best, least = len(x) - 60, copy.deepcopy(model.state_dict()), math.inf
    for step in range(1, args.updates + 1):
        starts = torch.randint(fit - args.window + 1, (16,))
        places = torch.arange(args.window).unsqueeze(1) + starts  # (T, B)
        optimizer.zero_grad()
        # The first year of a window is a warm-up without loss.
        nn.functional.mse_loss(model(x[places])[12:], targets[places][12:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                loss = (model(x.unsqueeze(1))[fit:, 0] - targets[fit:]).square().mean().item()
            if loss < least:
                best, least = copy.deepcopy(model.state_dict()), loss
    model.load_state_dict(best)


def autoregression(change: np.ndarray, test: int, lags: int = 13) -> np.ndarray:
    """Forecasts of the last `test` changes by least squares on the `lags` before each."""
    rows = np.lib.stride_tricks.sliding_window_view(change, lags)[:-1]
    rows = np.column_stack([rows, np.ones(len(rows))])
    solution, *_ = np.linalg.lstsq(rows[:-test], change[lags:][:-test], rcond=None)
    return rows[-test:] @ solution


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--series", nargs="+", choices=("co2", "elnino"), default=["co2", "elnino"])
    sizes = {"size": 16, "window": 72, "updates": 400, "test": 120, "seed": 1, "seeds": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--figure", metavar="FILE", help="draw the FS-LSTM's forecasts")
    parser.add_argument("--small", action="store_true", help="a short run of a few seconds")
    if parser.parse_args(argv).small:
        parser.set_defaults(series=["co2"], size=8, updates=60, seeds=1, window=36, lr=2e-2)
    args, rows = parser.parse_args(argv), []
    torch.set_num_threads(1)
    figure, axes = plt.subplots(len(args.series), 1, figsize=(7, 2.6 * len(args.series)), squeeze=False, layout="tight")
    print(f"{'series':7} {'forecast':16} {'weights':>7}  root mean squared error, one value per seed")
    for series_name, axis in zip(args.series, axes[:, 0], strict=True):
        values, test = series(series_name), args.test
        change = np.diff(values)
        actual, last = values[-test:], values[-test - 1 : -1]
        scale = change[:-test].std()
        month = 2 * math.pi * np.arange(len(change)) / 12
        x = torch.tensor(np.column_stack([change / scale, np.sin(month), np.cos(month)]), dtype=torch.float32)[:-1]
        targets = torch.tensor(change[1:] / scale, dtype=torch.float32)
        naive = last + change[-test - 12 : -12]
        forecasts = {"last value": [last], "seasonal naive": [naive]}
        forecasts["autoregression"] = [last + autoregression(change, test)]
        weights = {"autoregression": 14}
        for name in NETWORKS:
            forecasts[name] = []
            for seed in range(args.seed, args.seed + args.seeds):
                torch.manual_seed(seed)
                model = Forecaster(name, args.size)
                train(model, x[:-test], targets[:-test], args)
                forecasts[name].append(last + model.stream(x)[-test:].numpy() * scale)
            weights[name] = sum(p.numel() for p in model.parameters())
        for name, runs in forecasts.items():
            errors = [float(np.sqrt(np.mean((run - actual) ** 2))) for run in runs]
            shown = ", ".join(f"{error:.3f}" for error in errors)
            print(f"{series_name:7} {name:16} {weights.get(name, 0):7,}  {shown}", flush=True)
            rows.append({"series": series_name, "forecast": name, "error": errors})
        axis.plot(actual, "k", label=series_name, linewidth=1)
        axis.plot(forecasts["FS-LSTM-2"][0], "C3.", label="FS-LSTM-2, one month ahead", markersize=4)
        axis.set(xlabel="test month")
        axis.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    if args.figure:
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
