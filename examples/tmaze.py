"""Reinforcement learning with memory: a recurrent policy learns a T-maze by advantage actor-critic (A2C).

The agent walks along a corridor to a junction, where it must turn up or down (Bakker 2002). The correct direction is
shown only at the first step. A policy without memory turns correctly half the time. Many mazes run in parallel, and
their episodes end at different steps, where the recurrent state of that row is reset (`resets`).

    python examples/tmaze.py --figure tmaze.png
    python examples/tmaze.py --small
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from fastslow import FSLSTM
from fastslow.state import reset_rows

NETWORKS = ("FS-LSTM-2", "nn.LSTM", "FS-LSTM-2, no memory")  # the last is reset at every step


class TMaze(gymnasium.vector.VectorEnv):
    # Observed: cue up, cue down (at the start only), corridor, junction. Actions: ahead, up, down. Reward: 1 for the
    # right arm, -1 for the wrong one, -0.1 for bumping into a wall. An episode has at most 4 * length steps.
    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, length: int) -> None:
        self.num_envs, self.length = num_envs, length
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (4,))
        self.single_action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.steps = np.zeros((2, self.num_envs), dtype=np.int64)
        self.cue = self.np_random.integers(2, size=self.num_envs)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        at_junction, ahead = self.place == self.length, actions == 0
        ended, right = at_junction & ~ahead, at_junction & (actions == 1 + self.cue)
        rewards = np.where(ended, np.where(right, 1.0, -1.0), np.where(ahead == at_junction, -0.1, 0.0))
        self.place, self.steps = self.place + (ahead & ~at_junction), self.steps + 1
        new = ended | (truncated := (self.steps >= 4 * self.length) & ~ended)
        self.place[new], self.steps[new], self.cue[new] = 0, 0, self.np_random.integers(2, size=new.sum())
        return self._observe(), rewards, ended, truncated, {"right": right}

    def _observe(self) -> np.ndarray:
        start, junction = self.place == 0, self.place == self.length
        return np.stack([start & (self.cue == 0), start & (self.cue == 1), ~start & ~junction, junction], 1, dtype="f4")


def unroll(layer: nn.Module, x: Tensor, state: Any, resets: Tensor) -> tuple[Tensor, Any]:
    """y (T, B, H) and the last state; a row's state is reset before the steps at which `resets` (T, B) is true."""
    if isinstance(layer, FSLSTM):
        return layer(x, state, resets=resets)
    outputs = []  # nn.LSTM has no resets: one call per step
    for x_t, reset in zip(x.split(1), resets, strict=True):
        y, state = layer(x_t, None if state is None else reset_rows(state, reset))
        outputs.append(y)
    return torch.cat(outputs), state


class Agent(nn.Module):
    def __init__(self, network: str, size: int) -> None:
        super().__init__()
        self.forgetful = "no memory" in network
        # FSLSTM(size, size // 2) has about as many weights.
        self.layer = nn.LSTM(4, round(1.83 * size)) if network == "nn.LSTM" else FSLSTM(4, size, size // 2)
        self.heads = nn.Linear(self.layer.hidden_size, 4)

    def forward(self, x: Tensor, state: Any, resets: Tensor) -> tuple[Tensor, Tensor, Any]:
        y, state = unroll(self.layer, x, state, torch.ones_like(resets) if self.forgetful else resets)
        logits, value = self.heads(y).split([3, 1], dim=-1)
        return logits, value.squeeze(-1), state


def learn(agent: Agent, seed: int, args: argparse.Namespace) -> list[float]:
    """Train by A2C with generalised advantage estimation; returns the share of correct turns per ten training steps."""
    mazes, optimizer = TMaze(args.envs, args.length), torch.optim.Adam(agent.parameters(), lr=args.lr)
    (observation, _), resets, state = mazes.reset(seed=seed), [torch.ones(args.envs, dtype=torch.bool)], None
    curve, turns, right = [], 0, 0
    for update in range(1, args.updates + 1):
        began, xs, actions, rewards, resets = state, [], [], [], resets[-1:]
        with torch.no_grad():
            for _ in range(args.window):
                xs.append(torch.from_numpy(observation))
                logits, _, state = agent(xs[-1].unsqueeze(0), state, resets[-1].unsqueeze(0))
                actions.append(torch.distributions.Categorical(logits=logits[0]).sample())
                observation, reward, ended, truncated, info = mazes.step(actions[-1].numpy())
                rewards.append(torch.from_numpy(reward).float())
                resets.append(torch.from_numpy(ended | truncated))
                turns, right = turns + int(resets[-1].sum()), right + int(info["right"].sum())
        # The same steps again, with gradients through the whole window, plus one step for the last value.
        logits, values, _ = agent(torch.stack([*xs, torch.from_numpy(observation)]), began, torch.stack(resets))
        advantages, advantage, fixed = [], torch.zeros(args.envs), values.detach()
        for t in reversed(range(args.window)):
            alive = (~resets[t + 1]).float()
            advantage = rewards[t] + 0.98 * alive * (fixed[t + 1] + 0.95 * advantage) - fixed[t]
            advantages.insert(0, advantage)
        policy, gains = torch.distributions.Categorical(logits=logits[:-1]), torch.stack(advantages)
        objective = (policy.log_prob(torch.stack(actions)) * gains).mean() + args.entropy * policy.entropy().mean()
        optimizer.zero_grad()
        (0.5 * (values[:-1] - fixed[:-1] - gains).square().mean() - objective).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        if update % 10 == 0:
            curve, turns, right = [*curve, right / max(turns, 1)], 0, 0
    return curve


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sizes = {"length": 6, "envs": 32, "window": 20, "updates": 200, "size": 24, "seed": 1, "seeds": 3}
    for name, default in {**sizes, "lr": 1e-2, "entropy": 0.02}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    parser.add_argument("--figure", metavar="FILE", help="draw the learning curves")
    parser.add_argument("--small", action="store_true", help="a short run of a few seconds")
    if parser.parse_args(argv).small:
        parser.set_defaults(length=2, window=10, updates=60, size=12, seeds=1, lr=2e-2)
    args, rows = parser.parse_args(argv), []
    torch.set_num_threads(1)
    print(f"{'network':20} {'weights':>7}  share of correct turns in the last tenth of training, one value per seed")
    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for i, network in enumerate(NETWORKS):
        shares: list[float] = []
        for seed in range(args.seed, args.seed + args.seeds):
            torch.manual_seed(seed)
            agent = Agent(network, args.size)
            curve = learn(agent, seed, args)
            axis.plot(range(10, 10 * len(curve) + 1, 10), curve, f"C{i}", label="" if shares else network)
            shares.append(float(np.mean(curve[-args.updates // 100 :])))
        weights = sum(p.numel() for p in agent.parameters())
        print(f"{network:20} {weights:7,}  {', '.join(f'{share:.2f}' for share in shares)}", flush=True)
        rows.append({"network": network, "weights": weights, "right": shares})
    axis.set(xlabel="training step", ylabel="share of correct turns")
    axis.legend(frameon=False, loc="center right")
    if args.figure:
        figure.savefig(args.figure, dpi=120)
    return rows


if __name__ == "__main__":
    main()
