"""Runs that start from a trained model's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastslow.data.alphabet import AlphabetError
from fastslow.data.text import Text, split_fractions
from fastslow.lm import CharLM
from fastslow.lm.config import ConfigError
from fastslow.lm.files import CONFIG_FILE, WEIGHTS_FILE
from fastslow.storage import ModelError
from fastslow.training import read_metrics, read_record, train
from fastslow.training.checkpoint import read_checkpoint
from fastslow.training.events import Event, Saved
from tests.training.runs import MODEL, RECIPE, SPLITS, TEXT, Killed

FURTHER = split_fractions(Text.of(TEXT[::-1], "reversed"), 0.8, 0.1, 0.1)
OTHER = replace(MODEL, dropout=0.3, zoneout_c=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(MODEL, RECIPE, SPLITS, out, device="cpu", backend="reference", alphabet="text")
    return out


@pytest.mark.parametrize("average", [0.0, 0.5], ids=["weights", "average"])
def test_the_first_update_starts_from_its_weights(tmp_path: Path, trained: Path, average: float) -> None:
    recipe = replace(RECIPE, max_updates=10, rate=0.0, average=average, average_from=0.0)
    out = tmp_path / "run"
    train(OTHER, recipe, FURTHER, out, device="cpu", backend="reference", init_from=trained)
    before, after = CharLM.from_pretrained(trained), CharLM.from_pretrained(out)
    assert after.alphabet == before.alphabet
    assert after.config.options == OTHER
    for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, msg=name)
    assert read_record(out).init_from == str(trained)
    assert read_record(trained).init_from is None
    assert "init_from" not in read_record(trained).to_json()


def test_it_learns_on_from_there(tmp_path: Path, trained: Path) -> None:
    """From the trained weights the same text costs less from the first update on."""

    def first(out: Path) -> float:
        return next(line["bpc"] for line in read_metrics(out) if line["kind"] == "train")

    out = tmp_path / "run"
    train(MODEL, replace(RECIPE, seed=2), SPLITS, out, device="cpu", backend="reference", init_from=trained)
    assert first(out) < first(trained) - 0.3


def test_a_run_that_is_killed_and_resumed_is_the_same(tmp_path: Path, trained: Path) -> None:
    def run(out: Path, kill: int | None = None, resume: bool = False) -> None:
        def progress(event: Event) -> None:
            if kill is not None and isinstance(event, Saved) and event.update >= kill:
                raise Killed

        train(
            OTHER, RECIPE, FURTHER, out,
            device="cpu", backend="reference", resume=resume, init_from=None if resume else trained, progress=progress,
        )  # fmt: skip

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill=7)
    run(tmp_path / "killed", resume=True)
    assert (tmp_path / "whole" / WEIGHTS_FILE).read_bytes() == (tmp_path / "killed" / WEIGHTS_FILE).read_bytes()


def test_a_run_killed_before_its_configuration_starts_from_the_weights_all_the_same(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("fastslow.training.prepare.write_initial", killed)
        with pytest.raises(Killed):
            train(OTHER, RECIPE, FURTHER, out, device="cpu", backend="reference", init_from=trained)
    assert not (out / CONFIG_FILE).exists()
    recipe = replace(RECIPE, max_updates=10, rate=0.0)
    train(OTHER, recipe, FURTHER, out, device="cpu", backend="reference", resume=True)
    for old, new in zip(
        CharLM.from_pretrained(trained).parameters(), CharLM.from_pretrained(out).parameters(), strict=True
    ):
        assert torch.equal(old, new)


def test_a_larger_network_starts_as_the_smaller_one(tmp_path: Path, trained: Path) -> None:
    wider = replace(MODEL, hidden_size=16)
    train(
        wider, replace(RECIPE, max_updates=10, rate=0.0), FURTHER, tmp_path / "run", device="cpu", backend="reference",
        init_from=trained,
    )  # fmt: skip
    before, after = CharLM.from_pretrained(trained), CharLM.from_pretrained(tmp_path / "run")
    assert after.config.options == wider
    tokens = torch.randint(len(before.alphabet), (9, 2), generator=torch.Generator().manual_seed(0))
    with before.evaluating(), after.evaluating():
        torch.testing.assert_close(after(tokens)[0], before(tokens)[0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_started_from(tmp_path: Path, trained: Path) -> None:
    def run(model: object = MODEL, splits: object = SPLITS, **options: object) -> None:
        chosen = {"init_from": trained, **options}
        train(model, RECIPE, splits, tmp_path / "run", device="cpu", backend="reference", **chosen)  # type: ignore[arg-type]

    with pytest.raises(
        ConfigError, match="has hidden_size 8, not 9: a run that starts from it must use the same network, or a"
    ):
        run(replace(MODEL, hidden_size=9))
    with pytest.raises(AlphabetError, match="offset"):
        run(splits=split_fractions(Text.of(b"\x00" + TEXT, "zeros"), 0.8, 0.1, 0.1))
    with pytest.raises(ConfigError, match="uses its alphabet"):
        run(alphabet="bytes")
    with pytest.raises(ModelError, match="there is no model"):
        run(init_from="nowhere")
    assert not (tmp_path / "run").exists()
    run()
    with pytest.raises(ConfigError, match=r"was started from .*, not from english"):
        run(resume=True, init_from="english")
    stored = read_checkpoint(tmp_path / "run", CharLM.from_pretrained(tmp_path / "run"), RECIPE.batch)
    assert stored is not None
    assert stored.position.update > 0
