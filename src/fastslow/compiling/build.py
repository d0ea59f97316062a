"""Compiling C++ at first use, once per machine: each `Unit` becomes one library.

Libraries are stored in `$FASTSLOW_CACHE`, or `~/.cache/fastslow`, under a name that hashes the sources, the compiler,
its flags and the processor, so different versions, compilers or machines that share the folder use separate builds. A
new library is moved into place by a rename, with a checksum file beside it, so that no interrupted build or damaged
file is loaded; a lock prevents processes that start together from building it twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno")
NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""Tried in this order: some compilers do not support the first on every processor."""
TIMEOUT_SECONDS = 300

T = TypeVar("T")

log = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """The library is not available; the message gives the reason."""


SHARED = Path(__file__).parent / "csrc"
"""Headers shared by all units: on the include path, and part of the hash in a library's name."""


class Unit(NamedTuple):
    """The sources of one library: one .cpp among `sources()`, the headers beside it, and the compiler flags.

    Its `fs_self_test()` must return 1 if its instructions run on this machine.
    """

    name: str
    what: str
    sources: Callable[[], list[Path]]
    flags: tuple[str, ...] = FLAGS


def cache_dir() -> Path:
    """The folder of compiled libraries."""
    named = os.environ.get("FASTSLOW_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "fastslow"


def compiler() -> str:
    """The path of the C++ compiler: `$CXX`, else the first of `COMPILERS` on the path. BuildError if there is none."""
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(
        f"$CXX names {named!r}, which is not an executable on the PATH"
        if named
        else f"no C++ compiler on the PATH ({', '.join(COMPILERS)}); install one, or set $CXX"
    )


def _processor() -> str:
    """The properties of the processor that -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted))) + platform.machine()


def library_path(program: str, unit: Unit) -> Path:
    """The path of the library for these sources, this compiler and this processor."""
    stat = os.stat(program)
    made = [os.path.realpath(program), str(stat.st_size), str(stat.st_mtime_ns), repr((unit.flags, NATIVE_FLAGS))]
    digest = hashlib.sha256("\0".join([*made, _processor()]).encode())
    for path in (*unit.sources(), *sorted(SHARED.iterdir())):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache_dir() / f"{unit.name}-{digest.hexdigest()[:24]}.so"


def ensure(unit: Unit, *, rebuild: bool = False) -> Path:
    """The path of the compiled library, which is built if necessary. BuildError if it cannot be built."""
    program = compiler()
    path = library_path(program, unit)
    if not rebuild and _intact(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if rebuild or not _intact(path):
                _build(program, path, unit)
    except OSError as error:
        reason = f"the cache folder {path.parent} is not writable ({error.strerror}); set $FASTSLOW_CACHE"
        raise BuildError(reason) from error
    return path


def load(unit: Unit, make: Callable[[ctypes.CDLL], T]) -> T | str:
    """`make(library)` for the loaded library, rebuilt once if that fails; or the reason why it is not available."""
    try:
        try:
            return make(ctypes.CDLL(str(ensure(unit))))
        except (OSError, AttributeError, BuildError):
            return make(ctypes.CDLL(str(ensure(unit, rebuild=True))))
    except (OSError, AttributeError, BuildError) as error:
        return str(error)


def _intact(path: Path) -> bool:
    """Whether the file is a complete, undamaged build."""
    try:
        return _hash_file(path).read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return False


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other processes that use this cache, if the system has file locks."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(program: str, path: Path, unit: Unit) -> None:
    log.info("compiling %s with %s, once; cached in %s", unit.what, program, path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        source = next(path for path in unit.sources() if path.suffix == ".cpp")
        complaint = ""
        for native in NATIVE_FLAGS:
            result = _run([program, *unit.flags, f"-I{SHARED}", *native, str(source), "-o", str(made), "-pthread"])
            if result.returncode == 0:
                check = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).fs_self_test() != 1)"
                if _run([sys.executable, "-c", check, str(made)]).returncode == 0:
                    break
                complaint = complaint or f"the library built with {' '.join(native) or 'no options'} does not run here"
            complaint = complaint or _first_error(result.stderr)
        else:
            raise BuildError(f"{program} failed: {complaint}")
        _hash_file(path).unlink(missing_ok=True)
        hash_file = Path(folder) / "hash"
        hash_file.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        os.replace(made, path)
        os.replace(hash_file, _hash_file(path))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {TIMEOUT_SECONDS} seconds") from error


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no output"]
    return lines[0].strip()
