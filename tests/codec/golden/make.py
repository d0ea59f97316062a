"""The golden archives: `python -m tests.codec.golden.make` writes those of version 2 that are missing.

Once a release writes version 2 they are never written anew: a program that cannot read them, or writes other bytes,
has changed the format, whose version must then rise. Those of version 1 (`v1/`) are read only: the program that wrote
them is gone.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastslow import codec
from fastslow.codec.exact.model import ExactModel

from ..tiny import TEXT, predicted_text, random_text, tiny_model

FOLDER = Path(__file__).parent


@cache
def models() -> dict[str, ExactModel]:
    return {
        "norm": tiny_model(),
        "plain8": tiny_model(norm=False, width=1, seed=2),
    }


OLD_TEXTS = {
    "empty": b"",
    "one": b"x",
    "text": TEXT,
    "random": random_text(900),
    "escapes": random_text(300) + b"\x00\xffUNKNOWN" + random_text(300, 9),
    "binary": bytes(range(256)),
    "mixed": random_text(400) + b"a" * 400 + bytes((i * i * 7 + i // 3) % 256 for i in range(400)),
}
OLD_CASES = {
    "empty": ("norm", "empty"),
    "one": ("norm", "one"),
    "text-1-lane": ("norm", "text"),
    "random-7-lanes": ("norm", "random"),
    "random-blocks": ("norm", "random"),
    "escapes": ("norm", "escapes"),
    "binary": ("norm", "binary"),
    "mixed-blocks": ("norm", "mixed"),
    "plain8": ("plain8", "random"),
    "embedded": ("plain8", "random"),
}
"""Name: model, text."""


@cache
def texts() -> dict[str, bytes]:
    made = models()
    words = predicted_text(made["norm"], 420, 5)
    lines = [words[at : at + 6] for at in range(0, 420, 6)]
    return {
        "empty": b"",
        "one": b"x",
        "text": TEXT,
        "norm": predicted_text(made["norm"], 300),
        "plain8": predicted_text(made["plain8"], 300),
        "unknown": predicted_text(made["norm"], 200) + b"\x00\xffQ" + predicted_text(made["norm"], 60, 4),
        "binary": bytes(range(256)),
        "lines": b"\r\n".join(lines) + b"\nodd\r\n",
        "utf16": ("\ufeff" + "\r\n".join(line.decode() for line in lines[:30]) + " \xe9\u20ac").encode("utf-16-le"),
        "repeats": b"12:30:01 disk sda1 ok\r\n12:30:07 disk sda2 ok\r\n12:31:44 disk sda1 full\r\nodd\n" * 2,
        "noise": bytes((i * i * 7 + i // 3) % 256 for i in range(100)),
    }


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "empty": ("norm", "empty", {}),
    "one": ("norm", "one", {}),
    "text": ("norm", "text", {}),
    "neural-1-lane": ("norm", "norm", {"lanes": 1}),
    "neural-7-lanes": ("norm", "norm", {"lanes": 7}),
    "neural-blocks": ("norm", "norm", {"lanes": 16, "block_size": 128}),
    "unknown": ("norm", "unknown", {"lanes": 3}),
    "plain8": ("plain8", "plain8", {"lanes": 30}),
    "embedded": ("plain8", "plain8", {"lanes": 5, "embed_model": True}),
    "binary": ("norm", "binary", {}),
    "lines": ("norm", "lines", {}),
    "utf16": ("norm", "utf16", {}),
    "repeats": ("norm", "repeats", {}),
    "noise": ("norm", "noise", {}),
}
"""Name: model, text, options."""
HAS_LZMA = {"embedded", "repeats"}
"""Those with bytes of liblzma's, which another version may choose otherwise: they are read, not compared."""


def make() -> None:
    for name, model in models().items():
        path = FOLDER / f"{name}.fsxm"
        if not path.exists():
            codec.export_model(model, path)
    for name, (model, text, options) in CASES.items():
        path = FOLDER / f"{name}.fsz"
        if not path.exists():
            path.write_bytes(codec.compress(texts()[text], models()[model], **options))


if __name__ == "__main__":
    make()
