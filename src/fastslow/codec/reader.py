"""Read archives as streams, block by block, of both versions, also several concatenated archives.

Everything is verified: heads by their CRC before memory is allocated for them, each block's text and the whole text by
their SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, TypeAlias

from fastslow.codec import container, plain, transforms, version1
from fastslow.codec.container import Kind
from fastslow.codec.errors import FormatError, ModelError
from fastslow.codec.models import CodecModel, ModelLike, as_model, model_from_serial
from fastslow.codec.wanted import Wanted
from fastslow.codec.whole import read_up_to, write_all

if TYPE_CHECKING:
    import torch

    from fastslow.codec.predictor import ExactPredictor

_OLD_KINDS = {version1.RAW: Kind.RAW, version1.LZMA: Kind.LZMA, version1.NEURAL: Kind.NEURAL}

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with the bytes of text done so far, and the bytes of archive written or read."""


@dataclass
class Summary:
    """Totals: bytes of text, bytes of archive, and the bytes of text stored as each kind."""

    plain: int = 0
    stored: int = 0
    blocks: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: {kind.name.lower(): 0 for kind in Kind})

    @property
    def bits_per_byte(self) -> float:
        return 8 * self.stored / self.plain if self.plain else 0.0


@dataclass(frozen=True)
class Entry:
    """A block in its archive. position: of its payload; wanted: the model it needs; header: of version 1."""

    number: int
    kind: Kind
    plain: int
    stored: int
    position: int
    block: container.Block | version1.Block
    wanted: Wanted | None = None
    header: version1.Header | None = None


class ArchiveReader:
    """Reads a file object with one archive, or several concatenated ones.

    Raises FormatError if it is not a complete archive, ModelError if the model is missing or a different one.
    `find_model` is called if a model is needed, none was given and none is embedded; the default searches the bundled
    models.
    """

    def __init__(
        self,
        source: IO[bytes],
        model: ModelLike | None = None,
        *,
        find_model: Callable[[Wanted], ModelLike | None] | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._source, self._given, self._find = source, model, find_model
        self._device, self._progress = device, progress
        self._position = 0
        self._embedded: dict[bytes, CodecModel] = {}
        self._network: tuple[Wanted, ExactPredictor] | None = None
        self._digest = hashlib.sha256()
        self.embedded_size = 0
        self.version = 0
        self.summary = Summary()
        self._front(first=True)

    def _read(self, size: int, where: str = "") -> bytes:
        """Exactly `size` bytes, read in pieces, so that a false length allocates no memory."""
        data = read_up_to(self._source, size)
        self._position += len(data)
        if len(data) < size:
            raise FormatError(f"{where}the archive is truncated")
        return data

    def _front(self, *, first: bool) -> bool:
        """Read the beginning of an archive; False if the source ends before it."""
        front = read_up_to(self._source, len(container.FRONT))
        self._position += len(front)
        if not front and not first:
            return False
        if front[:4] != container.MAGIC:
            if not first:
                raise FormatError(
                    "the archive is followed by other data: remove it; only archives may follow an archive"
                )
            raise FormatError("not a fastslow archive: it does not begin with the format's magic bytes")
        if len(front) < len(container.FRONT):
            raise FormatError("the archive is truncated")
        self._old: version1.Header | None = None
        self.version = front[4]
        if front == version1.MAGIC[: len(front)]:
            self.version = 1
            if self._read(len(version1.MAGIC) - len(front)) != version1.MAGIC[len(front) :]:
                raise FormatError("the archive's header is damaged: line ends or high bits were changed in transfer")
            self._old = version1.read_header(self._read)
            if self._old.embedded_size:
                self._embed(self._old.model_size, self._old.embedded_size, self._old.model_id)
        elif self.version == 0x0A:
            raise FormatError("the archive's header is damaged: line ends or high bits were changed in transfer")
        elif self.version != container.VERSION:
            raise FormatError(
                f"the archive has format version {self.version}; this fastslow reads 1 and 2: upgrade fastslow"
            )
        return True

    def _embed(self, size: int, stored: int, model_id: bytes) -> None:
        payload = self._read(stored)
        try:
            serial = plain.unpack(payload, size)
        except FormatError:
            raise FormatError("the embedded model is damaged: its lzma stream cannot be read") from None
        if hashlib.sha256(serial).digest()[: len(model_id)] != model_id:
            raise FormatError("the embedded model is damaged: its hash is not the one in the header")
        self._embedded[model_id] = model_from_serial(serial)
        self.embedded_size += stored

    # ------------------------------------------------------------------ in order

    def blocks(self) -> Iterator[bytes]:
        """The text block by block; each block is verified before it is returned. At the end of each archive the
        whole text is verified, and that only archives follow."""
        for entry in self.entries(skip=False):
            payload = self._read(entry.stored, f"block {entry.number}: ")
            data = self.decode(entry, payload)
            self._digest.update(data)
            summary = self.summary
            summary.plain, summary.blocks = summary.plain + len(data), summary.blocks + 1
            summary.stored = self._position
            summary.kinds[entry.kind.name.lower()] += len(data)
            yield data
            if self._progress is not None:
                self._progress(summary.plain, self._position)
        self.summary.stored = self._position

    def entries(self, *, skip: bool = True) -> Iterator[Entry]:
        """The heads of all blocks. skip: seek over the payloads, without verifying the texts."""
        while True:
            yield from self._new_entries(skip) if self._old is None else self._old_entries(self._old, skip)
            if not self._front(first=False):
                return
            self._digest = hashlib.sha256()

    def _jump(self, size: int) -> None:
        """Seek over a payload and read its last byte, which must exist."""
        self._source.seek(size - 1, io.SEEK_CUR) if size else None
        self._position += max(0, size - 1)
        if size:
            self._read(1)

    def _new_entries(self, skip: bool) -> Iterator[Entry]:
        seed, number, total = zlib.crc32(container.FRONT), 0, 0
        while True:
            where = f"block {number}"

            def read(size: int, where: str = where) -> bytes:
                return self._read(size, f"{where}: ")

            tag = read(1)[0]
            if tag == container.END_TAG:
                break
            if tag == container.MODEL_TAG:
                head, seed = container.read_model(self._read, seed)
                self._embed(head.plain, head.stored, head.model_id)
                continue
            block, seed = container.read_block(tag, read, seed, where)
            wanted = Wanted(block.model_id, block.weight_bits) if block.kind == Kind.NEURAL else None
            yield Entry(number, block.kind, block.plain, block.stored, self._position, block, wanted)
            if skip:
                self._jump(block.stored)
            number, total = number + 1, total + block.plain
        end = container.read_end(self._read)
        if end.total != total:
            raise FormatError("the archive's end is damaged: its length differs from that of the blocks")
        if not skip and end.digest != self._digest.digest()[: container.CHECK_SIZE]:
            raise FormatError("the archive is damaged: the SHA-256 of the whole text does not match")

    def _old_entries(self, header: version1.Header, skip: bool) -> Iterator[Entry]:
        blocks: list[version1.Block] = []
        while True:
            number = len(blocks)
            tag = self._read(1, f"block {number}: ")[0]
            if tag == version1.END_TAG:
                break
            if tag != version1.BLOCK_TAG:
                raise FormatError(f"block {number} is damaged: it does not begin as a block")
            block = version1.read_block(self._read, number, header)
            wanted = None
            if block.kind == version1.NEURAL:
                wanted = Wanted(header.model_id, header.weight_bits, header.model_name)
            kind = _OLD_KINDS[block.kind]
            yield Entry(number, kind, block.plain, block.stored, self._position, block, wanted, header)
            if skip:
                self._jump(block.stored)
            blocks.append(block)
        version1.check_trailer(self._read, header, blocks, None if skip else self._digest.digest())

    # ------------------------------------------------------------------ a block

    def decode(self, entry: Entry, payload: bytes) -> bytes:
        """The verified text of a block."""
        where, block = f"block {entry.number} is damaged", entry.block
        if isinstance(block, version1.Block):
            assert entry.header is not None
            if not version1.payload_is_whole(block, payload, entry.header):
                raise FormatError(f"{where}: the checksum of its payload does not match")
        try:
            if entry.kind == Kind.RAW:
                data = payload
            elif entry.kind == Kind.LZMA:
                data = plain.unpack(payload, entry.plain)
            else:
                data = self._coded(entry, payload)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
        if isinstance(block, version1.Block):
            right = version1.text_is_right(block, data)
        else:
            right = container.check_of(payload, data) == block.check
        if not right:
            raise FormatError(f"{where}: the checksum of its text does not match")
        return data

    def _coded(self, entry: Entry, payload: bytes) -> bytes:
        block, network = entry.block, None
        if entry.wanted is not None:
            network = self._predictor(entry.wanted)
        if isinstance(block, version1.Block):
            assert network is not None
            assert entry.header is not None
            if len(network.symbols) != entry.header.alphabet:
                raise FormatError("its alphabet differs from the model's")
            return version1.decode_neural(payload, block, network)
        from fastslow.codec.mixed import decode_block

        text = decode_block(payload[block.note :], block.text, network, block.lanes, self._stepped(block))
        return transforms.restore(block.transforms, text, payload[: block.note], block.plain)

    def _stepped(self, block: container.Block) -> Callable[[int], None] | None:
        if self._progress is None:
            return None
        report, done, position = self._progress, self.summary.plain, self._position

        def stepped(count: int) -> None:
            nonlocal done
            done += count
            report(min(done, self.summary.plain + block.plain), position)

        return stepped

    # ------------------------------------------------------------------ the model

    def _predictor(self, wanted: Wanted) -> ExactPredictor:
        """The model's predictor, created on first use."""
        if self._network is None or self._network[0] != wanted:
            from fastslow.codec.predictor import ExactPredictor

            exact = self._model(wanted).exact(wanted.weight_bits)
            self._network = wanted, ExactPredictor(exact, "cpu" if self._device is None else self._device)
        return self._network[1]

    def _model(self, wanted: Wanted) -> CodecModel:
        from fastslow.codec.search import packaged_model

        if wanted.model_id in self._embedded:
            return self._embedded[wanted.model_id]
        given = self._given
        if given is None:
            given = packaged_model(wanted, self._device) if self._find is None else self._find(wanted)
        if given is None:
            raise ModelError(f"the archive needs model {wanted}: pass its folder")
        model = as_model(given, self._device)
        if not wanted.fits(model):
            got = model.id(wanted.weight_bits).hex()[:16]
            raise ModelError(f"the archive needs model {wanted}; {model.name or 'the one given'} has hash {got}")
        return model


def decompress_stream(
    source: IO[bytes],
    target: IO[bytes],
    model: ModelLike | None = None,
    *,
    find_model: Callable[[Wanted], ModelLike | None] | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the text of an archive, or of several concatenated ones, each block after verification. Raises as
    `ArchiveReader`."""
    reader = ArchiveReader(source, model, find_model=find_model, device=device, progress=progress)
    for data in reader.blocks():
        write_all(target, data)
    return reader.summary
