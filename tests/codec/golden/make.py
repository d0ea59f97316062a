"""The golden archives: `python -m tests.codec.golden.make` writes those that are missing.

They are never written anew: a program that cannot read them, or writes other bytes, has changed the format, whose
version must then rise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastslow import codec
from fastslow.codec.exact.model import ExactModel

from ..tiny import TEXT, random_text, tiny_model

FOLDER = Path(__file__).parent


def models() -> dict[str, ExactModel]:
    return {
        "norm": tiny_model(),
        "plain8": tiny_model(norm=False, width=1, seed=2),
    }


def texts() -> dict[str, bytes]:
    return {
        "empty": b"",
        "one": b"x",
        "text": TEXT,
        "random": random_text(900),
        "escapes": random_text(300) + b"\x00\xffUNKNOWN" + random_text(300, 9),
        "binary": bytes(range(256)),
        "mixed": random_text(400) + b"a" * 400 + bytes((i * i * 7 + i // 3) % 256 for i in range(400)),
    }


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "empty": ("norm", "empty", {}),
    "one": ("norm", "one", {}),
    "text-1-lane": ("norm", "text", {"lanes": 1}),
    "random-7-lanes": ("norm", "random", {"lanes": 7}),
    "random-blocks": ("norm", "random", {"lanes": 16, "block_size": 256}),
    "escapes": ("norm", "escapes", {"lanes": 3}),
    "binary": ("norm", "binary", {}),
    "mixed-blocks": ("norm", "mixed", {"lanes": 8, "block_size": 400}),
    "plain8": ("plain8", "random", {"lanes": 30}),
    "embedded": ("plain8", "random", {"lanes": 5, "embed_model": True}),
}
"""Name: model, text, options."""
HAS_LZMA = {"mixed-blocks", "embedded"}
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
