"""The options of `reflective got-watch`, apart from what carries them out."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from .common import color, program

HOWS = ("lazy", "startup", "irelative", "copy", "dlopen", "write")  # observe/got/events.py; not imported for --help
PHASES = ("loader", "interpreter", "entry", "main", "exit")
EXAMPLES = """\
examples:
  got-watch ls                                 every slot as it is bound: on disk, as relocated, bound; who called
  got-watch --how lazy --object ls -- ls -l    only what ls itself binds by its first calls
  got-watch --symbol 'mem*' --json git status  JSON lines on stdout (schema reflective.got/1, docs/got.schema.json)
  got-watch --summary python3 -c pass          counts by object, share never bound, time in the resolver
  got-watch --live -o /dev/pts/5 ./program     bound and not yet, object by object, in another terminal (tty says which)
  got-watch -p 1234                            a process that runs already; ^C detaches, and leaves no breakpoint behind
  got-watch --fail-on-hijack ./program         exit status 3 if a slot ends up where no linker would have put it
  got-watch --guard exit ./program             the instruction that writes this slot, as it does, with its callers
  got-watch --writer ./program < input         if a slot was hijacked, once more with that slot guarded: who wrote it
  got-watch --engine=uprobe -p 1234            first calls in a program that must not be stopped (root)
  got-watch --list -p 1234                     all slots now, without stopping it
  got-watch --verify puts ./program            the very instruction that writes the slot, by a hardware watchpoint
  got-watch --redirect puts=abort ./program    point a slot somewhere else

exit status: the program's; 3 after a hijack with --fail-on-hijack; 127 it is not found, 2 wrong usage, 1 it can't be watched.
`reflective got-watch` is the same command.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("-p", dest="pid", metavar="PID", type=int, help="attach to a process that runs already")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write there (default: stderr; with --json stdout)")
    parser.add_argument(
        "--symbol", metavar="PATTERN", action="append", default=[], help="only such symbols (name or name@VERSION)"
    )
    parser.add_argument(
        "--object", metavar="PATTERN", action="append", default=[], help="only objects with such a path or file name"
    )
    parser.add_argument("--how", metavar="HOW", type=_hows, default=(), help=f"only such bindings: {', '.join(HOWS)}")
    parser.add_argument("--summary", action="store_true", help="counts at the end, instead of a line for each")
    parser.add_argument(
        "--live", action="store_true", help="a table by object, redrawn in place on a terminal, instead of lines"
    )
    parser.add_argument("--fail-on-hijack", action="store_true", help="exit status 3 if a slot was hijacked")
    parser.add_argument(
        "--guard",
        metavar="SYMBOL",
        action="append",
        default=[],
        help="a debug register on this slot ([OBJECT:]NAME[@VERSION], up to 4): whoever writes it is named, at once",
    )
    parser.add_argument(
        "--writer",
        action="store_true",
        help="after a hijack whose writer was not seen: run the program again, that slot guarded, both times without ASLR",
    )
    parser.add_argument("--no-pin", action="store_true", help="leave the program its CPUs: slower")
    parser.add_argument(
        "--engine",
        choices=("c", "python", "uprobe"),
        default="c",
        help="python: the loop through python-ptrace; uprobe: nothing is stopped, but only lazy bindings are seen (root) (c)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an event")
    color(parser)
    other = parser.add_argument_group("instead of watching")
    other.add_argument("--list", action="store_true", help="all slots as they are now")
    other.add_argument("--redirect", metavar="SYMBOL=WHERE", action="append", help="point a slot to a symbol or address")
    other.add_argument("--force", action="store_true", help="also if RELRO has made the slot read-only")
    other.add_argument("--verify", metavar="SYMBOL", help="show the instruction that writes this slot")
    other.add_argument("--at", metavar="PHASE", choices=PHASES, help=f"stop the program there: {', '.join(PHASES)}")
    other.add_argument("--via", choices=("kernel", "reflective"), help="who starts the program (default: kernel)")
    program(parser, optional=True)


def _hows(text: str) -> tuple[str, ...]:
    wrong = [word for word in text.split(",") if word not in HOWS]
    if wrong:
        raise ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(HOWS)}")
    return tuple(text.split(","))
