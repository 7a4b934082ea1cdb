"""`reflective trace`: every system call of a program, in strace's format or as JSON."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from ..errors import UNWRITABLE, LoadError, SessionError, said
from ..native import tracer
from ..native.run import above_stdio, attend, block_signals, leave_as
from ..native.tracer import Request, Session
from ..plan.build import search
from ..proc import attach
from ..trace.reader import Reader, copies, with_paths, with_stacks
from ..trace.start import gated
from ..trace.syscalls import NUMBERS
from ..views import trace as view
from .ending import heeded
from .exec import complain, initial_environment, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..trace import engine

NAME = "reflective trace"
STATE = ("mmap", "munmap", "execve")  # recorded even if not selected: they say whose code makes a call


def show(args: argparse.Namespace) -> int:
    """Traces, and returns the program's status."""
    if bool(args.program) == bool(args.pid):
        complain("a program or -p PID, one of them (see reflective trace --help)", name=NAME)
        return 2
    if args.perfetto and (args.json or args.count or args.output or args.explain):
        complain("--perfetto FILE is an output of its own: without --json, -c, -o, --explain", name=NAME)
        return 2
    gate = -1
    try:
        with _output(args) as file:
            if args.program:
                pid, gate = gated([args.program, *args.arguments], initial_environment(), args.via == "reflective")
                tids = [pid]
            else:
                tids = attach.tasks(args.pid, args.follow)
                _warn(args.pid)
            status, number = _trace(args, _request(args, tids, gate), file)
    except (SessionError, ValueError, OSError) as error:
        return _refused(error, args)
    finally:
        if gate >= 0:
            os.close(gate)
    return _leave(status, number, tids[0] if args.program else 0)


def _request(args: argparse.Namespace, tids: list[int], gate: int) -> Request:
    told = bool(args.json or args.perfetto or args.stack) and not args.count
    wanted = args.expression
    if wanted is not None and told:
        wanted |= {NUMBERS[name] for name in STATE}
    table = {} if args.count else copies(told)
    if args.explain:
        from ..trace.explain import reader as explaining

        wanted, table = wanted and wanted | explaining.NEEDED, explaining.copies()
    table = with_paths(table) if args.paths and table else table
    table = with_stacks(table) if args.stack and table else table
    until = tracer.UNHIDDEN if gate < 0 else tracer.UNTIL_EXECVE if args.via == "kernel" else tracer.UNTIL_ANONYMOUS
    return Request(
        tuple(tids), tids[0], table, wanted, string_limit=args.strings, gate=gate, needed=len(args.pid) or 1,
        follow=args.follow, pin=not args.no_pin, phases=told or args.explain or until == tracer.UNTIL_ANONYMOUS, until=until,
        waiting=not (args.json or args.perfetto or args.count or args.explain),
    )  # fmt: skip


def _trace(args: argparse.Namespace, request: Request, file: TextIO) -> tuple[int | None, int]:
    """The leader's wait status, and the signal that was to end the trace, or 0."""
    gc.disable()  # nothing here is circular, and every line would count towards the next collection
    interrupts: list[int] = []
    with heeded(interrupts.append):
        status = _written(args, request, file, interrupts)
    return status, interrupts[0] if interrupts else 0


def _written(args: argparse.Namespace, request: Request, file: TextIO, interrupts: list[int]) -> int | None:
    reader = _explainer(args) if args.explain else Reader(args.strings, args.expression)
    reader.paths, reader.stacks = args.paths, args.stack
    text, end = _writer(args, request, reader)
    unwritten: OSError | None = None
    session = _engine(args.engine)(request)
    try:
        for batch in session.batches(lambda: bool(interrupts)):
            file.write(text(batch))
            file.flush()
    except BrokenPipeError:
        interrupts.append(signal.SIGPIPE)
    except OSError as error:  # no room: the program goes on, as under strace
        unwritten = error
    finally:
        for _ in session.batches(lambda: True):
            pass
        status = session.finish()
    if unwritten:
        if request.gate >= 0 and status is None:
            block_signals()  # for good: this process ends with it
            attend(request.leader)
        raise unwritten
    file.write(end())
    return status


def _writer(args: argparse.Namespace, request: Request, reader: Reader) -> tuple[Callable[[bytes], str], Callable[[], str]]:
    """What to write for each batch of records, and at the end."""
    if args.count:
        summary = view.json_summary if args.json else view.summary
        return reader.tally, lambda: summary(reader.totals())
    if args.perfetto:
        from ..views.perfetto import Perfetto

        drawing = Perfetto()
        return lambda batch: drawing.lines(reader.events(batch)), drawing.end
    lines = view.Json() if args.json else _text(args, request)
    return lambda batch: reader.lines(batch, lines), str


def _text(args: argparse.Namespace, request: Request) -> view.Text:
    if args.output:
        return view.Text(args.follow)
    others = len(request.tids) - len(args.pid)
    return view.Text(known=dict.fromkeys(request.tids, 0) | {pid: 1 + others // len(args.pid) for pid in args.pid})


def _engine(name: str) -> type[Session] | type[engine.Session]:
    if name == "c":
        return Session
    from ..trace import engine  # python-ptrace, and with it ctypes, are slow to import

    return engine.Session


def _explainer(args: argparse.Namespace) -> Reader:
    from ..trace.explain.reader import Explainer

    plan = search(args.program, os.get_exec_path(), in_place=True) if args.program and args.via == "reflective" else None
    return Explainer(args.strings, args.expression, plan)


@contextmanager
def _output(args: argparse.Namespace) -> Iterator[TextIO]:
    if args.output or args.perfetto:
        with open(args.output or args.perfetto, "w", errors="surrogateescape", opener=_above_stdio) as file:
            yield file
    elif args.json or sys.stderr is not None:
        yield sys.stdout if args.json else sys.stderr
    else:  # closed: there is nobody to tell
        with open(os.devnull, "w", opener=_above_stdio) as file:
            yield file


def _above_stdio(path: str, flags: int) -> int:
    """Where standard error is closed the file must not take its place: the program would write there."""
    return above_stdio(os.open(path, flags, 0o666))


def _warn(pids: list[int]) -> None:
    for pid in pids:
        if attach.bits(pid) == 32:
            complain(f"process {pid} runs a 32-bit program: its calls are shown by number; strace -p {pid} names them")


def _refused(error: Exception, args: argparse.Namespace) -> int:
    if args.pid and isinstance(error, OSError) and isinstance(error.filename, int):
        complain(attach.refusal(error.filename, error))
    elif isinstance(error, OSError) and error.errno in UNWRITABLE and (args.output or args.perfetto):
        complain(f"{args.output or args.perfetto}: {error.strerror}")
    else:
        complain(said(error))
    return status_of(error) if isinstance(error, LoadError) else 1


def _leave(status: int | None, number: int, child: int) -> int:
    if status is not None:
        return leave_as(status)
    if child:  # strace does the same: ^C is meant for the program
        os.kill(child, number or signal.SIGTERM)
        os.kill(child, signal.SIGCONT)
    elif number in (0, signal.SIGINT):  # ^C is how the trace of a process that runs on is ended
        return 0
    return leave_as(number)  # a wait status
