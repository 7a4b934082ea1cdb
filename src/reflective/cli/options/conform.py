"""The options of `reflective conform`."""

from __future__ import annotations

from argparse import ArgumentParser

from .common import color

EXAMPLES = """\
examples:
  reflective conform                          reflective against execve: every property of 120 starts
  reflective conform --loader 'ulexecve {}'   any other loader; {} stands for the program
  reflective conform --loader '/lib64/ld-linux-x86-64.so.2 {}'
  reflective conform --json | tail -1 | jq .different   JSON lines (schema reflective.conform/1), the total last

It compiles a program that tells all it can see of its own start, in 22 ways, and starts it in 30 situations: gcc is needed,
and musl-gcc for two of them. Exit status: 0 nothing differs but what docs/kernel-parity.md has, 1 something does.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("--loader", metavar="COMMAND", help="with {} for the program (default: reflective's own)")
    parser.add_argument("--no-aslr", action="store_true", help="with fixed addresses, which are then compared as they are")
    parser.add_argument("--json", action="store_true", help="one JSON object a start, then the total")
    color(parser)
