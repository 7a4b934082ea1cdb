"""The options of `reflective aslr`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from .common import color, program

EXAMPLES = """\
examples:
  reflective aslr /bin/ls                     1000 starts: bits of every region, with the kernel's rule
  reflective aslr --via both -n 5000 ./hello  the kernel's execve and reflective, side by side
  reflective aslr --plot where.svg /bin/ls    a picture of where regions fall (pip install 'reflective[plot]')
  reflective aslr --json /bin/ls | jq .bits   one JSON object a region (schema reflective.aslr/1)
  setarch -R reflective aslr /bin/ls          the same without randomization

The program is stopped before its first instruction and killed: it does nothing. The estimator is described in docs/aslr.md.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument(
        "-n", dest="runs", metavar="RUNS", type=_runs, default=1000, help="starts for each way (default: 1000)"
    )
    parser.add_argument("--via", choices=("kernel", "reflective", "both"), default="kernel", help="default: kernel")
    parser.add_argument("--plot", metavar="FILE", help="draw where regions fall: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="one JSON object a region and way")
    color(parser)
    program(parser)


def _runs(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= 1_000_000:
        raise ArgumentTypeError(f"{text!r} is not a number from 10 to 1000000")
    return int(text)
