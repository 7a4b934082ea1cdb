"""The options of `reflective bench`."""

from __future__ import annotations

import argparse
from typing import Any

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


def add(commands: Any) -> None:
    """Adds the subcommand."""
    bench = commands.add_parser(
        "bench",
        help="measure how long a start takes",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--way", metavar="WAY", choices=WAYS, action="append", default=[], help="of starting (default: all)")
    bench.add_argument("--program", metavar="NAME", choices=PROGRAMS, action="append", default=[], help="default: all")
    bench.add_argument(
        "-n", dest="runs", metavar="RUNS", type=_number(2, 1_000_000), default=100, help="of each (default: 100)"
    )
    bench.add_argument(
        "--memory", metavar="MB", type=_number(1, 1 << 20), action="append", default=[],
        help="the size of the process that starts (default: 15, and 200 and 1000 for the first program)",
    )  # fmt: skip
    bench.add_argument(
        "--clients",
        metavar="N",
        type=_number(0, 64),
        default=2,
        help="at once, for starts a second (default: 2; 0: not measured)",
    )
    bench.add_argument("--plot", metavar="FILE", help="draw medians as bars: .png, .svg or .pdf")
    bench.add_argument("--json", action="store_true", help="one JSON object a way")
    bench.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")


def _number(least: int, most: int) -> type[int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return convert  # type: ignore[return-value]
