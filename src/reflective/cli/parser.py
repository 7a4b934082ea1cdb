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


def _shown(module: Any, args: argparse.Namespace) -> int:
    """What the subcommand returns; one line if its output can't be written, 130 for ^C."""
    sys.stdout = sys.stdout or _Closed()
    try:
        status = int(module.show(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and sys.stderr is not None:
            print(f"reflective: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end, and would complain again
        return 1
    return status


def dispatch(words: list[str]) -> int:
    """Parses the command line and runs the subcommand; returns its exit status."""
    command = next((word for word in words if word in COMMANDS), "")
    args = build_parser(command).parse_args(words)
    if args.command != "exec":
        return _shown(_module(args.command, __package__), args)
    from .exec import execute, settings_from

    if args.arguments[:1] == ["--"] and args.program.startswith("-"):
        args.arguments = args.arguments[1:]
    return execute([args.program, *args.arguments], settings_from(args))
