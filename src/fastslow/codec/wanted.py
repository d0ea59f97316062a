"""The model that a block was coded with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastslow.codec.models import CodecModel


@dataclass(frozen=True)
class Wanted:
    """The model that a block needs: the first bytes of its hash, the bits per weight, and its name, if known."""

    model_id: bytes
    weight_bits: int
    name: str = ""

    def __str__(self) -> str:
        name = "".join(c for c in self.name if c.isprintable())[:80]
        return self.model_id.hex()[:16] + (f" ({name})" if name else "")

    def fits(self, model: CodecModel) -> bool:
        return model.id(self.weight_bits)[: len(self.model_id)] == self.model_id
