"""Compiling at first use: kept, checked, built again when damaged, and refused in words."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.backends.native.library import Library, _load, library
from fastslow.compiling import build

try:
    build.compiler()
except build.BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

TEXT = """
#define PUBLIC extern "C" __attribute__((visibility("default")))
PUBLIC long long fs_self_test() { return 1; }
PUBLIC int answer() { return 42; }
"""


SOURCE = Path()
"""Where the unit's source lies, set by `small_source`."""
UNIT = build.Unit("small", "a small library", lambda: sorted(SOURCE.iterdir()))


@pytest.fixture(autouse=True)
def small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a source that compiles at once in place of the engine."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "engine.cpp").write_text(TEXT)
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", source)
    return source


def answer(path: Path) -> int:
    """In a process of its own: a library that is loaded stays loaded."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return int(result.stdout)


def test_it_is_built_once(tmp_path: Path) -> None:
    path = build.ensure(UNIT)
    assert path.parent == tmp_path / "cache"
    assert answer(path) == 42
    stamp = path.stat().st_mtime_ns
    assert build.ensure(UNIT) == path
    assert path.stat().st_mtime_ns == stamp
    assert {entry.suffix for entry in path.parent.iterdir()} == {".so", ".sha256", ".lock"}


def test_another_source_is_another_library(small_source: Path) -> None:
    first = build.ensure(UNIT)
    (small_source / "engine.cpp").write_text(TEXT.replace("42", "43"))
    second = build.ensure(UNIT)
    assert first != second
    assert (answer(first), answer(second)) == (42, 43)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no hash", "no library"])
def test_a_damaged_library_is_built_again(damage: str) -> None:
    path = build.ensure(UNIT)
    data = path.read_bytes()
    if damage == "no hash":
        path.with_suffix(".sha256").unlink()
    elif damage == "no library":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:1000], "changed": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[damage])
    assert build.ensure(UNIT) == path
    assert answer(path) == 42


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        build.BuildError, match=r"\$CXX names 'no-such-compiler', which is not an executable on the PATH"
    ):
        build.ensure(UNIT)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler on the PATH .* install one, or set \$CXX"):
        build.ensure(UNIT)


def test_a_failed_build_says_the_first_error(small_source: Path) -> None:
    (small_source / "engine.cpp").write_text("int main( {")
    with pytest.raises(build.BuildError, match=r"failed: .*error"):
        build.ensure(UNIT)
    assert not list(build.cache_dir().glob("*.so"))


def test_a_build_that_does_not_run_here_is_not_used(small_source: Path) -> None:
    (small_source / "engine.cpp").write_text(TEXT.replace("return 1", "__builtin_trap()"))
    with pytest.raises(build.BuildError, match="does not run here"):
        build.ensure(UNIT)
    assert not list(build.cache_dir().glob("*.so"))


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(build.BuildError, match=r"the cache folder .* is not writable .*; set \$FASTSLOW_CACHE"):
        build.ensure(UNIT)


def test_processes_that_start_together_build_once(small_source: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho built >> "{log}"\nexec {build.compiler()} "$@"\n')
    compiler.chmod(0o755)
    code = (
        "from pathlib import Path; from fastslow.compiling import build\n"
        f"unit = build.Unit('small', 'a small library', lambda: sorted(Path({str(small_source)!r}).iterdir()))\n"
        "print(build.ensure(unit))"
    )
    environment = {**os.environ, "CXX": str(compiler)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTSLOW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert build.cache_dir() == Path("/somewhere/fastslow")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_dir() == Path.home() / ".cache" / "fastslow"


def test_a_library_of_another_version_is_refused(small_source: Path) -> None:
    (small_source / "engine.cpp").write_text(
        TEXT + "PUBLIC long long fs_abi() { return 7; } PUBLIC long long fs_vector_bytes() { return 64; }"
    )
    with pytest.raises(build.BuildError, match="does not match this version of fastslow"):
        Library(ctypes.CDLL(str(build.ensure(UNIT))))


def test_why_there_is_no_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    _load.cache_clear()
    try:
        assert "no-such-compiler" in str(library())
    finally:
        _load.cache_clear()
