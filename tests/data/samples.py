"""Small corpora with the shape of the real ones, for the tests of reading and fetching."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import zipfile

from fastslow.data.corpora import PTB, Corpus, CorpusFile, Protocol, Source


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    return random.Random(seed).randbytes(size)


def corpus_file(name: str, data: bytes, *aliases: str) -> CorpusFile:
    return CorpusFile(name, len(data), hashlib.sha256(data).hexdigest(), aliases)


SINGLE = noise(1_000_000, seed=1)
SINGLE_CORPUS = Corpus(
    name="single",
    title="one file in a zip archive, cut by sizes, as enwik8 is",
    files=(corpus_file("single", SINGLE, "single.txt"),),
    sources=(Source(("http://first.invalid/single.zip",)), Source(("http://second.invalid/other/single.zip",))),
    licence="none",
    alphabet_size=256,
    protocols=(Protocol("raw", "as it is"),),
    split=(900_000, 50_000, 50_000),
)

TRIPLE = {
    "triple.train.txt": b" the first line \n and a second \n" * 3000,
    "triple.valid.txt": b" to validate \n" * 50,
    "triple.test.txt": b" to test \n on this \n" * 40,
}
TRIPLE_CORPUS = Corpus(
    name="triple",
    title="three files, as PTB has",
    files=tuple(corpus_file(n, d, n.removeprefix("triple.")) for n, d in TRIPLE.items()),
    sources=(
        Source(tuple(f"http://plain.invalid/{name}" for name in TRIPLE)),
        Source(("http://archive.invalid/examples.tgz",)),
    ),
    licence="none",
    alphabet_size=18,
    protocols=PTB.protocols,
)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
