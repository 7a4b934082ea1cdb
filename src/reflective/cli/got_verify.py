"""`reflective got-watch --verify SYMBOL`: who writes one slot of a program, to the very instruction."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

from ..errors import SessionError
from ..native.run import leave_as
from ..observe.got.listing import Entry, View, addresses, listing
from ..observe.got.redirect import Name, name
from ..observe.got.verify import LAZY, WRITE, Written, caller, choose, how, instruction, linker_of, on_stack
from ..plan.build import search
from ..plan.stack import AT_BASE, AT_ENTRY, encode, parse_auxv
from ..proc import loaded, maps
from ..proc.memory import Memory
from ..trace.session import ENTRY, INTERPRETER, LOADER, MAIN, Session
from ..trace.starts import KERNEL, Program
from ..trace.watchpoint import Watchpoint, Write
from .ending import heeded
from .exec import initial_environment
from .got_redirect import program_of


def verify(args: argparse.Namespace) -> int:
    """Runs the program and tells of every write to the slot; its exit status.

    Reads of `args`: verify (a symbol), program, arguments, at, via, json. Raises ReflectiveError, or ValueError for what is no
    symbol. Words go to stderr, JSON to stdout.
    """
    if getattr(args, "pid", None) is not None:
        raise SessionError("--verify needs a program that it starts: reflective got-watch --verify SYMBOL -- PROGRAM")
    from ..views import got_verify as view

    wanted, plan = name(args.verify), search(args.program, os.get_exec_path())
    words = (args.program, *args.arguments)
    program = Program(plan, tuple(encode(word) for word in words), initial_environment())
    with Session(program, getattr(args, "via", None) or KERNEL) as session:
        session.run_to(getattr(args, "at", None) or (INTERPRETER if plan.interpreter else ENTRY))
        entry, others = _slot(session, wanted, bool(getattr(args, "at", None)))
        vector = dict(parse_auxv(maps.content(session.pid, "auxv")))
        started = session.phase not in (LOADER, INTERPRETER)
        watch = Watchpoint(session.hand_over(), entry.address, vector[AT_ENTRY], started=started)
        if not args.json:
            _say(view.head(entry, others))
        with heeded(partial(os.kill, watch.pid)):  # meant for the program, which may go on
            for write in watch:
                event = _written(watch.pid, entry, write, vector.get(AT_BASE, 0))
                if args.json:
                    print(view.json_line(event, watch.pid), flush=True)
                else:
                    _say(view.lines(event))
    if not args.json:
        _say(view.end(entry, watch.count, watch.gone))
    if watch.last != watch.seen and not watch.gone:
        if args.json:
            print(view.unseen_json(entry, watch.pid, watch.seen, watch.last), flush=True)
        else:
            _say(view.unseen(watch.seen, watch.last))
    return leave_as(watch.status)


def _slot(session: Session, wanted: Name, exactly: bool) -> tuple[Entry, int]:
    """The program's slot is known at once; a library's when the library is loaded, which is at main at the latest."""
    while True:
        space = maps.read(session.pid)
        there = loaded.read(session.pid, space)
        with Memory(session.pid) as memory:
            words = memory.words(addresses(there))
        try:
            return choose(wanted, listing(there, words, space, {}), program_of(session.pid, there))
        except SessionError:
            if exactly or session.phase == MAIN or not wanted.object:
                raise
            session.run_to(MAIN)


def _written(pid: int, entry: Entry, write: Write, base: int) -> Written:
    """What there is to say of a write, while the thread that made it stands still."""
    space = maps.read(pid)
    there = loaded.read(pid, space)
    view = View(there, space, loaded.tables(pid, space, there))
    with Memory(pid) as memory:
        found = instruction(view, memory.read, write.next)
        place = view.target(found.address or write.next)
        linker = linker_of(program_of(pid, there), view, base)
        way = how(entry, write.started, write.before, place, linker)
        return Written(
            how=way,
            tid=write.tid,
            t_ns=write.t_ns,
            entry=entry,
            instruction=found,
            place=place,
            before=write.before,
            before_target=view.target(write.before),
            after=write.after,
            after_target=view.target(write.after),
            caller=caller(entry, view, memory.read, write.stack) if way == LAZY else None,
            stack=on_stack(view, memory.read, write.stack) if way == WRITE else (),
        )


def _say(lines: list[str]) -> None:
    if sys.stderr:  # it may be closed
        print("\n".join(lines), file=sys.stderr, flush=True)
