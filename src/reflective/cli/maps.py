"""`reflective maps`: the address space of a process, or of a program at a phase of its start."""

from __future__ import annotations

import argparse
import os

from ..errors import LoadError, ReflectiveError, SessionError
from ..observe.sharing import Pages, Shared, count, pairs, shared
from ..observe.space import Change, Line, changes, lines
from ..plan.build import search
from ..plan.stack import encode
from ..proc import maps, objects, pages, smaps
from ..views import json
from .exec import complain, initial_environment, status_of

FAILED, USAGE = 1, 2
CHUNK = 64 << 20  # bytes of address space whose pages are read at once


def show(args: argparse.Namespace) -> int:
    """Prints the address space, what changed in it, or what of it another process shares; returns the exit status."""
    words = [args.program, *args.arguments]
    started = args.at is not None or args.diff is not None or args.via is not None
    if args.shared is not None and args.diff:
        return _fail("--shared and --diff answer different questions: give one of them", USAGE)
    try:
        if args.shared is not None:
            pages.check_frames()
        if started or not args.program.isdecimal():
            return _program(args, words)
        if args.arguments:
            return _fail("a process ID stands alone; for a program use --at PHASE -- PROGRAM", USAGE)
        pid = int(args.program)
        return _show(args, pid, f"process {pid}", {"pid": pid})
    except LoadError as error:
        if error.hint.startswith("32-bit"):
            error.hint = "a 32-bit program: start it yourself, and give maps its process ID"
        return _fail(str(error), status_of(error))
    except (ReflectiveError, ValueError) as error:
        return _fail(str(error), FAILED)


def look(pid: int) -> tuple[Line, ...]:
    """The address space of a process, explained."""
    space = smaps.read(pid)
    mappings = maps.check_space(pid, tuple(used.mapping for used in space))
    return lines(space, objects.images(pid, mappings))


def compare(pid: int, other: int) -> tuple[Shared, ...]:
    """The address space of a process, and which of its page frames another process has as well. Raises SessionError."""
    if pid == other:
        raise SessionError(f"process {pid} shares everything with itself: --shared takes another process")
    first, second = look(pid), look(other)
    return shared(first, [(pair, _frames(pid, pair.here, other, pair.there, pair.size)) for pair in pairs(first, second)])


def _frames(pid: int, here: int, other: int, there: int, size: int) -> Pages:
    found = Pages()
    for at in range(0, size, CHUNK):
        part = min(CHUNK, size - at)
        found += count(pages.entries(pid, here + at, here + at + part), pages.entries(other, there + at, there + at + part))
    return found


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
        head, facts = f"{args.program} at {at}, via {via}", {"program": args.program, "at": at, "via": via}
        if not args.diff:
            return _show(args, session.pid, head, facts)
        before = look(session.pid)
        session.run_to(args.diff)
        found = changes(before, look(session.pid))
    return _show_changes(args, found, f"{args.program}: from {at} to {args.diff}, via {via}", {**facts, "diff": args.diff})


def _show(args: argparse.Namespace, pid: int, head: str, facts: dict[str, int | str]) -> int:
    if args.shared is not None:
        return _show_shared(args, compare(pid, args.shared), head, facts)
    found = look(pid)
    if args.json:
        print("\n".join(json.maps(facts, found)))
        return 0
    from ..views import maps as view
    from ..views import text

    text.write(view.space(found, head), args.color)
    return 0


def _show_shared(args: argparse.Namespace, found: tuple[Shared, ...], head: str, facts: dict[str, int | str]) -> int:
    if args.json:
        print("\n".join(json.map_sharing({**facts, "with": args.shared}, found)))
        return 0
    from ..views import maps as view
    from ..views import text

    text.write(view.sharing(found, f"{head} with process {args.shared}"), args.color)
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
    complain(message)
    return status
