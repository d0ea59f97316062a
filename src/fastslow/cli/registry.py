"""Every command with its function and a line of help. A command's module is imported when it is run."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    home: str
    """``"module:function"``."""
    help: str


COMMANDS: dict[str, Command] = {
    "demo": Command("fastslow.cli.demo:demo", "train a small Fast-Slow LSTM on this machine and show what it can do"),
    "train": Command("fastslow.cli.train:train", "train a model on text"),
    "evaluate": Command("fastslow.cli.evaluate:evaluate", "measure bits per character of a model on text"),
    "sample": Command("fastslow.cli.sample:sample", "sample text from a model"),
    "score": Command("fastslow.cli.score:score", "find the surprising characters of a text"),
    "dynamics": Command("fastslow.cli.dynamics:dynamics", "measure what networks remember: the paper's figures 3 to 5"),
    "compress": Command("fastslow.cli.compress:compress", "compress files losslessly"),
    "decompress": Command("fastslow.cli.compress:decompress", "decompress files"),
    "export": Command("fastslow.cli.export:export", "write a model to an ONNX file"),
    "info": Command("fastslow.cli.info:info", "describe a preset, a model, or this installation"),
    "bench": Command("fastslow.bench.run:run_bench", "time the engines on this machine"),
    "data list": Command("fastslow.cli.data:list_data", "list the public corpora and which of them are downloaded"),
    "data fetch": Command("fastslow.cli.data:fetch", "download a public corpus and verify it"),
}
"""A name is one word, or two where commands share the first."""
