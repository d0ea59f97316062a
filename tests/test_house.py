"""The floors of the house: a file imports only from floors below its own, and nothing heavy at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastslow

ROOT = Path(fastslow.__file__).parent
FLOORS = [
    {"lazy", "errors", "printable", "wiring", "state", "noise"},
    {"cells"},
    {"backends"},
    {"layers"},
    {"metrics", "data", "mixing"},
    {"lm"},
    {"evaluation"},
    {"training", "sampling", "scoring", "codec", "dynamics"},
    {"bench", "results", "models"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(module: str) -> str:
    return module.split(".")[1]


def name_of(path: Path) -> str:
    return ".".join(("fastslow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = part(name_of(path))
    assert own in FLOOR_OF, f"{own} is on no floor: give it one here and in docs/architecture.md"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            if not module.startswith("fastslow.") or part(module) == own:
                continue
            assert FLOOR_OF[part(module)] < FLOOR_OF[own], (
                f"{path.name} (floor of {own}) imports {module}, not below it"
            )


def test_importing_the_package_does_no_work() -> None:
    code = "import sys, fastslow; fastslow.__version__; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names() -> None:
    for name in fastslow.__all__:
        assert getattr(fastslow, name) is not None
    assert set(fastslow.__all__) <= set(dir(fastslow))
    with pytest.raises(AttributeError, match="no attribute 'Quick'"):
        _ = fastslow.Quick
