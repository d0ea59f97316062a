"""Models on the Hugging Face Hub: download the files of a model, upload a folder with a model card.

The package `huggingface-hub` is imported at first use. It reads `HF_ENDPOINT`, `HF_TOKEN` and `HF_HOME`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastslow.errors import FastslowError

CARD_FILE = "README.md"
LIBRARY = "fastslow"


class HubError(FastslowError):
    """A download from or an upload to the Hub failed, or the package `huggingface-hub` is not installed."""


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form `owner/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def fetch(name: str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Download these files of the model `owner/name` to the Hub's local cache; returns the folder. Raises HubError."""
    hub = _library(f"fetch the model {name}")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(files), revision=revision, library_name=LIBRARY))
    except (OSError, ValueError) as error:  # all errors of that package derive from these two
        raise HubError(f"the Hugging Face Hub has no model with this name: {_reason(error)}") from error


@dataclass(frozen=True)
class Card:
    """The content of a model card.

    title, text: the heading, and the Markdown below it.
    license: a license identifier of the Hub, such as "apache-2.0" or "mit"; None states none.
    tags: keywords for the Hub's search.
    bpc: bits per character by the name of the text they were measured on.
    language: an ISO 639-1 code, such as "en"; None states none.
    """

    title: str
    text: str
    license: str | None = None
    tags: tuple[str, ...] = ()
    bpc: Mapping[str, float] | None = None
    language: str | None = None

    def markdown(self, name: str) -> str:
        """The card of the model `owner/name`: front matter for the Hub, then the text."""
        hub = _library("write a model card")
        results = [
            hub.EvalResult(
                task_type="text-generation",
                task_name="character-level language modelling",
                dataset_type=re.sub(r"\W+", "-", text.lower()).strip("-") or "text",
                dataset_name=text,
                metric_type="bpc",
                metric_name="bits per character",
                metric_value=value,
            )
            for text, value in (self.bpc or {}).items()
        ]
        data = hub.ModelCardData(
            language=self.language,
            license=self.license,
            library_name=LIBRARY,
            tags=list(self.tags),
            metrics=["bpc"] if results else None,
            model_name=name.split("/")[-1] if results else None,
            eval_results=results or None,
        )
        return f"---\n{data.to_yaml()}\n---\n\n# {self.title}\n\n{self.text.strip()}\n"


class Uploadable:
    """`push_to_hub` for classes with `save_pretrained`."""

    def save_pretrained(self, folder: Path) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define save_pretrained(folder): the folder to upload")

    def card_text(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The card's text for this model as `owner/name`, in Markdown, and its tags."""
        raise NotImplementedError(f"{type(self).__name__} must define card_text(name): the text of its card")

    def push_to_hub(
        self,
        name: str,
        *,
        license: str | None = None,
        tags: tuple[str, ...] = (),
        bpc: Mapping[str, float] | None = None,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload model with fastslow",
    ) -> str:
        """Upload it, with a model card, to `owner/name` on the Hugging Face Hub; returns its address.

        Args:
            name: `owner/name`; the repository is created if necessary.
            license: for the card, an identifier of the Hub such as "apache-2.0"; None states none.
            tags: additional tags for the card.
            bpc: for the card, bits per character by the name of the text they were measured on.
            private: whether a new repository is private; None leaves it to the account.
            revision: the branch to upload to.
            message: the commit message.

        Raises HubError if `huggingface-hub` is not installed or the Hub rejects the upload.
        """
        text, own = self.card_text(name)
        card = Card(name.split("/")[-1], text, license, (*own, *tags), bpc)
        return push(name, self.save_pretrained, card, private=private, revision=revision, message=message)


def push(
    name: str,
    save: Callable[[Path], None],
    card: Card,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload model with fastslow",
) -> str:
    """Upload what `save(folder)` writes, and the card, to the model `owner/name`, and return its address.

    The repository is created if it does not exist. A card that `save` wrote is kept. Raises HubError.
    """
    hub = _library(f"upload the model {name}")
    api = hub.HfApi(library_name=LIBRARY)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder)
        if not (folder / CARD_FILE).exists():
            (folder / CARD_FILE).write_text(card.markdown(name), encoding="utf-8")
        try:
            address = str(api.create_repo(name, private=private, exist_ok=True))
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
        except (OSError, ValueError) as error:
            raise HubError(f"the Hugging Face Hub rejected the model {name}: {_reason(error)}") from error
    return address


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError(f"to {purpose}, install huggingface-hub: pip install 'fastslow[hub]'") from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
