"""The options of `reflective exec`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from .common import program

EXAMPLES = """\
examples:
  reflective exec ./hello                     run it, as ./hello would
  reflective exec -E LANG=C -- ls -l          with another environment
  reflective exec --interp ./ld.so ./hello    with another dynamic linker
  reflective exec --seed 1 cat /proc/self/maps   the same layout every time
  reflective exec -v --strict ./hello         say what was done; refuse if anything differs from execve

exit status: the program's; death by a signal becomes death by the same signal; 126 it can't be executed, 127 it is not found,
2 wrong usage.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("--argv0", metavar="NAME", help="what the program gets as argv[0]")
    parser.add_argument(
        "-E", dest="set", metavar="NAME=VALUE", type=_assignment, action="append", default=[], help="set a variable"
    )
    parser.add_argument("-u", dest="unset", metavar="NAME", type=_name, action="append", default=[], help="remove a variable")
    parser.add_argument("-i", "--ignore-environment", action="store_true", help="start with no variables")
    parser.add_argument("--chdir", metavar="DIR", help="change to DIR first")
    parser.add_argument("--interp", metavar="PATH", help="dynamic linker to use instead of the one the program names")
    parser.add_argument("--in-place", action="store_true", help="this process becomes the program: no fork, the same pid")
    parser.add_argument("--strict", action="store_true", help="refuse to start if anything can't be as after execve")
    parser.add_argument("--no-aslr", action="store_true", help="fixed addresses, as under setarch -R")
    parser.add_argument("--seed", metavar="N", type=int, help="reproducible addresses and AT_RANDOM")
    parser.add_argument("--base", metavar="ADDR", type=_address, help="where a position-independent executable goes")
    parser.add_argument("-v", "--verbose", action="store_true", help="say on stderr what was done")
    program(parser)


def _assignment(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text


def _name(text: str) -> str:
    if not text or "=" in text:  # as env(1)
        raise ArgumentTypeError(f"{text!r} is no variable's name")
    return text


def _address(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no address") from None
    if value % 4096 or not 0 <= value < 1 << 47:
        raise ArgumentTypeError(f"{text} is not a page in user space: a multiple of 4096 below 2^47")
    return value
