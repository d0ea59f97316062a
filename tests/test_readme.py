"""The README does what it says: its Python runs, its commands exist and take the options it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fastslow.cli.registry import COMMANDS
from fastslow.data.alphabet import Alphabet
from fastslow.lm import parameter_count
from fastslow.training.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
SHELL = [line.split("#")[0].strip() for block in BLOCKS for line in block.split("\n")]
CALLS = [line for line in SHELL if line.startswith("fastslow ")]
TARGETS = [line.split()[1] for line in SHELL if line.startswith("make ")]


def test_there_is_something_to_check() -> None:
    assert len(SNIPPETS) >= 2
    assert len(CALLS) >= 5
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_snippets_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("call", CALLS)
def test_commands_are_understood(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(call)[1:]
    names = set(COMMANDS)
    name = " ".join(words[:2]) if " ".join(words[:2]) in names else words[0]
    assert name in names
    from fastslow.cli import main

    assert main([*name.split(), "--help"]) == 0
    page = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option.split("=")[0] in page, f"{name} has no {option}"


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_table_of_presets_is_true() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*?\| ([\d,]+) \|", README, re.MULTILINE))
    symbols = {"ptb": 50, "enwik8": 205, "stdlib": 256}
    shown = {name: preset for name, preset in PRESETS.items() if not name.startswith("study-")}
    assert set(rows) == set(shown)
    for name, preset in shown.items():
        alphabet = Alphabet(bytes(range(symbols[preset.corpus])))
        assert rows[name] == f"{parameter_count(preset.model.with_alphabet(alphabet)):,}", name


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
