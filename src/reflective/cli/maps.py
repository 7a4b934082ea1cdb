"""`reflective maps`: the address space of a process, or of a program at a phase of its start."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import LoadError, ReflectiveError
from ..observe.space import Change, Line, changes, lines
from ..plan.build import search
from ..plan.stack import encode
from ..proc import objects, smaps
from ..views import json
from .exec import initial_environment, status_of

FAILED, USAGE = 1, 2


def show(args: argparse.Namespace) -> int:
    """Prints the address space, or what changed in it; returns the exit status."""
    words = [args.program, *args.arguments]
    started = args.at is not None or args.diff is not None or args.via is not None
    try:
        if started or not args.program.isdecimal():
            return _program(args, words)
        if args.arguments:
            return _fail("a process ID stands alone; for a program use --at PHASE -- PROGRAM", USAGE)
        pid = int(args.program)
        return _show(args, look(pid), f"process {pid}", {"pid": pid})
    except (ReflectiveError, ValueError) as error:
        return _fail(str(error), status_of(error) if isinstance(error, LoadError) else FAILED)


def look(pid: int) -> tuple[Line, ...]:
    """The address space of a process, explained."""
    space = smaps.read(pid)
    return lines(space, objects.images(pid, tuple(used.mapping for used in space)))


def _program(args: argparse.Namespace, words: list[str]) -> int:
    from ..trace.session import ENTRY, PHASES, Session
    from ..trace.starts import KERNEL, Program

    at, via = args.at or ENTRY, args.via or KERNEL
    if args.diff and PHASES.index(args.diff) <= PHASES.index(at):
        return _fail(f"--diff {args.diff} does not come after --at {at}", USAGE)
    plan = search(args.program, os.get_exec_path())
    program = Program(plan, tuple(encode(word) for word in words), initial_environment())
    with Session(program, via) as session:
        session.run_to(at)
        before = look(session.pid)
        head, facts = f"{args.program} at {at}, via {via}", {"program": args.program, "at": at, "via": via}
        if not args.diff:
            return _show(args, before, head, facts)
        session.run_to(args.diff)
        found = changes(before, look(session.pid))
    return _show_changes(args, found, f"{args.program}: from {at} to {args.diff}, via {via}", {**facts, "diff": args.diff})


def _show(args: argparse.Namespace, found: tuple[Line, ...], head: str, facts: dict[str, int | str]) -> int:
    if args.json:
        print("\n".join(json.maps(facts, found)))
        return 0
    from ..views import maps as view
    from ..views import text

    text.write(view.space(found, head), args.color)
    return 0


def _show_changes(args: argparse.Namespace, found: tuple[Change, ...], head: str, facts: dict[str, int | str]) -> int:
    if args.json:
        print("\n".join(json.map_changes(facts, found)))
        return 0
    from ..views import maps as view
    from ..views import text

    text.write(view.difference(found, head), args.color)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"reflective: {message}", file=sys.stderr)
    return status
