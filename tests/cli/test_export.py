"""`fastslow export`: what it prints, and the errors that need no export."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastslow.cli import main


@pytest.mark.slow
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    from tests.lm.models import small_lm

    small_lm().save_pretrained(tmp_path / "lm")
    assert main(["export", str(tmp_path / "lm"), "--onnx", str(tmp_path / "lm.onnx")]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'lm.onnx'}" in printed
    assert "checked with ONNX Runtime: outputs differ" in printed


def test_a_file_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lm.onnx").write_text("mine")
    assert main(["export", "english", "--onnx", str(tmp_path / "lm.onnx")]) == 2
    assert "exists: name another file, or overwrite it with --force" in capsys.readouterr().err
    assert (tmp_path / "lm.onnx").read_text() == "mine"


def test_the_file_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "english"]) == 2
    assert "--onnx" in capsys.readouterr().err
