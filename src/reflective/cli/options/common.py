"""Options that several subcommands have."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, ArgumentTypeError

PROGRAM = "looked for in PATH unless it has a slash"


def color(parser: ArgumentParser) -> None:
    """--color."""
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")


def program(parser: ArgumentParser, *, optional: bool = False) -> None:
    """A program and its arguments."""
    parser.add_argument("program", nargs="?" if optional else None, help=PROGRAM)
    parser.add_argument("arguments", nargs=REMAINDER, metavar="ARG").required = False


def process(text: str) -> int:
    """A process ID. Raises ArgumentTypeError if it can be none."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise ArgumentTypeError(f"{text!r} is no process ID")
    return int(text)
