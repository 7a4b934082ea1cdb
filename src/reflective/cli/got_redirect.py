"""`reflective got-watch --redirect`: slots of a process, or of a program before it runs, pointed to another function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..errors import SessionError
from ..native.run import leave_as
from ..observe.got.listing import View, addresses, listing
from ..observe.got.redirect import Change, Request, parse, plan
from ..plan.build import search
from ..plan.stack import AT_ENTRY, encode, parse_auxv
from ..proc import loaded, maps
from ..proc.loaded import Loaded
from ..proc.memory import Memory
from .exec import initial_environment


def redirect(args: argparse.Namespace) -> int:
    """Changes the slots and, for a program, lets it run: its exit status, else 0.

    Reads of `args`: redirect (list of SYMBOL=TARGET), force, pid, or program, arguments, at, via; json, color. Raises
    ReflectiveError, or ValueError for a request that is none; then nothing has been changed.
    """
    from ..trace.held import Held
    from ..trace.session import MAIN, Session
    from ..trace.starts import KERNEL, Program

    requests = [parse(text) for text in args.redirect]
    pid = getattr(args, "pid", None)
    if pid is not None:
        changes = [change for request in requests for change in _plan(pid, request)]
        _refuse(changes, args.force)
        with Held(pid):
            _write(pid, changes)
        _tell(args, pid, changes)
        return 0
    phase, via = getattr(args, "at", None) or MAIN, getattr(args, "via", None) or KERNEL
    words = [args.program, *args.arguments]
    program = Program(search(args.program, os.get_exec_path()), tuple(encode(word) for word in words), initial_environment())
    with Session(program, via) as session:
        session.run_to(phase)
        changes = [change for request in requests for change in _plan(session.pid, request)]
        _refuse(changes, args.force)
        _write(session.pid, changes)
        _tell(args, session.pid, changes)
        status = session.finish()
    return leave_as(status)


def _plan(pid: int, request: Request) -> tuple[Change, ...]:
    space = maps.read(pid)
    there = loaded.read(pid, space)
    with Memory(pid) as memory:
        words = memory.words(addresses(there))
    tables = loaded.tables(pid, space, there)
    return plan(
        request, listing(there, words, space, tables), there, program_of(pid, there), tables, View(there, space, tables)
    )


def program_of(pid: int, there: Sequence[Loaded]) -> Loaded:
    """The loaded file that has the process's entry point. Raises SessionError."""
    entry = dict(parse_auxv(maps.content(pid, "auxv"))).get(AT_ENTRY, 0)
    found = next((one for one in there if one.slots and one.slots.entry + one.bias == entry), None)
    if found is None:
        raise SessionError(f"process {pid}: none of its loaded files has its entry point {entry:#x}")
    return found


def _refuse(changes: Sequence[Change], force: bool) -> None:
    doubts = dict.fromkeys(f"{change.entry.label}: {doubt}" for change in changes for doubt in change.doubts)
    if doubts and not force:
        raise SessionError(f"not redirected: {'; '.join(doubts)} (--force does it nevertheless)")


def _write(pid: int, changes: Sequence[Change]) -> None:
    """All of them, if they all hold what they did when it was decided. Nothing is written otherwise."""
    with Memory(pid, write=True) as memory:
        now = memory.words(change.entry.address for change in changes)
        for change in changes:
            if now.get(change.entry.address) != change.entry.value:
                raise SessionError(f"not redirected: the slot of {change.entry.label} has just changed; try again")
        for change in changes:
            memory.write(change.entry.address, change.after.to_bytes(8, "little"))


def _tell(args: argparse.Namespace, pid: int, changes: Sequence[Change]) -> None:
    """JSON goes to stdout; words too, unless that is the program's."""
    from ..views import got_redirect as view

    with Memory(pid) as memory:
        now = memory.words(change.entry.address for change in changes)
    if args.json:
        print("\n".join(view.json_lines(changes, now, pid)), flush=True)
    else:
        print("\n".join(view.lines(changes, now)), file=sys.stdout if getattr(args, "pid", None) else sys.stderr, flush=True)
