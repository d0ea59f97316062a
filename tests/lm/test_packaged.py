from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastslow
from fastslow.lm import CharLM, ModelError, packaged
from tests.lm.boxed import boxed_lm, empty_the_box, put_in_the_box
from tests.lm.models import small_lm


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    put_in_the_box(monkeypatch, tmp_path / "box")
    return tmp_path / "box"


def test_a_name_finds_it(box: Path) -> None:
    assert packaged.packaged_models() == {"english": box / "english"}
    assert packaged.packaged("english") == packaged.packaged(Path("english")) == box / "english"
    assert packaged.default_model() == box / "english"
    lm = CharLM.from_pretrained("english")
    assert lm.config == boxed_lm().config
    assert lm.head.weight.dtype == torch.float32
    assert torch.allclose(lm.head.weight, boxed_lm().head.weight, atol=1e-4)


def test_a_clone_has_further_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "src" / "fastslow" / "models"
    put_in_the_box(monkeypatch, inside)
    assert packaged.clone_folder() is None
    (tmp_path / "pyproject.toml").touch()
    for name in ("ptb-large", "english"):
        boxed_lm().save_pretrained(tmp_path / "weights" / name)
    assert packaged.packaged_models() == {
        "english": inside / "english",
        "ptb-large": tmp_path / "weights" / "ptb-large",
    }
    assert packaged.is_packaged(tmp_path / "weights" / "ptb-large")
    assert packaged.shown_name(tmp_path / "weights" / "ptb-large") == "ptb-large"
    assert CharLM.from_pretrained("ptb-large").config == boxed_lm().config


def test_only_a_folder_with_a_model_comes_first(box: Path, elsewhere: Path) -> None:
    mine = small_lm(9)
    (elsewhere / "english").mkdir()  # of texts, say
    assert packaged.packaged("english") == box / "english"
    mine.save_pretrained(elsewhere / "english")
    assert packaged.packaged("english") is None
    assert torch.equal(CharLM.from_pretrained("english").head.weight, mine.head.weight)
    (elsewhere / "english" / "config.json").unlink()
    for path in ("./english", str(elsewhere / "english")):
        with pytest.raises(ModelError, match=r"english holds no model: it has no config\.json"):
            CharLM.from_pretrained(path)


def test_a_file_of_that_name_is_no_model(box: Path, elsewhere: Path) -> None:
    (elsewhere / "english").write_text("a text")
    assert CharLM.from_pretrained("english").config == boxed_lm().config


def test_names_that_are_none(box: Path) -> None:
    for name in ("", ".", "..", "englis", "english/", "../english", "english/english"):
        assert packaged.packaged(name) is None
    with pytest.raises(ModelError, match=r"there is no model englis: .*, or a bundled model: english$"):
        CharLM.from_pretrained("englis")


def test_a_half_removed_model_is_none(box: Path) -> None:
    (box / "english" / "config.json").unlink()
    assert packaged.packaged_models() == {}
    assert packaged.default_model() is None


def test_a_package_without_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_the_box(monkeypatch, tmp_path)
    assert packaged.packaged_models() == {}
    assert packaged.default_model() is packaged.packaged("english") is None
    with pytest.raises(ModelError, match=r"there is no model english: name a run's folder, such as runs/demo$"):
        CharLM.from_pretrained("english")


def test_shown_names(box: Path) -> None:
    assert packaged.shown_name(box / "english") == "english"
    assert packaged.shown_name("english") == "english"
    assert packaged.shown_name("runs/english") == "runs/english"


def test_the_folder_is_the_packages() -> None:
    assert packaged.models_folder() == Path(fastslow.__file__).parent / "models"
