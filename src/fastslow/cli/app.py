"""Dispatch from `sys.argv` to a command, and from its result to an exit status.

    0    success
    2    an error that the user can fix, in one line on stderr: ``fastslow: error: ...``
    130  interrupted (Ctrl-C)
    141  the reader of the output has closed it (as for a program killed by SIGPIPE)

Any other exception is a bug and shows its traceback. With ``FASTSLOW_DEBUG=1`` every error does.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fastslow
from fastslow.cli.registry import COMMANDS
from fastslow.errors import FastslowError, UsageError, nearest, os_reason

ERROR = 2
INTERRUPTED = 130
NO_READER = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: that of the process) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # a process of its own
        _fill_closed()
        # Importing PyTorch makes many objects and little garbage: collecting as usual would take a tenth of the start.
        gc.set_threshold(10_000, *gc.get_threshold()[1:])
    # What a terminal or a pipe cannot encode is escaped rather than fatal.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            if status == 0:
                raise
            _give_up_stdout()  # the command has told of it
        return status
    except SystemExit as exit_:  # --help
        return exit_.code if isinstance(exit_.code, int) else ERROR
    except KeyboardInterrupt as interruption:
        _debug()
        _complain(str(interruption) or "interrupted", kind="")
        return INTERRUPTED
    except BrokenPipeError:
        _debug()
        _give_up_stdout()
        return NO_READER
    except Exception as error:
        _debug()
        message = describe(error)
        if message is None:
            raise
        _complain(message)
        if isinstance(error, OSError):
            _give_up_stdout()
        return ERROR


def _fill_closed() -> None:
    """Open the standard streams that the caller has closed.

    Otherwise the next file that is opened takes the number of a closed one, and what is meant for the closed one goes
    into that file; and Python prints to stdout what is meant for stderr. As before, using them is an error, but
    messages are dropped.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, this one
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _give_up_stdout() -> None:
    """If stdout cannot be written, discard what it still holds: Python flushes it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # not a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"fastslow {fastslow.__version__}")
        return 0
    name, rest = find_command(arguments)
    if name in COMMANDS:
        status = load(name)(rest)
        return status if isinstance(status, int) else 0
    print(overview(name))  # `fastslow data`
    return 0


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command at the head of `arguments`, or the first word of several when help is asked for; and the rest."""
    first = arguments[0]
    if first in COMMANDS:
        return first, list(arguments[1:])
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if first not in groups:
        if first.startswith("-"):
            raise UsageError(
                f"name the command before its options, as in `fastslow train {first}`; got {first!r} first"
            )
        raise UsageError(_unknown(first, [name for name in COMMANDS if " " not in name] + sorted(groups)))
    if len(arguments) == 1 or arguments[1] in ("-h", "--help"):
        return first, []
    name = f"{first} {arguments[1]}"
    if name not in COMMANDS:
        raise UsageError(_unknown(name, [other for other in COMMANDS if other.split()[0] == first]))
    return name, list(arguments[2:])


def _unknown(name: str, known: list[str]) -> str:
    close = nearest(name, known)
    guess = f"did you mean {' or '.join(f'`{c}`' for c in close)}? " if close else ""
    return f"there is no command {name!r}: {guess}Known: {', '.join(known)}"


def load(name: str) -> Callable[[list[str]], Any]:
    """The command `name` as a function of its arguments; its module, and no other command's, is imported."""
    module_name, _, function_name = COMMANDS[name].home.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name)

    def run(arguments: list[str]) -> Any:
        from fastslow.cli.arguments import bind

        # A module may change its command's arguments and the default values of its parameters.
        prepare = getattr(module, "prepare", None)
        arguments, defaults = prepare(arguments) if prepare else (arguments, {})
        return bind(function, f"fastslow {name}", arguments, defaults)()

    return run


def overview(group: str | None = None) -> str:
    """The help of the whole program, or of the commands that begin with `group`."""
    shown = {name: c for name, c in COMMANDS.items() if group is None or name.split()[0] == group}
    width = max(map(len, shown))
    listing = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in shown.items())
    if group is not None:
        return (
            f"usage: fastslow {group} COMMAND [OPTIONS]\n\n{listing}\n\n"
            f"`fastslow {group} COMMAND --help` lists the options of a command."
        )
    return (
        "usage: fastslow COMMAND [OPTIONS]\n\n"
        "Train and use character language models with Fast-Slow recurrent networks.\n\n"
        f"{listing}\n\n"
        "`fastslow COMMAND --help` lists the options of a command; `fastslow --version` prints the version.\n"
        "First steps: `fastslow demo`, then `fastslow train FILE`."
    )


def describe(error: Exception) -> str | None:
    """The one-line message of an error that the user can fix; None for a bug."""
    if isinstance(error, FastslowError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        full = "; free some space and try again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{os_reason(error)}{full}"
    if isinstance(error, MemoryError) or _out_of_device_memory(error):
        return "out of memory: use a smaller model, a smaller batch or shorter windows"
    return None


def _out_of_device_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _complain(message: str, kind: str = "error: ") -> None:
    from fastslow.printable import visible_text

    line = visible_text(" ".join(message.splitlines()))  # it may repeat arguments and names of files
    with contextlib.suppress(OSError):  # stderr is closed too
        print(f"fastslow: {kind}{line}", file=sys.stderr)


def _debug() -> None:
    """Re-raise the exception that is being handled if the user asked for tracebacks."""
    if os.environ.get("FASTSLOW_DEBUG", "0") not in ("", "0"):
        raise
