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
    {"cells", "compiling", "storage", "hub", "templates"},
    {"backends"},
    {"layers"},
    {"metrics", "data", "mixing"},
    {"lm"},
    {"evaluation"},
    {"training", "sampling", "scoring", "codec", "dynamics"},
    {"bench"},
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


def imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, in functions and for type checkers too."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            place = ROOT.joinpath(*name.split(".")[1:])
            if name.startswith("fastslow.") and place.with_suffix(".py") in FILES:
                found.add(place.with_suffix(".py"))
    return found


def test_no_two_files_import_each_other_by_any_way() -> None:
    imports = {path: imported(path) for path in FILES}
    done: set[Path] = set()

    def visit(path: Path, way: list[Path]) -> None:
        assert path not in way, "a circle: " + " -> ".join(str(p.relative_to(ROOT)) for p in [*way, path])
        if path in done:
            return
        for other in sorted(imports[path]):
            visit(other, [*way, path])
        done.add(path)

    for path in FILES:
        visit(path, [])


def circles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of two or more names that reach each other."""

    def reached(name: str) -> set[str]:
        found: set[str] = set()
        left = [name]
        while left:
            new = imports.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    reach = {name: reached(name) for name in imports}
    sets = {frozenset({name, *(o for o in reach[name] if name in reach.get(o, ()))}) for name in imports}
    return {names for names in sets if len(names) > 1}


def room(path: Path, package: Path) -> str:
    """The folder directly in `package` that a file is in, or the file itself."""
    return str((package / path.relative_to(package).parts[0]).relative_to(ROOT))


def test_no_two_folders_of_a_package_import_each_other_by_any_way() -> None:
    found = set()
    for package in {path.parent for path in FILES if path.parent != ROOT}:
        inside = [path for path in FILES if package in path.parents and path != package / "__init__.py"]
        imports: dict[str, set[str]] = {room(path, package): set() for path in inside}
        for path in inside:
            own = room(path, package)
            others = (o for o in imported(path) if o in inside)
            imports[own] |= {room(other, package) for other in others} - {own}
        found |= circles(imports)
    # Of files alone the test above tells.
    with_folders = (names for names in found if not all(name.endswith(".py") for name in names))
    circular = [sorted(names) for names in with_folders]
    assert not circular, f"circles: {circular}"


def test_circles_of_folders_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c.py"}, "c.py": {"a"}, "d": {"a"}}) == {frozenset({"a", "b", "c.py"})}
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == set()


def test_importing_the_package_does_no_work() -> None:
    code = "import sys, fastslow; fastslow.__version__; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names() -> None:
    for name in fastslow.__all__:
        assert getattr(fastslow, name) is not None
    assert set(fastslow.__all__) <= set(dir(fastslow))
    with pytest.raises(AttributeError, match="no attribute 'Quick'"):
        _ = fastslow.Quick
