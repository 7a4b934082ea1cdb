"""The options of `reflective stack`."""

from __future__ import annotations

from argparse import ArgumentParser

from .common import color, program

EXAMPLES = """\
examples:
  reflective stack ./hello one two            from the top of the stack down to argc, with what everything means
  reflective stack --via reflective ./hello   as reflective builds it
  env -i A=1 reflective stack /bin/true       with one variable
  reflective stack --json ./hello             one JSON object an item, then the registers (schema reflective.stack/1)

The program is stopped at its first instruction and killed: it does nothing.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("--via", choices=("kernel", "reflective"), default="kernel", help="default: kernel")
    parser.add_argument("--json", action="store_true", help="one JSON object an item")
    color(parser)
    program(parser)
