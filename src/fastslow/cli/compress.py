"""`fastslow compress` and `fastslow decompress`: the codec with the command-line conventions of gzip and zstd.

Exit status: 0 success; 1 an error with at least one file; 2 a warning (a file was skipped) or invalid arguments.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import tyro

from fastslow.cli.common import OptionError, find_device, model_for_files
from fastslow.codec.files import SUFFIX, Exists, open_source, remove, replacing
from fastslow.errors import FastslowError, os_reason
from fastslow.lm.packaged import packaged, packaged_models
from fastslow.storage import is_special

if TYPE_CHECKING:
    from fastslow.codec.models import CodecModel
    from fastslow.codec.reader import Summary
    from fastslow.codec.wanted import Wanted
    from fastslow.codec.writer import Options

OK, ERROR, WARNING = 0, 1, 2
STANDARD = "-"

_Files = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[FILE ...]", help_behavior_hint="")]
_Decompress = Annotated[bool, tyro.conf.arg(aliases=["-d"])]
_Stdout = Annotated[bool, tyro.conf.arg(aliases=["-c"])]
_Keep = Annotated[bool, tyro.conf.arg(aliases=["-k"])]
_Force = Annotated[bool, tyro.conf.arg(aliases=["-f"])]
_Test = Annotated[bool, tyro.conf.arg(aliases=["-t"])]
_List = Annotated[bool, tyro.conf.arg(name="list", aliases=["-l"])]
_Verbose = Annotated[bool, tyro.conf.arg(aliases=["-v"])]
_Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"])]
_Output = Annotated[str | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")]
_Suffix = Annotated[str, tyro.conf.arg(aliases=["-S"], metavar="SUFFIX")]
_Model = Annotated[str | None, tyro.conf.arg(aliases=["-m"], metavar="RUN", help_behavior_hint="")]
_Device = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: cpu)")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]


def compress(
    files: _Files = (),
    *,
    model: _Model = None,
    decompress: _Decompress = False,
    stdout: _Stdout = False,
    keep: _Keep = False,
    force: _Force = False,
    test: _Test = False,
    listing: _List = False,
    verbose: _Verbose = False,
    quiet: _Quiet = False,
    output: _Output = None,
    suffix: _Suffix = SUFFIX,
    rm: bool = False,
    embed_model: bool = False,
    lanes: _Number = None,
    block_size: _Number = None,
    weight_bits: _Number = None,
    device: _Device = None,
) -> int:
    """Compress files with a model's predictions and statistics of the text itself. Prose takes tens of kB per second.

    FILE is compressed to FILE.fsz and kept. Without FILE, or for -, standard input goes to standard output.
    The archive can be decompressed on any machine; if the model was used, as for prose, that requires the model. Other
    files are compressed without the model, at some hundreds of kB per second.

    Args:
        files: the files to compress
        model: a run, or a folder with a model (default: the bundled model, english; without it, the newest run)
        decompress: decompress instead
        stdout: write to standard output
        keep: keep the files (they are kept anyway, unless --rm is given)
        force: overwrite files, and write archives to a terminal
        test: check archives without writing anything
        listing: list the contents of archives
        verbose: print the result for each file; with -l, more details of each archive
        quiet: no progress and no warnings
        output: the file to write
        suffix: the suffix of archives
        rm: remove each file once its archive has been written to the disk
        embed_model: put the model into the archive
        lanes: number of pieces of text that are coded in parallel: more is faster, fewer is smaller
        block_size: bytes of text per block; a block can be decompressed independently
        weight_bits: bits of the integer weights, 8 to 16
        device: the device, such as cpu or cuda:1
    """
    asked = _Asked(model, stdout, keep, force, verbose, quiet, output, suffix, rm, device)
    if listing:
        return _for_each(files, asked, _list_files(asked))
    if test:
        return _for_each(files, asked, lambda name: _test_one(name, asked))
    if decompress:
        return _for_each(files, asked, lambda name: _decompress_one(name, asked))
    options = _options(embed_model, lanes, block_size, weight_bits)
    return _for_each(files, asked, lambda name: _compress_one(name, asked, options))


def decompress(
    files: _Files = (),
    *,
    model: _Model = None,
    stdout: _Stdout = False,
    keep: _Keep = False,
    force: _Force = False,
    test: _Test = False,
    listing: _List = False,
    verbose: _Verbose = False,
    quiet: _Quiet = False,
    output: _Output = None,
    suffix: _Suffix = SUFFIX,
    rm: bool = False,
    device: _Device = None,
) -> int:
    """Decompress archives made by `fastslow compress`.

    FILE.fsz is decompressed to FILE and kept. Without FILE, or for -, standard input goes to standard output.

    Args:
        files: the archives
        model: the model they were made with (default: the embedded one, or the matching bundled model or run in runs/)
        stdout: write to standard output
        keep: keep the archives (they are kept anyway, unless --rm is given)
        force: overwrite files
        test: check archives without writing anything
        listing: list the contents of archives
        verbose: print the result for each file; with -l, more details of each archive
        quiet: no progress and no warnings
        output: the file to write
        suffix: the suffix of archives
        rm: remove each archive once its text has been written to the disk
        device: the device, such as cpu or cuda:1
    """
    asked = _Asked(model, stdout, keep, force, verbose, quiet, output, suffix, rm, device)
    if listing:
        return _for_each(files, asked, _list_files(asked))
    one = _test_one if test else _decompress_one
    return _for_each(files, asked, lambda name: one(name, asked))


# ---------------------------------------------------------------------- options


class Skipped(FastslowError):
    """A file that was skipped: a warning, not an error."""


class _Asked:
    """The options both commands share, checked, and the model, loaded once."""

    def __init__(
        self,
        model: str | None,
        stdout: bool,
        keep: bool,
        force: bool,
        verbose: bool,
        quiet: bool,
        output: str | None,
        suffix: str,
        rm: bool,
        device: str | None,
    ) -> None:
        if rm and keep:
            raise OptionError("give --keep or --rm, not both")
        if stdout and output is not None:
            raise OptionError("give --stdout or --output, not both")
        if rm and (stdout or (output is not None and _is_stream(output))):
            raise OptionError("--rm removes a file once its result is on the disk, which cannot be known of a stream")
        if not suffix or "/" in suffix or os.sep in suffix:
            raise OptionError(f"--suffix must be the end of a file name, such as {SUFFIX}; got {suffix!r}")
        self.model_name, self.stdout, self.force, self.rm = model, stdout, force, rm
        self.verbose, self.quiet, self.suffix = verbose, quiet, suffix
        self.output = STANDARD if stdout or (output is not None and _is_stdout(output)) else output
        self.device = None if device is None else find_device(device)
        self._model: CodecModel | None = None

    def model(self) -> CodecModel:
        """The model to compress with."""
        if self._model is None:
            self._model = self._load(self.model_name or model_for_files(self.quiet))
        return self._model

    def find_model(self, wanted: Wanted) -> CodecModel | None:
        """The model to decompress with: the one named, or a bundled model or run in runs/ with the archive's hash."""
        if self.model_name is not None:
            return self.model()
        from fastslow.cli.common import RUNS
        from fastslow.codec.search import model_among

        runs = sorted({path.parent for path in RUNS.glob("*/model.safetensors")})
        return model_among([*packaged_models().values(), *runs], wanted, self.device)

    def _load(self, name: str) -> CodecModel:
        from fastslow.cli.common import check_path
        from fastslow.codec.models import as_model

        check_path(name)
        return as_model(packaged(name) or name, self.device)


def _options(embed_model: bool, lanes: int | None, block_size: int | None, weight_bits: int | None) -> Options:
    from fastslow.codec.writer import DEFAULT_BLOCK, Options

    return Options(
        lanes=lanes,
        block_size=DEFAULT_BLOCK if block_size is None else block_size,
        embed_model=embed_model,
        weight_bits=16 if weight_bits is None else weight_bits,
    )


def _for_each(files: tuple[str, ...], asked: _Asked, one: Callable[[str], None]) -> int:
    """Run `one` for every file; an error or a warning with one does not stop the others."""
    names = files or (STANDARD,)
    if asked.output not in (None, STANDARD) and len(names) > 1:
        raise OptionError(f"--output takes a single input file; got {len(names)}")
    status = OK
    with _terminable():
        for name in names:
            try:
                one(name)
            except (Skipped, Exists) as warning:
                if not asked.quiet:
                    _say(f"{warning}")
                status = status or WARNING
            except FastslowError as error:
                message = str(error)
                _say(f"error: {message if name in message else f'{_shown(name)}: {message}'}")
                status = ERROR
            except BrokenPipeError:
                raise
            except OSError as error:
                _say(f"error: {_shown(name)}: {os_reason(error)}")
                status = ERROR
    return status


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise an exception, as Ctrl-C does, so that partially written files are removed.

    A signal that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


# ---------------------------------------------------------------------- one file


def _compress_one(name: str, asked: _Asked, options: Options) -> None:
    from fastslow.codec.writer import compress_stream

    if name != STANDARD and name.endswith(asked.suffix) and not asked.force:
        raise Skipped(f"{name} already ends in {asked.suffix}: skipped (-f compresses it again)")
    model = asked.model()
    target = _target(name, asked, f"{name}{asked.suffix}")
    if target == STANDARD and sys.stdout.isatty() and not asked.force:
        raise OptionError("an archive is not written to a terminal: name a file with -o, or force it with -f")
    with _source(name, asked) as (source, status), _sink(target, asked, status) as sink:
        progress = _Progress(name, asked, status)
        summary = compress_stream(source, sink, model, options, device=asked.device, progress=progress)
        progress.done(summary, target)
    _remove(name, asked)


def _decompress_one(name: str, asked: _Asked) -> None:
    from fastslow.codec.reader import decompress_stream

    text = name.removesuffix(asked.suffix)
    if asked.output is None and name != STANDARD and (text == name or not Path(text).name):
        raise Skipped(f"{name} does not end in {asked.suffix}: skipped (name the output with -o)")
    if name == STANDARD and sys.stdin.isatty() and not asked.force:
        raise OptionError("an archive is not read from a terminal: name a file, or force it with -f")
    target = _target(name, asked, text)
    with _source(name, asked) as (source, status), _sink(target, asked, status) as sink:
        progress = _Progress(name, asked, status, reading=True)
        summary = decompress_stream(source, sink, find_model=asked.find_model, device=asked.device, progress=progress)
        progress.done(summary, target)
    _remove(name, asked)


def _test_one(name: str, asked: _Asked) -> None:
    from fastslow.codec.reader import decompress_stream

    with _source(name, asked) as (source, status), open(os.devnull, "wb") as sink:
        progress = _Progress(name, asked, status, reading=True)
        decompress_stream(source, sink, find_model=asked.find_model, device=asked.device, progress=progress)
        progress.clear()
    if asked.verbose:
        _say(f"{_shown(name)}: OK")


def _target(name: str, asked: _Asked, usual: str) -> str:
    target = asked.output or (STANDARD if name == STANDARD else usual)
    if target != STANDARD and name != STANDARD and os.path.exists(target) and os.path.exists(name):
        if os.path.samefile(target, name):
            raise OptionError(f"{name} is both input and output: name another file with -o")
        if not asked.force and not _is_stream(target):
            raise Exists(f"{target} exists and was not overwritten (-f overwrites it)")
    return target


def _is_stream(target: str) -> bool:
    """Whether what is written to `target` is gone afterwards, as in a pipe or in /dev/null, or may be."""
    return _is_stdout(target) or is_special(Path(target))


def _is_stdout(target: str) -> bool:
    """Whether `target` is standard output under another name, such as /dev/stdout, or -."""
    if target == STANDARD:
        return True
    try:
        return os.path.samestat(os.stat(target), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):  # there is no such file, or no descriptor
        return False


@contextmanager
def _source(name: str, asked: _Asked) -> Iterator[tuple[IO[bytes], os.stat_result | None]]:
    if name == STANDARD:
        yield sys.stdin.buffer, None
        return
    path = Path(name)
    if path.is_dir():
        raise Skipped(f"{name} is a folder: skipped")
    if is_special(path) and not asked.force and asked.output is None:
        raise Skipped(f"{name} is not a regular file: skipped (-f, -c or -o reads it)")
    file, status = open_source(path)
    with file:
        yield file, status if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _sink(target: str, asked: _Asked, like: os.stat_result | None) -> Iterator[IO[bytes]]:
    if target == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replacing(Path(target), force=asked.force, like=like) as file:
        yield file


def _remove(name: str, asked: _Asked) -> None:
    if asked.rm and name != STANDARD and asked.output != STANDARD:
        remove(Path(name))


# ---------------------------------------------------------------------- listing


def _list_files(asked: _Asked) -> Callable[[str], None]:
    first = True

    def one(name: str) -> None:
        nonlocal first
        if first and not asked.verbose:
            sizes = f"{'compressed':>14} {'uncompressed':>14} {'ratio':>7} {'bits/byte':>9}"
            print(f"{sizes}  {'model':<16}  name")
        first = False
        _list_one(name, asked)

    return one


def _list_one(name: str, asked: _Asked) -> None:
    from fastslow.codec.reader import ArchiveReader

    if name == STANDARD:
        raise OptionError("--list needs files: standard input is not seekable")
    with _source(name, asked) as (source, _):
        if not source.seekable():
            raise OptionError(f"{name} is not seekable, which --list needs")
        reader = ArchiveReader(source)
        entries = list(reader.entries())
        stored = source.seek(0, os.SEEK_END)
    total = sum(entry.plain for entry in entries)
    bits = f"{8 * stored / total:.3f}" if total else "-"
    ratio = f"{100 * stored / total:.1f}%" if total else "-"
    wanted = list(dict.fromkeys(entry.wanted for entry in entries if entry.wanted is not None))
    if not asked.verbose:
        model = wanted[0].model_id.hex()[:16] if wanted else "none"
        print(f"{stored:14,} {total:14,} {ratio:>7} {bits:>9}  {model:<16}  {_shown(name)}")
        return
    kinds: dict[str, int] = {}
    for entry in entries:
        kinds[entry.kind.name.lower()] = kinds.get(entry.kind.name.lower(), 0) + entry.plain
    lines = {
        "compressed": f"{stored:,} bytes",
        "uncompressed": f"{total:,} bytes",
        "ratio": f"{ratio}, {bits} bits per byte",
        "format": f"version {reader.version}",
        "model": ", ".join(_shown(str(each)) for each in wanted) or "none",
        "embedded model": f"{reader.embedded_size:,} bytes" if reader.embedded_size else "no",
        "blocks": f"{len(entries):,}",
        "bytes of text": ", ".join(f"{kind} {size:,}" for kind, size in kinds.items()) or "none",
    }
    print(f"{_shown(name)}:")
    for key, value in lines.items():
        print(f"  {key:<15} {value}")


# ---------------------------------------------------------------------- progress


class _Progress:
    """A progress line on the terminal: how much is done, the ratio, the speed, the time left."""

    _EVERY = 0.2

    def __init__(self, name: str, asked: _Asked, status: os.stat_result | None, reading: bool = False) -> None:
        self._name, self._asked, self._reading = _shown(name), asked, reading
        self._total = None if status is None else status.st_size
        self._shows = not asked.quiet and sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._line = ""

    def __call__(self, text: int, archive: int) -> None:
        now = time.monotonic()
        if not self._shows or now - self._last < self._EVERY:
            return
        self._last = now
        speed = text / max(now - self._start, 1e-9)
        parts = [f"{text:,} bytes of text"]
        done = archive if self._reading else text
        if self._total:
            parts[0] += f" ({100 * done / self._total:.0f}%)"
        if text and archive:
            parts.append(f"{8 * archive / text:.3f} bits/byte")
        parts.append(f"{speed / 1000:.1f} kB/s")
        if self._total and done:
            left = (now - self._start) * (self._total - done) / done
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
        self._show(f"{self._name}: {', '.join(parts)}")

    def _show(self, line: str) -> None:
        padding = " " * max(0, len(self._line) - len(line))
        print(f"\r{line}{padding}", end="", file=sys.stderr, flush=True)
        self._line = line

    def clear(self) -> None:
        if self._line:
            self._show("")
            print("\r", end="", file=sys.stderr, flush=True)
            self._line = ""

    def done(self, summary: Summary, target: str) -> None:
        """Print the result for a file, on a terminal or with -v."""
        self.clear()
        if not (self._shows or self._asked.verbose) or self._asked.quiet:
            return
        seconds = max(time.monotonic() - self._start, 1e-9)
        sizes = (summary.stored, summary.plain) if self._reading else (summary.plain, summary.stored)
        kinds = ", ".join(f"{name} {size:,}" for name, size in summary.kinds.items() if size)
        where = "standard output" if target == STANDARD else _shown(target)
        line = (
            f"{self._name}: {sizes[0]:,} -> {sizes[1]:,} bytes, {summary.bits_per_byte:.3f} bits/byte, "
            f"{summary.plain / seconds / 1000:.1f} kB/s -> {where}"
        )
        if self._asked.verbose:
            line += f" (bytes of text: {kinds})" if kinds else ""
            memory = _peak_megabytes()
            line += "" if memory is None else f", at most {memory:,.0f} MB of memory"
        _say(line)


def _peak_megabytes() -> float | None:
    """Peak memory of this process so far; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _shown(name: str) -> str:
    from fastslow.printable import visible_text

    return "standard input" if name == STANDARD else visible_text(name)


def _say(message: str) -> None:
    from fastslow.printable import visible_text

    with suppress(OSError):  # stderr is closed
        print(f"fastslow: {visible_text(message)}", file=sys.stderr)
