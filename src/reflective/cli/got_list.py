"""`reflective got-watch --list`: every slot of a process now, or of a program at a phase of its start."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import SessionError
from ..observe.got.listing import Listing, addresses, listing, targets
from ..plan.build import search
from ..plan.stack import encode
from ..proc import loaded, maps
from ..proc.memory import Memory
from .exec import initial_environment


def show_list(args: argparse.Namespace) -> int:
    """Prints the slots; returns the exit status.

    Reads of `args`: pid, or program, arguments, at, via; symbol, object (patterns), json, color. Raises ReflectiveError.
    """
    with watched(args) as (pid, head, facts):
        found = look(pid).only(patterns(args, "symbol"), patterns(args, "object"))
    if args.json:
        from ..views import got_list_json

        print("\n".join(got_list_json.lines(found, facts)))
        return 0
    from ..views import got_list, text

    text.write(got_list.listing(found, head), args.color)
    return 0


def look(pid: int) -> Listing:
    """All slots of a process, which runs on meanwhile. Raises SessionError if it is not there, or not ours to look at."""
    space = maps.read(pid)
    there = loaded.read(pid, space)
    with Memory(pid) as memory:
        words = memory.words(addresses(there))
    return listing(there, words, space, loaded.tables(pid, space, targets(there, words)))


@contextmanager
def watched(args: argparse.Namespace) -> Iterator[tuple[int, str, dict[str, int | str]]]:
    """A running process, or a program stopped at a phase, which is killed afterwards: its pid, and what to call it."""
    pid = getattr(args, "pid", None)
    if pid is not None:
        yield pid, f"process {pid}", {"pid": pid}
        return
    from ..trace.session import MAIN, Session
    from ..trace.starts import KERNEL, Program

    if not args.program:
        raise SessionError("which program, or which process (-p PID)?")
    phase, via = getattr(args, "at", None) or MAIN, getattr(args, "via", None) or KERNEL
    words = [args.program, *args.arguments]
    program = Program(search(args.program, os.get_exec_path()), tuple(encode(word) for word in words), initial_environment())
    with Session(program, via) as session:
        session.run_to(phase)
        yield session.pid, f"{args.program} at {phase}", {"program": args.program, "at": phase, "pid": session.pid}


def patterns(args: argparse.Namespace, name: str) -> Sequence[str]:
    """An option that may be missing, given once, or given many times."""
    value = getattr(args, name, None) or ()
    return (value,) if isinstance(value, str) else tuple(value)
