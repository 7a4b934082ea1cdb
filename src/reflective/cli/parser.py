"""The command line, for everything that is not the plain `reflective exec PROGRAM`."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import said

# A subcommand has its options in the module of its name in options/, and what shows it in the one here.
COMMANDS = {
    "exec": "run a program as execve would",
    "plan": "show every step of a load, without doing it",
    "addr": "explain an address",
    "aslr": "measure how random addresses are",
    "stack": "draw the stack that a program starts with",
    "maps": "explain an address space",
    "bench": "measure how long a start takes",
    "conform": "hold a loader against the kernel",
    "trace": "show every system call of a program",
    "got-watch": "watch every symbol being bound, in every object",
}


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error, and where to read more."""

    def error(self, message: str) -> NoReturn:
        """Exit status 2."""
        if sys.stderr is not None:
            print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse would not mind if it can't be written."""
        if message:
            (file or sys.stdout).write(message)


def build_parser(command: str = "") -> Parser:
    """The command line, with the options of one subcommand: those of the others are not needed."""
    parser = Parser(
        prog="reflective",
        description="execve in user space, where it can be seen.",
        epilog="reflective COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"reflective {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, required=True)
    for name, summary in COMMANDS.items():
        one = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == command:
            options = _module(name, f"{__package__}.options")
            one.epilog = options.EXAMPLES
            options.add(one)
    return parser


def _module(command: str, package: str | None) -> Any:
    return import_module(f".{command.replace('-', '_')}", package)


class _Closed(io.StringIO):
    """Standard output, where there is none: Python then has None."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def dispatch(words: list[str]) -> int:
    """Parses the command line and runs the subcommand; returns its exit status. One line if its output can't be written.

    Of ^C, and of SIGPIPE if nobody reads on, it dies: a shell's loop then ends too.
    """
    from .exec import complain

    sys.stdout = sys.stdout or _Closed()
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _die_of(signal.SIGINT)
    except BrokenPipeError:
        return _die_of(signal.SIGPIPE)
    except OSError as error:
        complain(said(error))
        _silence()
        return 1
    return status


def _all_arguments(words: list[str], program: str | None, arguments: list[str]) -> list[str]:
    """With the `--` right behind the program's name: it is the program's own, but argparse takes it for one of ours."""
    before = len(words) - len(arguments) - 1
    dropped = "--" in words and words.index("--") == before and words[before - 1] == program
    return ["--", *arguments] if dropped else arguments


def _silence() -> None:
    """Python flushes once more at its end, and would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _die_of(number: int) -> int:
    from ..native.run import die_of

    _silence()
    die_of(number)
    return 128 + number


def _dispatch(words: list[str]) -> int:
    command = next((word for word in words if word in COMMANDS), "")
    try:
        args, rest = build_parser(command).parse_known_args(words)
    except SystemExit as end:  # --help, or wrong usage
        return int(end.code or 0)
    if rest:
        Parser(prog=f"reflective {args.command}").error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(args, "arguments"):
        args.arguments = _all_arguments(words, args.program, args.arguments)
    if args.command != "exec":
        return int(_module(args.command, __package__).show(args))
    from .exec import execute, settings_from

    if args.arguments[:1] == ["--"] and args.program.startswith("-"):
        args.arguments = args.arguments[1:]
    return execute([args.program, *args.arguments], settings_from(args))
