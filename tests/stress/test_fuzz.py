"""Some hundred cases of `tests/stress/fuzz`, which describes them; and that failures are detected."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastslow.training.checkpoint as checkpoint
from fastslow.storage import ModelError
from tests.stress.fuzz.campaign import print_report
from tests.stress.fuzz.cases import Case, make_case
from tests.stress.fuzz.openings import OPENINGS, open_case
from tests.stress.fuzz.originals import Original, make_originals
from tests.stress.fuzz.process import Fuzzer, memory


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    return make_originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.filterwarnings("ignore:.*lazy:DeprecationWarning")
def test_some_hundred_cases(originals: list[Original], tmp_path: Path) -> None:
    fuzzer = Fuzzer(originals, 1, tmp_path)
    failures = [failure for number in range(250) for failure in fuzzer.run(number)]
    assert not failures, "\n\n".join(failures)
    ends = fuzzer.report.ends
    for opening in OPENINGS:
        assert ends[opening, "loaded"] > 50
        assert ends[opening, "refused"] > 40
    assert len(fuzzer.report.kinds) > 15


def test_a_case_is_always_the_same(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(make_originals(tmp_path / name))
    for number in range(60):
        one, other = (make_case(runs, 3, number) for runs in made)
        assert one.changes == other.changes
        assert {name: data and len(data) for name, data in one.files.items()} == {
            name: data and len(data) for name, data in other.files.items()
        }
    assert [run.tensors for run in made[0]] == [run.tensors for run in made[1]]


def test_failures_are_seen(
    originals: list[Original], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzzer = Fuzzer(originals, 1, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "check_fields", lambda *_: 1 / 0)
        assert any("ZeroDivisionError" in failure for number in range(5) for failure in fuzzer.run(number))

    def two_lines(*_: object) -> None:
        error = ModelError("one")
        error.args = ("one\ntwo",)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "check_fields", two_lines)
        assert any("not one line" in failure for number in range(5) for failure in fuzzer.run(number))
    kept = []
    with monkeypatch.context() as patched:
        patched.setitem(OPENINGS, "records", lambda *_: kept.append(b"x" * (400 << 20)))
        if memory("VmHWM"):
            assert any("MiB more memory" in failure for failure in fuzzer.run(0))
    print_report(fuzzer.report, 1.0)
    assert " cases in 1 s" in capsys.readouterr().out


def test_files_that_no_damage_touched_are_compared(originals: list[Original], tmp_path: Path) -> None:
    case = Case(originals[0], dict(originals[0].files))
    weights = case.original.tensors["model.safetensors"]
    name = next(iter(weights))
    case.original.tensors["model.safetensors"] = {**weights, name: b"other"}
    try:
        ends = {opening: end for opening, end, _ in open_case(case, tmp_path / "run")}
    finally:
        case.original.tensors["model.safetensors"] = weights
    assert ends["model"] == "failed"
