"""The subcommands and their options, for everything that is not the plain `reflective exec PROGRAM`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import NoReturn, TypeAlias

from .. import __version__
from . import bench_options, got_options, trace_options

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

EXEC_EXAMPLES = """\
examples:
  reflective exec ./hello                     run it, as ./hello would
  reflective exec -E LANG=C -- ls -l          with another environment
  reflective exec --interp ./ld.so ./hello    with another dynamic linker
  reflective exec --seed 1 cat /proc/self/maps   the same layout every time
  reflective exec -v --strict ./hello         say what was done; refuse if anything differs from execve

exit status: the program's; death by a signal becomes death by the same signal; 126 it can't be executed, 127 it is not found,
2 wrong usage.
"""
PLAN_EXAMPLES = """\
examples:
  reflective plan /bin/ls                     every step from fork to jump
  reflective plan --json ./script.sh          one JSON object (schema reflective.plan/1)
"""
ADDR_EXAMPLES = """\
examples:
  reflective addr $$ 0x7f5e2b6a1994           object, segment, section, symbol, source line, page of an address
  reflective addr $$ libc.so.6+0x77994 puts+20   the other way round: a place in a file, a symbol
  reflective addr $$ ld-linux-x86-64.so.2:malloc memcpy@GLIBC_2.14   of one object; of one version
  reflective addr --json $$ main | jq .link_address   one JSON object an address (schema reflective.addr/1)

A name without an object is looked for in every mapped ELF file: one answer for each that defines it. Numbers are decimal
unless they begin with 0x, or look like those in /proc/PID/maps. More in docs/addr.md.
"""
PROGRAM = "looked for in PATH unless it has a slash"
ASLR_EXAMPLES = """\
examples:
  reflective aslr /bin/ls                     1000 starts: bits of every region, with the kernel's rule
  reflective aslr --via both -n 5000 ./hello  the kernel's execve and reflective, side by side
  reflective aslr --plot where.svg /bin/ls    a picture of where regions fall (pip install 'reflective[plot]')
  reflective aslr --json /bin/ls | jq .bits   one JSON object a region (schema reflective.aslr/1)
  setarch -R reflective aslr /bin/ls          the same without randomization

The program is stopped before its first instruction and killed: it does nothing. The estimator is described in docs/aslr.md.
"""
STACK_EXAMPLES = """\
examples:
  reflective stack ./hello one two            from the top of the stack down to argc, with what everything means
  reflective stack --via reflective ./hello   as reflective builds it
  env -i A=1 reflective stack /bin/true       with one variable
  reflective stack --json ./hello             one JSON object an item, then the registers (schema reflective.stack/1)

The program is stopped at its first instruction and killed: it does nothing.
"""
MAPS_EXAMPLES = """\
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
CONFORM_EXAMPLES = """\
examples:
  reflective conform                          reflective against execve: every property of 120 starts
  reflective conform --loader 'ulexecve {}'   any other loader; {} stands for the program
  reflective conform --loader '/lib64/ld-linux-x86-64.so.2 {}'
  reflective conform --json | tail -1 | jq .different   JSON lines (schema reflective.conform/1), the total last

It compiles a program that tells all it can see of its own start, in 22 ways, and starts it in 30 situations: gcc is needed,
and musl-gcc for two of them. Exit status: 0 nothing differs but what docs/kernel-parity.md has, 1 something does.
"""


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error, and where to read more."""

    def error(self, message: str) -> NoReturn:
        """Exit status 2."""
        if sys.stderr is not None:
            print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _address(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no address") from None
    if value % 4096 or not 0 <= value < 1 << 47:
        raise argparse.ArgumentTypeError(f"{text} is not a page in user space: a multiple of 4096 below 2^47")
    return value


def _process(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no process ID")
    return int(text)


def _assignment(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text


def build_parser() -> Parser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="reflective",
        description="execve in user space, where it can be seen.",
        epilog="reflective COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"reflective {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, required=True)

    run = commands.add_parser("exec", help="run a program as execve would", epilog=EXEC_EXAMPLES, formatter_class=raw)
    run.add_argument("--argv0", metavar="NAME", help="what the program gets as argv[0]")
    run.add_argument(
        "-E", dest="set", metavar="NAME=VALUE", type=_assignment, action="append", default=[], help="set a variable"
    )
    run.add_argument("-u", dest="unset", metavar="NAME", action="append", default=[], help="remove a variable")
    run.add_argument("-i", "--ignore-environment", action="store_true", help="start with no variables")
    run.add_argument("--chdir", metavar="DIR", help="change to DIR first")
    run.add_argument("--interp", metavar="PATH", help="dynamic linker to use instead of the one the program names")
    run.add_argument("--in-place", action="store_true", help="this process becomes the program: no fork, the same pid")
    run.add_argument("--strict", action="store_true", help="refuse to start if anything can't be as after execve")
    run.add_argument("--no-aslr", action="store_true", help="fixed addresses, as under setarch -R")
    run.add_argument("--seed", metavar="N", type=int, help="reproducible addresses and AT_RANDOM")
    run.add_argument("--base", metavar="ADDR", type=_address, help="where a position-independent executable goes")
    run.add_argument("-v", "--verbose", action="store_true", help="say on stderr what was done")
    run.add_argument("program", help=PROGRAM)
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG").required = False

    plan = commands.add_parser(
        "plan", help="show every step of a load, without doing it", epilog=PLAN_EXAMPLES, formatter_class=raw
    )
    plan.add_argument("--interp", metavar="PATH", help="as for exec")
    plan.add_argument("--json", action="store_true", help="one JSON object")
    plan.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    plan.add_argument("program", help=PROGRAM)
    _add_addr(commands)
    _add_aslr(commands)
    _add_stack(commands)
    _add_maps(commands)
    _add_conform(commands)
    bench_options.add(commands)
    trace_options.add(commands)
    got_options.add(commands)
    return parser


def _runs(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 10 to 1000000")
    return int(text)


def _add_aslr(commands: Commands) -> None:
    aslr = commands.add_parser(
        "aslr",
        help="measure how random addresses are",
        epilog=ASLR_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    aslr.add_argument("-n", dest="runs", metavar="RUNS", type=_runs, default=1000, help="starts for each way (default: 1000)")
    aslr.add_argument("--via", choices=("kernel", "reflective", "both"), default="kernel", help="default: kernel")
    aslr.add_argument("--plot", metavar="FILE", help="draw where regions fall: .png, .svg or .pdf")
    aslr.add_argument("--json", action="store_true", help="one JSON object a region and way")
    aslr.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    aslr.add_argument("program", help=PROGRAM)
    aslr.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG").required = False


def _add_stack(commands: Commands) -> None:
    stack = commands.add_parser(
        "stack",
        help="draw the stack that a program starts with",
        epilog=STACK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stack.add_argument("--via", choices=("kernel", "reflective"), default="kernel", help="default: kernel")
    stack.add_argument("--json", action="store_true", help="one JSON object an item")
    stack.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    stack.add_argument("program", help=PROGRAM)
    stack.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG").required = False


def _add_maps(commands: Commands) -> None:
    phases = ("loader", "interpreter", "entry", "main", "exit")  # trace/session.py; not imported for --help
    maps = commands.add_parser(
        "maps",
        help="explain an address space",
        epilog=MAPS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    maps.add_argument("--at", metavar="PHASE", choices=phases, help="where to stop the program (default: entry)")
    maps.add_argument("--diff", metavar="PHASE", choices=phases, help="show what changes from there to a later phase")
    maps.add_argument("--shared", metavar="PID", type=_process, help="count the page frames that process PID has as well")
    maps.add_argument("--via", choices=("kernel", "reflective"), help="who starts the program (default: kernel)")
    maps.add_argument("--json", action="store_true", help="one JSON object a mapping")
    maps.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    maps.add_argument("program", help=PROGRAM)
    maps.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG").required = False


def _add_addr(commands: Commands) -> None:
    addr = commands.add_parser(
        "addr",
        help="explain an address",
        epilog=ADDR_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    addr.add_argument("--json", action="store_true", help="one JSON object an address")
    addr.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    addr.add_argument("pid", metavar="PID", type=_process, help="the process whose addresses they are")
    addr.add_argument("addresses", nargs="+", metavar="ADDRESS", help="a number, OBJECT+OFFSET or [OBJECT:]SYMBOL[+OFFSET]")


def _add_conform(commands: Commands) -> None:
    conform = commands.add_parser(
        "conform",
        help="hold a loader against the kernel",
        epilog=CONFORM_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    conform.add_argument("--loader", metavar="COMMAND", help="with {} for the program (default: reflective's own)")
    conform.add_argument("--no-aslr", action="store_true", help="with fixed addresses, which are then compared as they are")
    conform.add_argument("--json", action="store_true", help="one JSON object a start, then the total")
    conform.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")


# Subcommands with a module of that name, whose show() does it.
SHOWN = ("addr", "aslr", "bench", "conform", "got-watch", "maps", "plan", "stack", "trace")


def dispatch(words: list[str]) -> int:
    """Parses the command line and runs the subcommand; returns its exit status."""
    args = build_parser().parse_args(words)
    if args.command in SHOWN:
        return int(import_module(f".{args.command.replace('-', '_')}", __package__).show(args))
    from .exec import execute, settings_from

    if args.arguments[:1] == ["--"] and args.program.startswith("-"):
        args.arguments = args.arguments[1:]
    return execute([args.program, *args.arguments], settings_from(args))
