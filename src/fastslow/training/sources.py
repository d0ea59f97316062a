"""The source of a run's text, stored so that a resumed run can open it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fastslow.data import corpora
from fastslow.data.alphabet import Alphabet
from fastslow.data.corpora import load_corpus
from fastslow.data.stdlib import stdlib_splits
from fastslow.data.text import Splits, open_splits
from fastslow.errors import unknown_name
from fastslow.lm.config import ConfigError
from fastslow.storage import check_fields, is_finite_number

STDLIB = "stdlib"
AlphabetKind = Literal["bytes", "text"]
Documents = Literal["files", "lines"]


def corpus_names() -> tuple[str, ...]:
    """The valid corpus names of a `DataSource`: the public corpora, and "stdlib"."""
    return (*corpora.CORPORA, STDLIB)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Files, or a corpus.

    texts: training files, concatenated in this order.
    valid, test: files for validation and test; otherwise they are split from `texts` by `fractions`.
    corpus: instead of texts, one of `data.corpora.CORPORA` from the data folder, or "stdlib", the source of this
        Python's standard library. protocol: a protocol of the corpus (default: the paper's). data_dir: the data folder,
        if it is not the default one.
    alphabet: "bytes" for all 256 values, "text" for those of the training text.
    raw: use the bytes of files unchanged. Otherwise line ends, byte-order marks and UTF-16 are normalised
        (`data.encodings`); a corpus is never normalised.
    documents: "files" or "lines" if each of these is a separate document that starts from a zero state; None: the text
        is one document.

    Raises ConfigError unless there are texts or a corpus, not both.
    """

    texts: tuple[str, ...] = ()
    valid: str | None = None
    test: str | None = None
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    corpus: str | None = None
    protocol: str | None = None
    data_dir: str | None = None
    alphabet: AlphabetKind = "bytes"
    raw: bool = False
    documents: Documents | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(os.fspath(text) for text in self.texts))
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if self.alphabet not in get_args(AlphabetKind):
            raise ConfigError(f"alphabet must be bytes or text; got {str(self.alphabet)[:40]!r}")
        if self.documents not in (None, *get_args(Documents)):
            raise ConfigError(f"documents must be files or lines; got {str(self.documents)[:40]!r}")
        if len(self.fractions) != 3 or not all(is_finite_number(part) for part in self.fractions):
            raise ConfigError(f"fractions must be three numbers: train, valid, test; got {str(self.fractions)[:60]}")
        if self.corpus is None:
            if not self.texts:
                raise ConfigError("no text was given: pass at least one file, or a corpus")
            if self.protocol is not None:
                raise ConfigError("protocol can only be used with a corpus, not with files: omit it")
        else:
            if self.texts or self.valid is not None or self.test is not None:
                raise ConfigError(f"pass either files or the corpus {self.corpus}, not both")
            if self.corpus not in corpus_names():
                raise unknown_name("corpus", self.corpus, corpus_names())

    def open(self) -> Splits:
        """The parts of the text. Raises DataError or CorpusError if they cannot be read."""
        if self.corpus == STDLIB:
            return stdlib_splits()
        if self.corpus is not None:
            return load_corpus(self.corpus, self.protocol, self.data_dir).splits
        return open_splits(list(self.texts), self.valid, self.test, fractions=self.fractions, raw=self.raw)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with absolute paths, so that it is valid in any working directory."""
        value = asdict(self)
        if self.documents is None:
            del value["documents"]  # as in earlier versions
        value["texts"] = [os.path.abspath(text) for text in self.texts]
        value["fractions"] = list(self.fractions)
        for name in ("valid", "test", "data_dir"):
            if value[name] is not None:
                value[name] = os.path.abspath(value[name])
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "the data source") -> DataSource:
        """The inverse of `to_json`. Raises ConfigError for anything else."""
        # Runs of earlier versions used unchanged bytes, and the text as one document.
        value = {"raw": True, "documents": None, **value}
        check_fields(value, (field.name for field in fields(cls)), where, ConfigError)
        for name in ("texts", "fractions"):
            if not isinstance(value[name], list):
                raise ConfigError(f"{where} is damaged: {name} is not a list")
        for text in (*value["texts"], *(value[name] for name in ("valid", "test", "corpus", "protocol", "data_dir"))):
            if text is not None and (not isinstance(text, str) or len(text) > 4096):  # no system has longer paths
                raise ConfigError(f"{where} is damaged: {str(text)[:40]!r} is not a name")
        if None in value["texts"]:
            raise ConfigError(f"{where} is damaged: a text has no name")
        if not isinstance(value["raw"], bool):
            raise ConfigError(f"{where} is damaged: raw is not true or false")
        return cls(**value)


def make_alphabet(kind: str, splits: Splits) -> Alphabet:
    """The alphabet of this kind; all parts of the text are checked against it before training.

    Raises AlphabetError with the symbol and its offset.
    """
    alphabet = Alphabet.bytes() if kind == "bytes" else Alphabet.of(splits.train.data)
    for part in (splits.valid, splits.test):
        if part is not None:
            alphabet.check(part.data, name=part.name)
    return alphabet
