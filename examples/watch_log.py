"""Watch a growing log: every line is scored by a model that has learned from the previous lines.

The surprisal of a character is the number of bits that the model needs for it; the surprisal of a line is that of its
most surprising 32 consecutive characters. A line far above the previous lines raises an alarm; then the model learns
it, so that similar lines become less surprising. No training text is needed, and memory is constant for any length of
the log: the model, its optimizer and state, and a running mean and variance. Digits are read as 0, because counters are
not informative.

    tail -f server.log | python examples/watch_log.py -
    python examples/watch_log.py server.log --figure watch.png
    python examples/watch_log.py BGL_2k.log --labels          # loghub: the first word is - or an alert's name
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from typing import Any

import torch
from matplotlib import pyplot as plt

from fastslow import CharLM
from fastslow.data.alphabet import Alphabet
from fastslow.lm import LMConfig
from fastslow.state import detach_state

STRETCH = 32


class Watcher:
    """Scores lines one after another, and learns from each line after scoring it."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.model = CharLM(LMConfig(alphabet=Alphabet.bytes(), hidden_size=args.size, slow_size=args.size // 2))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr)
        self.state: Any = None
        self.last = torch.tensor([ord("\n")])
        self.mean, self.variance, self.memory = 0.0, 0.0, args.memory
        self.longest, self.lines = args.longest, 0

    def read(self, text: bytes) -> tuple[float, float, bytes]:
        """Bits per character of a line's most surprising part, its distance from the running mean in standard
        deviations, and this part of the line."""
        text = text.strip()[: self.longest] + b"\n"
        symbols = re.sub(rb"[0-9]", b"0", text)
        tokens = torch.cat([self.last, torch.tensor(list(symbols))]).unsqueeze(1)  # (T + 1, 1)
        scored = self.model.token_nats(tokens[:-1], tokens[1:], self.state)  # nats (T, 1), before learning from them
        width = min(STRETCH, len(symbols))
        means = scored.nats.detach().flatten().unfold(0, width, 1).mean(1) / math.log(2)
        bits, place = means.max().item(), int(means.argmax())
        self.optimizer.zero_grad()
        scored.nats.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.state, self.last, self.lines = detach_state(scored.state), tokens[-1], self.lines + 1
        # Running mean and variance over about `memory` lines; over all lines while there are fewer.
        share, difference = 1 / min(self.lines, self.memory), bits - self.mean
        level = difference / max(math.sqrt(self.variance), 0.05)
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference**2)
        return bits, level, text[place : place + width]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="a log, or - for standard input")
    parser.add_argument("--labels", action="store_true", help="skip the first word of each line, its label")
    parser.add_argument(
        "--alarm", type=float, default=2.0, help="standard deviations above the mean for an alarm (default 2)"
    )
    parser.add_argument("--quiet", type=int, default=200, help="number of lines before the first alarm (default 200)")
    parser.add_argument("--size", type=int, default=64, help="size of the hidden state (default 64)")
    parser.add_argument("--memory", type=int, default=300, help="number of lines for the running mean (default 300)")
    parser.add_argument("--longest", type=int, default=300, help="characters read per line at most (default 300)")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", metavar="FILE", help="draw the surprisal of every line")
    parser.add_argument("--small", action="store_true", help="a small model for a quick run")
    if parser.parse_args(argv).small:
        parser.set_defaults(size=32, quiet=60, lr=1e-2)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    watcher, alarms, curve = Watcher(args), [], []
    first: dict[str, bool] = {}  # kind of labelled line -> whether its first line raised an alarm
    start, wrong = time.process_time(), 0
    with open(sys.stdin.fileno() if args.file == "-" else args.file, "rb") as log:
        for line in log:
            label, _, text = line.partition(b" ") if args.labels else (b"-", b"", line)
            bits, level, stretch = watcher.read(text)
            curve.extend([bits] if args.figure else [])  # the only data that grows, apart from the alarms
            alarm = watcher.lines > args.quiet and level > args.alarm
            if label != b"-":
                first.setdefault(label.decode(), alarm)
            if alarm:
                alarms.append(watcher.lines)
                wrong += label == b"-"
                shown = stretch.decode(errors="replace").strip()
                print(f"line {watcher.lines}, {bits:.2f} bits per character: {shown}", flush=True)
    seconds = time.process_time() - start
    print(f"{watcher.lines:,} lines, {len(alarms)} alarms, {watcher.lines / seconds:.0f} lines per second")
    if args.labels:
        print(f"kinds of alert: {len(first)}; with an alarm at their first line: {sum(first.values())}")
        print(f"alarms at lines labelled normal: {wrong}")
    if args.figure:
        figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
        axis.plot(range(1, len(curve) + 1), curve, linewidth=0.7)
        axis.plot(alarms, [curve[number - 1] for number in alarms], "C3.", label="alarm")
        axis.set(xlabel="line", ylabel="bits per character")
        axis.legend(frameon=False)
        figure.savefig(args.figure, dpi=120)
    return {"lines": watcher.lines, "alarms": alarms, "first": first, "normal": wrong, "bits": watcher.mean}


if __name__ == "__main__":
    main()
