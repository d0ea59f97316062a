"""`experiments/gpu.py`: budgets, stages that hang, and a training that goes on from what a call has left."""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastslow.training import read_metrics, read_record

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
LINES = b"".join(b" the %d times %d is %d \n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(150))
SETTINGS = {"batch": 2, "window": 4, "epochs": 50, "max_updates": 12, "max_time": None, "anneal_by_time": False}
SETTINGS |= {"test_streams": 8, "checkpoint_every": 2, "validate_every": 0, "log_every": 2, "schedule": "constant"}


@pytest.fixture
def script() -> Any:
    from experiments import gpu

    return gpu


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A text of one line in ten, one part of it compressed."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.txt.xz").write_bytes(lzma.compress(LINES[:600]))
    (folder / "valid.txt").write_bytes(LINES[:200])
    (folder / "test.txt").write_bytes(LINES[:150])
    return folder


def arguments(tmp_path: Path, data: Path, *more: str, **settings: Any) -> list[str]:
    given = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--data", str(data), "--stages", "train"]
    given += ["--preset", "demo", "--device", "cpu", *more]
    for name, value in (SETTINGS | settings).items():
        given += ["--set", f"{name}={json.dumps(value)}"]
    return given


def train(script: Any, *given: str) -> int:
    """The stage in this process."""
    code: int = script.main([*given, "--only", "train"])
    return code


def left(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_training_goes_on_where_the_disk_is_lost(
    script: Any, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import carried
    from fastslow.training.loop import Loop
    from fastslow.training.watch import Watch

    # The clock says that the time is up once an update of the call is done.
    done: list[int] = []
    update, seconds = Loop._update, Watch.seconds.fget
    assert seconds is not None

    def counted(loop: Any) -> None:
        update(loop)
        done.append(loop.learner.position.update)

    monkeypatch.setattr(Loop, "_update", counted)
    monkeypatch.setattr(Watch, "seconds", property(lambda watch: seconds(watch) + 1e6 * len(done)))
    updates = []
    for call in range(4):
        here = tmp_path / f"call-{call}"
        more = ["--carried", str(tmp_path / "carried")] if call else []
        assert train(script, *arguments(here, data, *more, max_time=1e5)) == 0
        updates.append(carried.packed_update(here / "out"))
        assert script.check_out(here / "out") == []
        (tmp_path / "carried").mkdir(exist_ok=True)
        for name, content in left(here / "out").items():
            (tmp_path / "carried" / name).write_bytes(content)
        done.clear()
    assert updates == [1, 2, 3, 4]
    record = read_record(tmp_path / "call-3" / "work" / "demo")
    assert [session["update"] for session in record.sessions] == [0, 1, 2, 3]
    lines = read_metrics(tmp_path / "call-3" / "work" / "demo")
    assert [line["update"] for line in lines if line["kind"] == "train"] == [2, 4]
    # The work of this machine is further than what is carried: it goes on.
    for name, content in left(tmp_path / "call-1" / "out").items():
        (tmp_path / "carried" / name).write_bytes(content)
    more = ["--carried", str(tmp_path / "carried")]
    assert train(script, *arguments(tmp_path / "call-3", data, *more, max_time=1e5)) == 0
    assert carried.packed_update(tmp_path / "call-3" / "out") == 5
    monkeypatch.setattr(Watch, "seconds", property(seconds))
    monkeypatch.setattr(Loop, "_update", update)
    assert train(script, *arguments(tmp_path / "call-3", data)) == 0
    assert json.loads((tmp_path / "call-3" / "out" / "carried.json").read_text())["complete"]
    assert carried.unpack(tmp_path / "call-3" / "out", tmp_path / "run").complete
    assert json.loads((tmp_path / "run" / "result.json").read_text())["updates"] == 12
    # Nothing is left to do for a further call.
    more = ["--carried", str(tmp_path / "call-3" / "out")]
    assert train(script, *arguments(tmp_path / "call-4", data, *more)) == 0


def test_the_recipe_for_a_gpu(script: Any, tmp_path: Path, data: Path) -> None:
    from fastslow.data.streams import Streams
    from fastslow.training import DataSource, find_preset

    text = script.texts(data, tmp_path)
    assert Path(text["train"]).read_bytes() == LINES[:600]
    source = DataSource(texts=(text["train"],), alphabet="text")
    given = argparse.Namespace(set=["batch=2", "window=4", "epochs=7"])
    config = script.recipe(given, find_preset("ptb-fs-lstm-2").train, source, 77.0)
    windows = len(Streams.training(source.open().train.data, 2, 4))
    assert config.validate_every == 5 * windows > 5
    assert (config.precision, config.max_time, config.epochs) == ("bf16", 77.0, 7)
    assert 0 < config.checkpoint_seconds <= 120
    kept = script.recipe(argparse.Namespace(set=["validate_every=3"]), config, source, 1.0)
    assert kept.validate_every == 3


def test_damaged_files_are_an_error_in_a_line(
    script: Any, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "carried"
    folder.mkdir()
    (folder / "carried.json").write_text('{"update": 3, "complete": false, "parts": [{"bytes": 1, "sha256": "00"}]}')
    assert train(script, *arguments(tmp_path, data, "--carried", str(folder))) == 2
    assert "error: " in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------------------------------------------- stages


def stages(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasts: dict[str, float], limit: float) -> Any:
    """Run all three on a clock that only the stages move; (status, seconds each was given)."""
    clock, given = [0.0], {}

    def takes(stage: str, seconds: float) -> int:
        given[stage] = seconds
        clock[0] += min(lasts[stage], seconds)
        return 0 if lasts[stage] <= seconds else 124

    def run_for(command: list[str], seconds: float, environment: Any, output: Any = None) -> int:
        assert float(command[-1].removeprefix("--limit=")) == round(seconds)
        return takes(command[command.index("--only") + 1], seconds)

    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script, "run_for", run_for)
    monkeypatch.setattr(script, "run_tests", lambda log, seconds: takes("tests", seconds))
    folder = tmp_path / "text"
    folder.mkdir(exist_ok=True)
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_text("x")
    asked = ["--out", str(tmp_path / "out"), "--data", str(folder), "--stages", "tests,bench,train"]
    code = script.main([*asked, "--work", str(tmp_path / "work"), "--limit", str(limit)])
    assert clock[0] <= limit
    return code, given


def test_every_stage_has_its_share(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.main.__defaults__ == (None,)
    code, given = stages(script, tmp_path, monkeypatch, {"tests": 1e9, "bench": 1e9, "train": 1e9}, 570)
    assert code == 1
    assert given["tests"] == pytest.approx(570 * script.SHARE - script.GRACE)
    assert given["train"] > 60
    code, given = stages(script, tmp_path, monkeypatch, {"tests": 10, "bench": 20, "train": 30}, 570)
    assert code == 0
    assert given["train"] == 570 - 30 - script.GRACE  # what others leave is the last one's


def test_a_stage_without_time_is_left_out(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, given = stages(script, tmp_path, monkeypatch, {"tests": 1e9, "bench": 1e9, "train": 1e9}, 40)
    assert code == 1
    assert list(given) == ["tests", "train"]
    assert "[bench] skipped" in capsys.readouterr().out


@pytest.mark.parametrize("deaf", [False, True])
def test_a_stage_that_hangs_is_ended(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    monkeypatch.setattr(script, "GRACE", 1.0 if deaf else 30.0)  # the deaf one takes all of it
    handler = "signal.SIG_IGN" if deaf else "lambda *_: (print('told', flush=True), sys.exit(0))"
    program = f"import signal, sys, time; signal.signal(signal.SIGINT, {handler}); print('up', flush=True);"
    log = tmp_path / "log"
    began = time.monotonic()
    with log.open("w") as file:
        code = script.run_for([sys.executable, "-c", program + "time.sleep(300)"], 5.0, os.environ, file)
    assert code == 124
    assert time.monotonic() - began < 60
    assert log.read_text() == ("up\n" if deaf else "up\ntold\n")
    assert script.run_for([sys.executable, "-c", "import sys; sys.exit(3)"], 60.0, os.environ) == 3


def test_failures_are_told_when_they_happen(tmp_path: Path) -> None:
    """A process that dies in the middle leaves the traceback of what failed before."""
    file = tmp_path / "test_dies.py"
    file.write_text("import os\n\ndef test_a():\n    one = 1\n    assert one == 2\n\ndef test_b():\n    os._exit(7)\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu.at_once", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "assert 1 == 2" in done.stdout
    assert "test_a: call" in done.stdout


def test_the_tests_of_a_gpu_are_all_found(script: Any) -> None:
    found = [str(path.relative_to(ROOT / "tests")) for path in script.gpu_tests(ROOT / "tests")]
    assert {"gpu/test_graphs.py", "gpu/test_triton_twins.py", "codec/exact/test_engine.py"} <= set(found)


def test_the_tests_stage_tells_what_it_ran(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run_for(command: list[str], seconds: float, environment: Any, output: Any) -> int:
        asked.append(command)
        output.write("1 passed\n")
        return 0

    monkeypatch.setattr(script, "run_for", run_for)
    assert script.run_tests(tmp_path / "tests.log", 100.0) == 0
    assert {"-v", "--tb=short", "tests.gpu.at_once"} <= set(asked[0])
    assert any(argument.startswith("--maxfail=") for argument in asked[0])
    assert (tmp_path / "tests.log").read_text() == "1 passed\n"


def test_what_would_not_come_back_is_told(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.check_out(tmp_path) == []
    monkeypatch.setattr(script, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(script, "ALL_BYTES", 3 << 20)
    for n in range(8):
        (tmp_path / f"file.{n}").write_bytes(b"x" * (1 << 18))
    assert script.check_out(tmp_path) == []
    (tmp_path / "file.8").write_bytes(b"x" * (2 << 20))
    assert [line.split()[0] for line in script.check_out(tmp_path)] == ["file.8", "9", "4.0"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--stages", "tests,fly"], "unknown stages fly"),
        (["--stages", "train"], "--data DIR"),
        (["--carried", "/no/such/folder"], "there is no folder"),
    ],
)
def test_mistakes(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as exit_status:
        script.main(["--out", str(tmp_path / "out"), *given])
    assert exit_status.value.code == 2
    assert told in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- a bare machine


def test_the_benchmark_is_the_packages(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastslow.bench import run

    called: dict[str, Any] = {}
    row = {"engine": "triton", "precision": "bf16", "shape": "one"}

    def measured(**named: Any) -> dict[str, Any]:
        called.update(named)
        return {"gpu": {"updates": [row, row | {"shape": "two", "refused": "no time"}]}}

    monkeypatch.setattr(run, "run_bench", measured)
    asked = ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "bench"]
    assert script.main([*asked, "--limit", "321"]) == 0
    assert called == {"device": "cuda", "json": tmp_path / "bench.json", "limit": 321.0}
    row["refused"] = "failed: CUDA error"
    assert script.main(asked) == 1


def test_it_needs_few_packages(tmp_path: Path, data: Path) -> None:
    """None of those that the project depends on but torch, triton, numpy, safetensors and rich."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {name.replace("-", "_").lower() for name in (_package(line) for line in asked)}
    barred = sorted(names - {"torch", "triton", "numpy", "safetensors", "rich", "fastslow"})
    assert "tyro" in barred
    program = f"""
import importlib.machinery, sys
class Bar:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0].lower() in {barred!r}:
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ModuleNotFoundError('barred: ' + spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Bar())
sys.path.insert(0, {str(EXPERIMENTS)!r})
import gpu
sys.argv[1:] = {arguments(tmp_path, data, "--only", "train", max_updates=2)!r}
code = gpu.main()
import fastslow.bench.run, fastslow.bench.updates
assert {str(ROOT / "src")!r} in sys.path
sys.exit(code)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '"status": "completed"' in done.stdout


def _package(line: str) -> str:
    for n, character in enumerate(line):
        if not (character.isalnum() or character in "-_."):
            return line[:n]
    return line
