"""The options of `reflective trace`, apart from what carries them out."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from .common import program

EXAMPLES = """\
examples:
  reflective trace ls                          every system call of ls, as strace shows it
  reflective trace -f -o out.txt make          children too, into a file, each line with its task
  reflective trace -e %file,!close cat x       calls that take a path; or by name, or all but some
  reflective trace --json ls | jq .phase       JSON lines on stdout (schema reflective.trace/1, docs/trace.schema.json)
  reflective trace --via reflective ./hello    watch reflective's own loader at work
  reflective trace --explain ls                what each call is for, as far as files, maps and earlier calls say so
  reflective trace -f --perfetto x.json make   phases and calls of each thread, for ui.perfetto.dev
  reflective trace -p 1234                     a running process; ^C detaches, and it runs on
  reflective trace -c git status               how often, how long

Tracer and tracees share one CPU, which is much faster. They can see it (nproc); --no-pin leaves their CPUs alone.
exit status: the program's; death by a signal becomes death by the same signal; 126 it can't be executed, 127 it is not found,
1 it can't be traced, 2 wrong usage; after -p 0.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("-f", "--follow", action="store_true", help="children and threads too")
    parser.add_argument("-e", "--expression", metavar="EXPR", type=_selection, help="which calls: trace=%%file,openat,!mmap")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: stderr, for --json stdout")
    parser.add_argument("-s", "--strings", metavar="N", type=_count, default=32, help="bytes to show of a string (32)")
    parser.add_argument("-y", "--paths", action="store_true", help="what each descriptor is: 3</etc/passwd>")
    parser.add_argument("-k", "--stack", action="store_true", help="below each call who made it: the return addresses")
    parser.add_argument("-p", "--pid", metavar="PID", type=int, action="append", default=[], help="attach to a process")
    parser.add_argument("-c", "--count", action="store_true", help="only a table of how often and how long")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--perfetto", metavar="FILE", help="a picture instead: load FILE into ui.perfetto.dev")
    parser.add_argument("--explain", action="store_true", help="say below each call what it is for, where that is known")
    parser.add_argument("--via", choices=("kernel", "reflective"), default="kernel", help="what loads the program (kernel)")
    parser.add_argument("--engine", choices=("c", "python"), default="c", help="python: the loop through python-ptrace (c)")
    parser.add_argument("--no-pin", action="store_true", help="leave the CPUs of the traced tasks alone")
    program(parser, optional=True)


def _selection(text: str) -> frozenset[int]:
    from ...trace.syscalls import select

    try:
        return select(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdigit():
        raise ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)
