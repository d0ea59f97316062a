"""What every example promises by its form: short, documented, and nothing imported that is not declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "examples.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"scikit-learn": "sklearn"}  # where the module is not named as its package


def declared() -> set[str]:
    """The modules that fastslow and its extra `examples` bring."""
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["examples"]
    names = [re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements]
    return {MODULES.get(name, name) for name in names} | {"fastslow"}


def imported(tree: ast.AST) -> set[str]:
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an example is one file"
            modules.append(node.module or "")
    return {module.split(".")[0] for module in modules}


def test_there_are_seven() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_stands_alone(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) < 150
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert f"python examples/{path.name}" in docstring, "the docstring shows the command"
    assert imported(tree) - set(sys.stdlib_module_names) <= declared()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_page_has_each_example(path: Path) -> None:
    assert f"examples/{path.name}" in PAGE
    assert f"python examples/{path.name}" in PAGE


def test_the_page_shows_pictures_that_exist() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((examples/[^)]+)\)", PAGE)
    assert pictures
    for picture in pictures:
        assert (ROOT / "docs" / picture).is_file(), picture
