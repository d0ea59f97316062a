"""Write archives as streams: compress one file object into another, with memory for a block or two.

Each block is stored as the shortest of four: coded by the network and the mixer, by the mixer alone, lzma, or raw. A
quick look decides which are tried. `docs/format.md` is the specification.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from fastslow.codec import container, plain, transforms
from fastslow.codec.container import Block, End, Kind, Model
from fastslow.codec.errors import CodecError, ModelError
from fastslow.codec.models import CodecModel, ModelLike, as_model
from fastslow.codec.reader import Progress, Summary
from fastslow.codec.whole import read_up_to, write_all

if TYPE_CHECKING:
    import torch

    from fastslow.codec.predictor import ExactPredictor

DEFAULT_BLOCK = 1 << 22
_MIN_CODED = 8
"""Shorter blocks are not coded, because it would not pay."""
_SMALL = 1 << 14
"""Up to this length all ways of storing a block are tried."""
_NOISE = 1 << 16
"""Length of the sample by which the mixer is tested on a block that lzma cannot compress."""


@dataclass(frozen=True)
class Options:
    """Options of compression.

    lanes: lanes of blocks with a network; None: by size, one per 4 KiB, at most 64.
    block_size: bytes of text per block; blocks are independent.
    embed_model: store the model in the archive.
    weight_bits: bits per weight of the model in integers, 8 to 16.
    """

    lanes: int | None = None
    block_size: int = DEFAULT_BLOCK
    embed_model: bool = False
    weight_bits: int = 16

    def __post_init__(self) -> None:
        if self.lanes is not None and not 1 <= self.lanes <= container.MAX_LANES:
            raise CodecError(f"lanes must be from 1 to {container.MAX_LANES:,}; got {self.lanes:,}")
        if not 1 <= self.block_size <= container.MAX_BLOCK:
            raise CodecError(f"the block size must be from 1 to {container.MAX_BLOCK:,} bytes; got {self.block_size:,}")
        if not 8 <= self.weight_bits <= 16:
            raise CodecError(f"weight_bits must be from 8 to 16; got {self.weight_bits}")


def compress_stream(
    source: IO[bytes],
    target: IO[bytes],
    model: ModelLike | None,
    options: Options | None = None,
    *,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compress `source` into `target`. model: None: contexts only. Raises FastslowError for a model that cannot be
    used."""
    writer = _Writer(target, model, options or Options(), device, progress)
    while data := read_up_to(source, writer.options.block_size):
        writer.block(data)
    return writer.close()


@dataclass(frozen=True)
class _Coded:
    """A way to store a block."""

    kind: Kind
    payload: bytes
    lanes: int = 0
    transforms: int = 0
    text: int = 0
    note: int = 0


class _Writer:
    def __init__(
        self,
        target: IO[bytes],
        model: ModelLike | None,
        options: Options,
        device: torch.device | str | None,
        progress: Progress | None,
    ) -> None:
        self.options, self.device, self.progress = options, device, progress
        self.model: CodecModel | None = None if model is None else as_model(model, device)
        if options.embed_model and self.model is None:
            raise ModelError("no model to embed: pass one")
        self._network: ExactPredictor | None = None
        self._seed = zlib.crc32(container.FRONT)
        self._digest = hashlib.sha256()
        self._target, self._summary = target, Summary()
        self._write(container.FRONT)
        if options.embed_model and self.model is not None:
            serial = self.model.exact(options.weight_bits).to_bytes()
            packed = plain.pack(serial)
            self._sealed(Model(len(serial), len(packed), self._model_id()).to_bytes(self._seed))
            self._write(packed)

    def block(self, data: bytes) -> None:
        best = self._best(data)
        neural = best.kind == Kind.NEURAL
        head = Block(
            best.kind,
            len(data),
            len(best.payload),
            container.check_of(best.payload, data),
            best.lanes,
            best.transforms,
            best.text,
            best.note,
            self.options.weight_bits if neural else 0,
            self._model_id() if neural else b"",
        )
        self._sealed(head.to_bytes(self._seed))
        self._write(best.payload)
        self._digest.update(data)
        self._summary.plain += len(data)
        self._summary.blocks += 1
        self._summary.kinds[best.kind.name.lower()] += len(data)
        if self.progress is not None:
            self.progress(self._summary.plain, self._summary.stored)

    def close(self) -> Summary:
        digest = self._digest.digest()[: container.CHECK_SIZE]
        self._write(End(self._summary.plain, digest).to_bytes())
        return self._summary

    # ------------------------------------------------------------------ the ways to store a block

    def _best(self, data: bytes) -> _Coded:
        best = _Coded(Kind.RAW, data)
        packed = plain.pack(data)
        if len(packed) < len(data):
            best = _Coded(Kind.LZMA, packed)
        if len(data) < _MIN_CODED:
            return best
        done, text, note = transforms.prepare(data)
        alone, network = self._ways(text, len(packed))
        told = self._stepped()
        if alone:
            best = self._shorter(best, Kind.MIXED, None, done, text, note, told if network is None else None)
        if network is not None:
            best = self._shorter(best, Kind.NEURAL, network, done, text, note, told)
        return best

    def _ways(self, text: bytes, packed: int) -> tuple[bool, ExactPredictor | None]:
        """Whether to try the mixer alone, and the network to try."""
        from fastslow.codec import worth
        from fastslow.codec.mixed import encode_block

        if len(text) > _NOISE and 100 * packed >= 99 * len(text):
            piece = text[len(text) // 2 :][:_NOISE]
            if encode_block(piece, None, 1, len(piece) * 99 // 100) is None:
                return False, None
        if self.model is None:
            return True, None
        network = self._predictor()
        if len(text) <= _SMALL:
            return True, network
        # The mixer alone usually needs 0.7 of the size of lzma. In unclear cases both are tried.
        expected = worth.bytes_of(worth.network_nats(text, network))
        if 10 * expected < 8 * packed:
            return False, network
        return True, network if 10 * expected < 13 * packed else None

    def _shorter(
        self,
        best: _Coded,
        kind: Kind,
        network: ExactPredictor | None,
        done: int,
        text: bytes,
        note: bytes,
        progress: Callable[[int], None] | None,
    ) -> _Coded:
        """Try one way, and keep it if it is shorter than the best so far."""
        from fastslow.codec.mixed import encode_block, lanes_for

        lanes = 1
        if network is not None:
            lanes = min(len(text), self.options.lanes or lanes_for(len(text)))
        limit = len(best.payload) - len(note)
        coded = None if limit <= 0 else encode_block(text, network, lanes, limit, progress)
        if coded is None:
            return best
        return _Coded(kind, note + coded, lanes, done, len(text), len(note))

    def _predictor(self) -> ExactPredictor:
        if self._network is None:
            from fastslow.codec.predictor import ExactPredictor

            assert self.model is not None
            device = "cpu" if self.device is None else self.device
            self._network = ExactPredictor(self.model.exact(self.options.weight_bits), device)
        return self._network

    def _model_id(self) -> bytes:
        assert self.model is not None
        return self.model.id(self.options.weight_bits)[: container.ID_SIZE]

    def _stepped(self) -> Callable[[int], None] | None:
        if self.progress is None:
            return None
        report, done, stored = self.progress, self._summary.plain, self._summary.stored

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            report(done, stored)

        return stepped

    def _sealed(self, head: bytes) -> None:
        self._seed = container.crc_of(head)
        self._write(head)

    def _write(self, data: bytes) -> None:
        write_all(self._target, data)
        self._summary.stored += len(data)
