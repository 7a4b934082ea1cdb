"""The options of `reflective maps`."""

from __future__ import annotations

from argparse import ArgumentParser

from .common import color, process, program

EXAMPLES = """\
examples:
  reflective maps $$                          this shell: every mapping, its file and segment, its memory
  reflective maps --at main -- ./hello        a program that has been stopped at main
  reflective maps --at entry --diff exit -- ls   what changed between two phases (ls does run, and is heard)
  reflective maps --via reflective --at loader -- ./hello   with the loader's own memory, just before it goes
  reflective maps --shared $PPID $$           which page frames this shell and its parent have in common (as root)
  reflective maps --json $$ | jq .rss         one JSON object a mapping (schema reflective.maps/1)

phases: loader (the new image is mapped), interpreter (the dynamic linker's first instruction), entry (the program's own),
main, exit. The program is killed when it has been looked at. Without a phase a number is a process ID.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    phases = ("loader", "interpreter", "entry", "main", "exit")  # trace/session.py; not imported for --help
    parser.add_argument("--at", metavar="PHASE", choices=phases, help="where to stop the program (default: entry)")
    parser.add_argument("--diff", metavar="PHASE", choices=phases, help="show what changes from there to a later phase")
    parser.add_argument("--shared", metavar="PID", type=process, help="count the page frames that process PID has as well")
    parser.add_argument("--via", choices=("kernel", "reflective"), help="who starts the program (default: kernel)")
    parser.add_argument("--json", action="store_true", help="one JSON object a mapping")
    color(parser)
    program(parser)
