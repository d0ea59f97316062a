"""`fastslow data list` and `fastslow data fetch`: the public corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from fastslow.cli.common import Flag, print_json
from fastslow.data import corpora
from fastslow.data.corpora import PARTS, find_corpus, list_corpora
from fastslow.data.fetch import fetch as get

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the user's cache)")]


def list_data(*, data_dir: _Folder = None, json: Flag = False) -> None:
    """List the public corpora and which of them are in the data folder.

    Args:
        data_dir: the data folder (also set by the environment variable FASTSLOW_DATA)
        json: print the list as JSON
    """
    found = list_corpora(data_dir)
    if json:
        print_json([status.to_json() for status in found])
        return
    for status in found:
        corpus = status.corpus
        parts = ", ".join(f"{part} {size:,}" for part, size in zip(PARTS, corpus.split_sizes, strict=True))
        here = f"in {status.folder}" if status.present else f"not downloaded: `fastslow data fetch {corpus.name}`"
        print(f"{corpus.name:<7} {corpus.title}")
        print(f"        {corpus.size:,} bytes ({parts}), {corpus.alphabet_size} symbols; {here}")
        if len(corpus.protocols) > 1:
            for protocol in corpus.protocols:
                print(f"        protocol {protocol.name}: {protocol.description}")


def fetch(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=", ".join(corpora.CORPORA))],
    *,
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FILE", help_behavior_hint="")] = None,
    data_dir: _Folder = None,
) -> None:
    """Download a corpus, or copy it from a file, to the data folder and verify its SHA-256.

    Args:
        name: the corpus
        from_: copy it from this archive, file or folder instead of downloading it
        data_dir: the data folder (also set by the environment variable FASTSLOW_DATA)
    """
    from fastslow.cli.progress import CountingView

    corpus = find_corpus(name)
    with CountingView(f"fetch {name}", "bytes") as view:
        folder = get(corpus, data_dir, from_file=from_, progress=lambda file, done, total: view(done, total))
    sizes = ", ".join(f"{part} {size:,}" for part, size in zip(PARTS, corpus.split_sizes, strict=True))
    print(f"{corpus.name} is in {folder}: {sizes} bytes")
    print(f"({corpus.licence})")
