"""Models go to the Hugging Face Hub and come back, by its own client, against a stand-in of its API on this machine.

The client reads `HF_ENDPOINT` when it is imported, so both cases run in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastslow import hub
from fastslow.lm.packaged import CARD_FILE, DEFAULT, models_folder
from tests.standin import StandIn, serving

pytest.importorskip("huggingface_hub")

LANGUAGE_MODEL = """
import torch
from fastslow import CharLM
from fastslow.data import Alphabet
from fastslow.lm import LMConfig, ModelError
from fastslow.hub import HubError

torch.manual_seed(1)
lm = CharLM(LMConfig(hidden_size=6, slow_size=4, embedding_size=3, alphabet=Alphabet(b"abc")))
print(lm.push_to_hub("me/tiny", license="apache-2.0", tags=("test",), bpc={"Penn Treebank (raw)": 1.25}, private=True))
back = CharLM.from_pretrained("me/tiny")
assert all(torch.equal(a, b) for a, b in zip(lm.state_dict().values(), back.state_dict().values(), strict=True))
for call in (lambda: CharLM.from_pretrained("me/nothing"), lambda: lm.push_to_hub("me/forbidden")):
    try:
        call()
    except (ModelError, HubError) as error:
        print(error)
"""

LAYER = """
import torch
from fastslow import FSLSTM, SequentialLSTM, StackedLSTM, WiredRNN
from fastslow.storage import ModelError

torch.manual_seed(1)
layer = FSLSTM(3, 6, slow_size=4, num_fast=3, zoneout_c=0.25, batch_first=True)
print(layer.push_to_hub("me/layer", license="mit"))
back = FSLSTM.from_pretrained("me/layer", revision="main")
assert back.extra_repr() == layer.extra_repr()
x = torch.randn(2, 5, 3)
assert torch.equal(back(x)[0], layer.eval()(x)[0])
assert type(WiredRNN.from_pretrained("me/layer")) is FSLSTM
try:
    StackedLSTM.from_pretrained("me/layer")
except ModelError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def told(standin: StandIn, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What both cases print: the client is loaded once."""
    return run(LANGUAGE_MODEL + LAYER, standin, tmp_path_factory.mktemp("hub"))


def run(code: str, standin: StandIn, folder: Path) -> list[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": standin.endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_a_language_model_there_and_back(standin: StandIn, told: list[str]) -> None:
    address, missing, forbidden = told[:3]
    assert address == f"{standin.endpoint}/me/tiny"
    assert missing.startswith("there is no folder me/nothing, and the Hugging Face Hub has no model with this name: ")
    assert forbidden.startswith("the Hugging Face Hub rejected the model me/forbidden: ")
    files = standin.repos["me/tiny"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert standin.private["me/tiny"]
    assert "Bearer hf_test" in standin.tokens
    header = json.loads(files["model.safetensors"][8 : 8 + int.from_bytes(files["model.safetensors"][:8], "little")])
    assert header["__metadata__"]["format"] == "pt"
    yaml = pytest.importorskip("yaml")
    _, front, text = files["README.md"].decode().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["license"] == "apache-2.0"
    assert card["library_name"] == "fastslow"
    assert {"character-level", "fs-lstm", "test"} <= set(card["tags"])
    assert card["metrics"] == ["bpc"]
    (result,) = card["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Penn Treebank (raw)", "type": "penn-treebank-raw"}
    assert result["metrics"][0]["value"] == 1.25
    assert 'CharLM.from_pretrained("me/tiny")' in text or "CharLM.from_pretrained('me/tiny')" in text


def test_the_bundled_models_card_has_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard((models_folder() / DEFAULT / CARD_FILE).read_text(encoding="utf-8"))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "fastslow"
    assert card.data.language == "en"
    assert card.data.metrics == ["bpc"]
    assert {"character-level", "fs-lstm"} <= set(card.data.tags)
    assert [(result.dataset_name, result.metric_value) for result in card.data.eval_results] == [
        ("Project Gutenberg, validation books, bytes", 1.656)
    ]
    assert card.text.lstrip().startswith(f"# {DEFAULT}\n")


def test_a_layer_there_and_back(standin: StandIn, told: list[str]) -> None:
    address, other_kind = told[3:]
    assert address == f"{standin.endpoint}/me/layer"
    assert other_kind.endswith("holds a FSLSTM, not a StackedLSTM: load it with FSLSTM.from_pretrained")
    card = standin.repos["me/layer"]["README.md"].decode()
    assert "license: mit" in card
    assert "model-index" not in card  # nothing was measured


def test_without_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(hub.HubError, match=r"install huggingface-hub: pip install 'fastslow\[hub\]'"):
        hub.fetch("owner/name", ["config.json"])
    with pytest.raises(hub.HubError, match="to upload the model owner/name, install"):
        hub.push("owner/name", lambda folder: None, hub.Card("name", ""))


def test_names() -> None:
    assert hub.is_hub_name("owner/some-model.v1")
    for name in ("name", "/etc/passwd", "a/b/c", "owner/", "../x y"):
        assert not hub.is_hub_name(name)
