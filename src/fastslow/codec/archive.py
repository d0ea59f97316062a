"""Whole archives, as streams: compress what one file object gives into another, and back. Memory: a block or two.

    header [embedded model] block* trailer

Each block is stored as the shortest of three: coded by the model, lzma, or raw. `docs/format.md` is the specification.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from fastslow.codec import blocks as neural
from fastslow.codec import container, plain
from fastslow.codec.container import BlockHeader, Entry, Header, Kind, Mode, Trailer
from fastslow.codec.errors import CodecError, FormatError, ModelError, NumericsError
from fastslow.codec.models import CodecModel, ModelLike, as_model, model_from_serial

if TYPE_CHECKING:
    import torch

    from fastslow.codec.learning import Learning, Online

DEFAULT_BLOCK = 1 << 22
_PIECE = 1 << 20
_MIN_NEURAL = 8
"""Blocks shorter than this are not worth a model's start."""

Progress = Callable[[int, int], None]
"""Told the bytes of text done so far, and the bytes of archive written or read."""


@dataclass(frozen=True)
class Options:
    """How to compress.

    mode: EXACT (default), FLOAT, ADAPT or ONLINE.
    lanes: texts read side by side; None: by size, one for 4 KiB up to 256 (a learning model: for 16 KiB, up to 32).
    block_size: bytes of text a block; blocks are independent, but for what a learning model has learned.
    embed_model: put the model into the archive.
    weight_bits: of the model in integers, 8 to 16.
    learning: how a model learns in the modes ADAPT and ONLINE; online: its network in the latter.
    """

    mode: Mode = Mode.EXACT
    lanes: int | None = None
    block_size: int = DEFAULT_BLOCK
    embed_model: bool = False
    weight_bits: int = 16
    learning: Learning | None = None
    online: Online | None = None

    def __post_init__(self) -> None:
        if self.lanes is not None and not 1 <= self.lanes <= container.MAX_LANES:
            raise CodecError(f"lanes must be from 1 to {container.MAX_LANES:,}; got {self.lanes:,}")
        if not 1 <= self.block_size <= container.MAX_BLOCK:
            raise CodecError(f"the block size must be from 1 to {container.MAX_BLOCK:,} bytes; got {self.block_size:,}")
        if self.embed_model and self.mode == Mode.ONLINE:
            raise CodecError("online mode has no model to embed")
        if self.weight_bits != 16 and self.mode != Mode.EXACT:
            raise CodecError("weight_bits belongs to exact mode")

    def lanes_of(self, length: int) -> int:
        """For a block, or in a float mode for the whole archive, whose first block has `length` bytes."""
        if self.lanes is not None:
            return self.lanes
        if self.mode in (Mode.ADAPT, Mode.ONLINE):
            return max(1, min(32, length // (1 << 14)))
        return neural.lanes_for(length)


@dataclass
class Summary:
    """What became of a text: its bytes, those of the archive, and the bytes of text stored as each kind."""

    plain: int = 0
    stored: int = 0
    blocks: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def bits_per_byte(self) -> float:
        return 8 * self.stored / self.plain if self.plain else 0.0


# ---------------------------------------------------------------------- compressing


def compress_stream(
    source: IO[bytes],
    target: IO[bytes],
    model: ModelLike | None,
    options: Options | None = None,
    *,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the archive of everything `source` gives. Raises FastslowError for a model that cannot be used."""
    writer = _Writer(target, model, options or Options(), device, progress)
    data = _read_up_to(source, writer.options.block_size)
    writer.open(len(data))
    while data:
        following = _read_up_to(source, writer.options.block_size)
        writer.block(data)
        data = following
    return writer.close()


class _Writer:
    def __init__(
        self,
        target: IO[bytes],
        model: ModelLike | None,
        options: Options,
        device: torch.device | str | None,
        progress: Progress | None,
    ) -> None:
        if options.mode == Mode.ONLINE:
            if model is not None:
                raise ModelError("online mode starts from nothing: it takes no model (--adapt starts from one)")
            self.model: CodecModel | None = None
        else:
            if model is None:
                raise ModelError("a model is needed: name a run's folder, or use online mode")
            self.model = as_model(model, device)
        self.options, self.device, self.progress = options, device, progress
        self.target, self.summary = target, Summary(kinds={kind.name.lower(): 0 for kind in Kind})
        self.entries: list[Entry] = []
        self.digest = hashlib.sha256()

    def open(self, first_length: int) -> None:
        """Decide what the header says and write it; a float mode's numbers are probed here."""
        from fastslow.codec.predictors import make_predictor, probe_of, threads_for

        options, mode = self.options, self.options.mode
        settings: dict[str, Any] = {}
        embedded, embedded_size, model_id = b"", 0, bytes(32)
        if self.model is not None:
            if self.model.name:
                settings["model"] = self.model.name
            if options.weight_bits != 16:
                settings["weight_bits"] = options.weight_bits
            model_id = self.model.id(mode, options.weight_bits)
            if options.embed_model:
                serial = self.model.serial(mode, options.weight_bits)
                embedded, embedded_size = plain.pack(serial), len(serial)
        lanes, probe = 0, bytes(8)
        if mode != Mode.EXACT:
            lanes = options.lanes_of(first_length)
            settings |= self._float_settings()
        self.predictor = make_predictor(mode, settings, self.model, self.device)
        self.weights = 0
        if mode == Mode.EXACT and self.model is not None:
            self.weights = self.model.exact(options.weight_bits).parameters
        if mode != Mode.EXACT:
            with threads_for(mode, settings, lanes, 0):
                probe = probe_of(self.predictor, mode, settings, lanes)
        self.header = Header(
            mode,
            options.block_size,
            lanes,
            len(self.predictor.symbols),
            model_id,
            probe,
            settings,
            embedded_size,
            len(embedded),
        ).sealed()
        self._write(self.header.to_bytes())
        self._write(embedded)

    def _float_settings(self) -> dict[str, Any]:
        import torch

        from fastslow.codec.floating import Environment
        from fastslow.codec.learning import ONLINE_LEARNING, Learning, Online

        device = torch.device("cpu" if self.device is None else self.device)
        backend = "auto" if self.model is None else self.model.lm.layer.backend
        settings: dict[str, Any] = {"environment": list(Environment.here(device, backend))}
        if self.options.mode == Mode.ADAPT:
            settings["learning"] = (self.options.learning or Learning()).to_json()
        elif self.options.mode == Mode.ONLINE:
            settings["learning"] = (self.options.learning or ONLINE_LEARNING).to_json()
            settings["online"] = (self.options.online or Online()).to_json()
        return settings

    def block(self, data: bytes) -> None:
        kind, payload, lanes, escape = Kind.RAW, data, 0, 0
        packed = plain.pack(data)
        if len(packed) < len(payload):
            kind, payload = Kind.LZMA, packed
        coded, neural_lanes, neural_escape = self._neural(data, len(payload))
        if coded is not None:
            kind, payload, lanes, escape = Kind.NEURAL, coded, neural_lanes, neural_escape
        header = BlockHeader(
            len(self.entries),
            kind,
            lanes,
            escape,
            len(data),
            len(payload),
            zlib.crc32(payload, self.header.crc),
            hashlib.sha256(data).digest()[:8],
        )
        self._write(header.to_bytes(self.header.crc))
        self._write(payload)
        self.entries.append(Entry(len(payload), len(data)))
        self.digest.update(data)
        self.summary.plain += len(data)
        self.summary.blocks += 1
        self.summary.kinds[kind.name.lower()] += len(data)
        if self.progress is not None:
            self.progress(self.summary.plain, self.summary.stored)

    def _neural(self, data: bytes, limit: int) -> tuple[bytes | None, int, int]:
        if len(data) < _MIN_NEURAL:
            return None, 0, 0
        from fastslow.codec.predictors import threads_for

        predictor, mode = self.predictor, self.options.mode
        lanes = self.header.lanes or min(len(data), self.options.lanes_of(len(data)))
        escape = neural.escape_for(neural.unknown_bytes(data, predictor.symbols), len(data))
        with threads_for(mode, self.header.settings, lanes, self.weights):
            coded = neural.encode_block(data, predictor, lanes, escape, limit, self._stepped())
        predictor.settle(coded is not None)
        return coded, lanes, escape

    def _stepped(self) -> neural.Progress | None:
        if self.progress is None:
            return None
        report, done, stored = self.progress, self.summary.plain, self.summary.stored

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            report(done, stored)

        return stepped

    def close(self) -> Summary:
        trailer = Trailer(self.summary.plain, self.digest.digest(), tuple(self.entries))
        self._write(trailer.to_bytes(self.header.crc))
        return self.summary

    def _write(self, data: bytes) -> None:
        self.target.write(data)
        self.summary.stored += len(data)


def _read_up_to(source: IO[bytes], size: int) -> bytes:
    """`size` bytes, or as many as there are; a pipe gives them in pieces."""
    parts, left = [], size
    while left:
        piece = source.read(min(left, _PIECE))
        if not piece:
            break
        parts.append(piece)
        left -= len(piece)
    return b"".join(parts)


# ---------------------------------------------------------------------- decompressing


class ArchiveReader:
    """An archive, a block at a time. The header is read and checked at once, the model only when a block needs it.

    Raises FormatError for anything that is no whole archive, ModelError for a missing or different model,
    NumericsError where a float archive cannot be read here. `find_model` is asked when a model is needed, none was
    given and none is in the archive; without it the models in the box are looked at.
    """

    def __init__(
        self,
        source: IO[bytes],
        model: ModelLike | None = None,
        *,
        find_model: Callable[[Header], ModelLike | None] | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._source, self._given, self._find = source, model, find_model
        self._device, self._progress = device, progress
        self._position = 0
        self.header = container.read_header(self._read)
        self._predictor: neural.Predictor | None = None
        self._embedded = self._read_embedded() if self.header.embedded_size else None
        self._weights = 0
        self.blocks_at = self._position
        self.summary = Summary(kinds={kind.name.lower(): 0 for kind in Kind})

    def _read(self, size: int, where: str = "") -> bytes:
        """Exactly `size` bytes, in pieces: a length that the source does not have allocates nothing."""
        data = _read_up_to(self._source, size)
        self._position += len(data)
        if len(data) < size:
            raise FormatError(f"{where}the archive is cut short")
        return data

    def _read_embedded(self) -> bytes:
        header = self.header
        stored = self._read(header.embedded_size)
        try:
            serial = plain.unpack(stored, header.model_size)
        except FormatError:
            raise FormatError("the embedded model is damaged: its lzma stream cannot be read") from None
        if hashlib.sha256(serial).digest() != header.model_id:
            raise FormatError("the embedded model is damaged: its hash is not the one in the header")
        return serial

    # ------------------------------------------------------------------ in order

    def blocks(self) -> Iterator[bytes]:
        """The text, a block at a time, from where the source stands after the header; each is checked before it is
        given. At the end the trailer is checked, and that nothing follows it."""
        digest, number, entries = hashlib.sha256(), 0, []
        while True:
            tag = self._read(1, f"block {number}: ")
            if tag[0] == container.END_TAG:
                break
            if tag[0] != container.BLOCK_TAG:
                raise FormatError(f"block {number} is damaged: it does not begin as a block")
            block, payload = self._payload(number)
            data = self.decode(block, payload)
            digest.update(data)
            entries.append(Entry(block.stored, block.plain))
            number += 1
            summary = self.summary
            summary.plain, summary.blocks = summary.plain + len(data), number
            summary.stored = self._position
            summary.kinds[block.kind.name.lower()] += len(data)
            yield data
            if self._progress is not None:
                self._progress(summary.plain, self._position)
        first = [tag]

        def after_tag(size: int) -> bytes:
            return first.pop() + self._read(size - 1) if first else self._read(size)

        trailer = container.read_trailer(after_tag, self.header, number)
        if list(trailer.entries) != entries:
            raise FormatError("the archive's trailer is damaged: its index is not that of the blocks")
        if trailer.digest != digest.digest():
            raise FormatError("the archive is damaged: the SHA-256 of the whole text does not match")
        if self._source.read(1):
            raise FormatError("the archive is followed by other bytes: cut them off, or join texts, not archives")
        self.summary.stored = self._position

    def _payload(self, number: int) -> tuple[BlockHeader, bytes]:
        where = f"block {number}: "
        block = container.read_block_header(self._read(container.BLOCK_SIZE - 1, where), number, self.header)
        payload = self._read(block.stored, where)
        if zlib.crc32(payload, self.header.crc) != block.payload_crc:
            raise FormatError(f"block {number} is damaged: the checksum of its payload does not match")
        return block, payload

    def read_block(self, number: int) -> bytes:
        """The block at which a seekable source stands, for readers that jump."""
        if self._read(1, f"block {number}: ")[0] != container.BLOCK_TAG:
            raise FormatError(f"block {number} is damaged: it does not begin as a block")
        return self.decode(*self._payload(number))

    # ------------------------------------------------------------------ a block

    def decode(self, block: BlockHeader, payload: bytes) -> bytes:
        """The text of a block, checked."""
        if block.kind == Kind.RAW:
            data = payload
        elif block.kind == Kind.LZMA:
            try:
                data = plain.unpack(payload, block.plain)
            except FormatError as error:
                raise FormatError(f"block {block.number} is damaged: {error}") from None
        else:
            data = self._neural(block, payload)
        if hashlib.sha256(data).digest()[:8] != block.check:
            raise self._wrong(block)
        return data

    def _neural(self, block: BlockHeader, payload: bytes) -> bytes:
        from fastslow.codec.predictors import threads_for

        predictor = self.predictor()
        with threads_for(self.header.mode, self.header.settings, block.lanes, self._weights):
            try:
                data = neural.decode_block(payload, block.plain, predictor, block.lanes, block.escape, self._stepped())
            except FormatError:
                raise self._wrong(block) from None
        predictor.settle(True)
        return data

    def _wrong(self, block: BlockHeader) -> CodecError:
        """Its payload is what was written, by its CRC, but does not give the text back."""
        if block.kind == Kind.NEURAL and self.header.mode != Mode.EXACT:
            return NumericsError(
                f"block {block.number} does not decode: this machine's float numbers differ from those of the "
                "archive's maker; decompress it where it was made"
            )
        return FormatError(f"block {block.number} is damaged: it decodes to other bytes than its checksum says")

    def _stepped(self) -> neural.Progress | None:
        if self._progress is None:
            return None
        report, done, position = self._progress, self.summary.plain, self._position

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            report(done, position)

        return stepped

    # ------------------------------------------------------------------ the model

    def predictor(self) -> neural.Predictor:
        """The model's predictor, made and probed at first use."""
        if self._predictor is None:
            from fastslow.codec.predictors import check_probe, make_predictor, threads_for, weight_bits

            header = self.header
            model = None if header.mode == Mode.ONLINE else self._model()
            if header.mode == Mode.EXACT and model is not None:
                self._weights = model.exact(weight_bits(header.settings)).parameters
            predictor = make_predictor(header.mode, header.settings, model, self._device)
            if len(predictor.symbols) != header.alphabet:
                raise FormatError("the archive's header is damaged: its alphabet is not the model's")
            if header.mode != Mode.EXACT:
                with threads_for(header.mode, header.settings, header.lanes, 0):
                    check_probe(predictor, header, self._device, "auto" if model is None else model.lm.layer.backend)
            self._predictor = predictor
        return self._predictor

    def _model(self) -> CodecModel:
        from fastslow.codec.predictors import recorded_backend, weight_bits
        from fastslow.codec.search import packaged_model

        header = self.header
        if self._embedded is not None:
            model = model_from_serial(self._embedded, header.mode, header.model_name)
            if header.mode != Mode.EXACT:
                model.lm.layer.backend = recorded_backend(header.settings)
            return model
        wanted = describe_model(header)
        given = self._given
        if given is None:
            given = packaged_model(header, self._device) if self._find is None else self._find(header)
        if given is None:
            raise ModelError(f"the archive needs model {wanted}: name its folder")
        model = as_model(given, self._device)
        got = model.id(header.mode, weight_bits(header.settings))
        if got != header.model_id:
            raise ModelError(
                f"the archive needs model {wanted}; {model.name or 'the one given'} has hash {got.hex()[:16]}"
            )
        return model


def describe_model(header: Header) -> str:
    """The model an archive names, for a message: its hash's head, and its maker's name for it."""
    name = "".join(c for c in header.model_name if c.isprintable())[:80]
    return header.model_id.hex()[:16] + (f" ({name})" if name else "")


def decompress_stream(
    source: IO[bytes],
    target: IO[bytes],
    model: ModelLike | None = None,
    *,
    find_model: Callable[[Header], ModelLike | None] | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the text of an archive, each block after it was checked. Raises as `ArchiveReader`."""
    reader = ArchiveReader(source, model, find_model=find_model, device=device, progress=progress)
    for data in reader.blocks():
        target.write(data)
    return reader.summary
