"""The options of `reflective bench`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable

from .common import color

EXAMPLES = """\
examples:
  reflective bench                            every way, every program that is installed: some minutes
  reflective bench --program true --program bash -n 300
  reflective bench --way cold --way pool --memory 1000 --program true   from a process of 1000 MB
  reflective bench --plot bars.svg            a picture (pip install 'reflective[plot]')
  reflective bench --json | jq .ratio.median  one JSON object a way (schema reflective.bench/1)

ways: posix_spawn (the reference, always measured), vfork, fork, cold (reflective.spawn), template, pool, ulexecve.
programs: true, c++ (a hello, compiled), bash, ls, git, perl, cmake, python.
Ways are measured in turn, in one run; those that may fork, in runs of their own. More in docs/bench.md.
"""
WAYS = ("posix_spawn", "vfork", "fork", "cold", "template", "pool", "ulexecve")  # bench/ways.py; not imported for --help
PROGRAMS = ("true", "c++", "bash", "ls", "git", "perl", "cmake", "python")  # bench/measure.py
CLIENTS = "at once, for starts a second (default: 2; 0: not measured)"


def add(parser: ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--way", metavar="WAY", choices=WAYS, action="append", default=[], help="of starting (default: all)")
    parser.add_argument("--program", metavar="NAME", choices=PROGRAMS, action="append", default=[], help="default: all")
    parser.add_argument(
        "-n", dest="runs", metavar="RUNS", type=_number(2, 1_000_000), default=100, help="default: 100 of each"
    )
    parser.add_argument(
        "--memory", metavar="MB", type=_number(1, 1 << 20), action="append", default=[],
        help="the size of the process that starts (default: 15, and 200 and 1000 for the first program)",
    )  # fmt: skip
    parser.add_argument("--clients", metavar="N", type=_number(0, 64), default=2, help=CLIENTS)
    parser.add_argument("--plot", metavar="FILE", help="draw medians as bars: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="one JSON object a way")
    color(parser)


def _number(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return convert
