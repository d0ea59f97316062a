"""docs/guarantees.md cannot rot: what it names exists, and every promise has a test. And one promise kept here."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import fastslow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`(?: \((slow|GPU)\))?", PAGE)))
PROMISES = re.findall(r"^\| promise .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
ROWS = [row for table in PROMISES for row in table.splitlines()]
SOURCES = sorted(Path(fastslow.__file__).parent.rglob("*.py"))


@cache
def functions(file: str) -> dict[str, str]:
    """The functions of a file, and whether each is "slow", of a "GPU", or "" for neither."""
    tree = ast.parse((ROOT / file).read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    whole = [ast.unparse(node.value) for node in assigned if ast.unparse(node.targets[0]) == "pytestmark"]
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            of_its_own = [mark for mark in map(ast.unparse, node.decorator_list) if "parametrize" not in mark]
            marks = " ".join([*whole, *of_its_own])  # some cases of a test may be slow where the test is not
            found[node.name] = "GPU" if "pytest.mark.gpu" in marks else "slow" if "pytest.mark.slow" in marks else ""
    return found


def test_there_is_something_to_check() -> None:
    assert len(NAMED) > 50
    assert len(ROWS) > 25
    assert "`tests/" not in re.sub(r"`tests/[\w/]+\.py::\w+`", "", PAGE), "a test is named as `path::function`"


@pytest.mark.parametrize(("file", "name", "kind"), NAMED, ids=lambda value: str(value).removeprefix("tests/"))
def test_tests_exist(file: str, name: str, kind: str) -> None:
    assert (ROOT / file).is_file()
    assert name.startswith("test_")
    assert name in functions(file), f"{file} has no {name}: bring docs/guarantees.md up to date"
    assert functions(file)[name] == kind, "the page says (slow) or (GPU) where a test is"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_promise_has_a_test_and_a_figure(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 3
    assert all(cells)
    assert "::test_" in cells[1]


def test_every_section_says_what_was_run_and_when() -> None:
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        assert re.search(r"Last run: .*`[^`]+`.*\b20\d\d-\d\d-\d\d\b", section), section.splitlines()[0]


def test_commands_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)", PAGE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`(?:python )?((?:runs|src|docs|benchmarks)/[\w/.-]+)", PAGE) + re.findall(
        r"\]\(([^)#]+)\)", PAGE
    ):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path


# ---------------------------------------------------------------------- files are data, not code

DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "runpy"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_source_unpickles_or_evaluates(path: Path) -> None:
    """Nothing that is read from a file is run: no pickle in any disguise, no eval, no exec."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & DANGEROUS
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in DANGEROUS
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "torch.load", "torch.save", "torch.jit.load", "torch.package"}, name
            if name in {"np.load", "numpy.load"}:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("allow_pickle") == "False", f"{path.name}:{node.lineno}"
