"""The options of `reflective plan`."""

from __future__ import annotations

from argparse import ArgumentParser

from .common import PROGRAM, color

EXAMPLES = """\
examples:
  reflective plan /bin/ls                     every step from fork to jump
  reflective plan --json ./script.sh          one JSON object (schema reflective.plan/1)
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("--interp", metavar="PATH", help="as for exec")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    color(parser)
    parser.add_argument("program", help=PROGRAM)
