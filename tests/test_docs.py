"""README and docs do what they say: their Python runs, their commands take the options shown, their links lead on.

Blocks marked `python` run in the order of the page, in one namespace; fragments, and what needs a network, are `py`.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from fastslow.cli import main
from fastslow.cli.registry import COMMANDS
from fastslow.data.alphabet import Alphabet
from fastslow.lm import parameter_count
from fastslow.training.presets import PRESETS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from docstrings import rewritten  # noqa: E402

README = ROOT / "README.md"
PAGES = {path.stem: path.read_text() for path in [README, *sorted((ROOT / "docs").glob("*.md"))]}
WITH_PYTHON = [name for name, text in PAGES.items() if "```python\n" in text]
SHELL = [
    (name, line.split("#")[0].strip())
    for name, text in PAGES.items()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines()
]
CALLS = sorted({(name, part.strip()) for name, line in SHELL for part in line.split("&&") if "fastslow " in part[:12]})
TARGETS = sorted({line.split()[1] for _, line in SHELL if line.startswith("make ")})


def test_there_is_something_to_check() -> None:
    assert {"README", "quickstart", "layer", "from-nn-lstm", "language-models"} <= set(WITH_PYTHON)
    assert len(CALLS) > 20
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL):
        exec(compile(code, f"{name}.md", "exec"), space)


@pytest.mark.parametrize(("page", "call"), CALLS, ids=lambda value: value)
def test_commands_are_understood(page: str, call: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(call)[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert name in COMMANDS
    assert main([*name.split(), "--help"]) == 0
    help_page = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option.split("=")[0] in help_page, f"{page}: {name} has no {option}"


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(PAGES["README"].splitlines()) <= 120


def test_the_table_of_presets_is_true() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*?\| ([\d,]+) \|", PAGES["language-models"], re.MULTILINE))
    symbols = {"ptb": 50, "enwik8": 205, "stdlib": 256}
    shown = {name: preset for name, preset in PRESETS.items() if not name.startswith("study-")}
    assert set(rows) == set(shown)
    for name, preset in shown.items():
        alphabet = Alphabet(bytes(range(symbols[preset.corpus])))
        assert rows[name] == f"{parameter_count(preset.model.with_alphabet(alphabet)):,}", name


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)):
        if not link.startswith("http"):
            assert (folder / link).exists(), link


def test_docstrings_become_markup() -> None:
    docstring = """Sum of `values` * 2, for F_ and so on.

    y = a * b

Args:
    first, second: what is
        added.

- an item
  that goes on
"""
    assert rewritten(docstring.splitlines()) == [
        "Sum of ``values`` \\* 2, for F\\_ and so on.",
        "",
        ".. code-block:: text",
        "",
        "    y = a * b",
        "",
        ".. rubric:: Arguments",
        "",
        "- ``first``, ``second``: what is added.",
        "",
        "- an item that goes on",
        "",
    ]
