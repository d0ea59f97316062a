"""The demo's text: deterministic, capped, source only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastslow.data.stdlib import DEFAULT_CAP, stdlib_files, stdlib_splits, stdlib_text
from fastslow.errors import DataError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name, text in {
        "b.py": "b = 1\n",
        "a.py": "a = 2\n",
        "_sysconfigdata__linux.py": "built = 'here'\n",
        "sitecustomize.py": "local = True\n",
        "c.pyc": "compiled",
        "test/d.py": "d = 3\n",
        "site-packages/e.py": "e = 4\n",
        "Z.py": "z = 5\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "link.py").symlink_to(tmp_path / "test" / "d.py")
    return tmp_path


def test_modules_only_sorted(library: Path) -> None:
    assert [p.name for p in stdlib_files(library)] == ["Z.py", "a.py", "b.py"]
    assert bytes(stdlib_text(root=library).data) == b"z = 5\na = 2\nb = 1\n"


def test_order_does_not_depend_on_the_file_system(library: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("copy")
    for path in sorted(library.glob("*.py"), reverse=True):
        shutil.copy(path, again / path.name, follow_symlinks=False)
    assert stdlib_text(root=again).sha256 == stdlib_text(root=library).sha256


def test_capped(library: Path) -> None:
    assert bytes(stdlib_text(8, library).data) == b"z = 5\na "
    with pytest.raises(ValueError, match="cap"):
        stdlib_text(0, library)


def test_this_python() -> None:
    splits = stdlib_splits()
    assert splits.valid is not None
    assert splits.test is not None
    total = len(splits.train) + len(splits.valid) + len(splits.test)
    assert 2_000_000 < total <= DEFAULT_CAP
    assert len(splits.test) == pytest.approx(total / 20, abs=1)
    assert b"def " in bytes(splits.test.data)
    assert splits.describe() == stdlib_splits().describe()


def test_a_python_without_source_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no source of its standard library in .*fastslow train FILE"):
        stdlib_text(root=tmp_path)
