"""`got-watch`: every symbol that the dynamic linker binds, live; or, by other options, what the slots are now."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TextIO

from ..errors import LoadError, ReflectiveError, said
from ..native.run import leave_as
from .ending import heeded
from .exec import complain, initial_environment, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..observe.got.events import Event
    from ..observe.got.redirect import Name
    from ..observe.got.session import Session, Watch
    from ..observe.got.uprobe import UprobeWatch
    from ..views import got_live

FAILED, USAGE, HIJACKED = 1, 2, 3
INSTEAD = (("list", "got_list", "show_list"), ("redirect", "got_redirect", "redirect"), ("verify", "got_verify", "verify"))


def show(args: argparse.Namespace) -> int:
    """Watches, and returns the program's status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to detach from, it just ends this process
    if args.arguments[:1] == ["--"] and args.program and args.program.startswith("-"):
        args.arguments = args.arguments[1:]
    if bool(args.program) == (args.pid is not None):
        return _fail("a program or -p PID, one of them (see got-watch --help)", USAGE)
    if args.live and (args.json or args.summary):
        return _fail("--live is a picture on a terminal: without --json and --summary", USAGE)
    wrong = _unguardable(args)
    if wrong:
        return _fail(wrong, USAGE)
    try:
        for option, module, function in INSTEAD:
            if getattr(args, option):
                return int(getattr(import_module(f".{module}", __package__), function)(args))
        with _output(args) as file:
            if args.live and not file.isatty():
                return _fail("--live needs a terminal, and the output is none: -o /dev/pts/N, or leave it out", USAGE)
            return _watch(args, file)
    except (ReflectiveError, ValueError, OSError) as error:
        return _fail(said(error), status_of(error) if isinstance(error, LoadError) else FAILED)


def _unguardable(args: argparse.Namespace) -> str:
    """Why the slots can't be guarded as asked for; "" if they can."""
    if (args.guard or args.writer) and args.engine == "uprobe":
        return "--guard and --writer need stops: not with --engine=uprobe"
    if args.writer and args.pid is not None:
        return "--writer runs a program again: a process that runs already can't be; --guard SYMBOL watches its slot"
    return ""


def _watch(args: argparse.Namespace, file: TextIO) -> int:
    from ..observe.got.events import Write
    from ..observe.got.redirect import name
    from .got_again import again, input_position

    gc.disable()  # nothing here is circular, and every event would count towards the next collection
    start = input_position() if args.writer else None
    guards = [name(one) for one in args.guard]
    interrupts: list[int] = []
    failed, hijacks, shown = None, list[Write](), _Shown(args, file)
    with heeded(interrupts.append):
        watch = _started(args, guards, interrupts)
        try:
            for events in watch.batches():
                hijacks += [one for one in events if isinstance(one, Write)]
                shown.add(events)
            if args.writer and any(one.writer is None for one in hijacks) and not interrupts:
                for events in again(hijacks, start, lambda slots: _started(args, slots, interrupts), interrupts):
                    shown.add(events)
            shown.end()
        except OSError as error:  # nobody reads, or there is no more room: the program goes on
            with suppress(OSError):  # there may be no descriptor at all
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            watch.close()
            failed = error
    status = _leave(watch.status, interrupts, watch.pid if args.program else 0)
    if failed and not isinstance(failed, BrokenPipeError):
        return _fail(f"the events can't be written: {failed.strerror}", FAILED)
    return HIJACKED if hijacks and args.fail_on_hijack else status


class _Shown:
    """Where events go: a table in place, counts, or lines."""

    def __init__(self, args: argparse.Namespace, file: TextIO) -> None:
        from ..views import got

        self._args, self._file, self._tally = args, file, got.Tally()
        self._lines = got.Lines(args.color == "always" or (args.color == "auto" and file.isatty()))
        self._matches, self._json_line, self._facts = got.matches, got.json_line, got.facts
        self._screen: got_live.Screen | None = None

    def add(self, events: list[Event]) -> None:
        """Those that are wanted."""
        args, file = self._args, self._file
        selection = args.symbol, args.object, args.how
        wanted = [one for one in events if self._matches(one, *selection)] if any(selection) else events
        if args.live:
            if self._screen is None:  # not before: closing ends only a watch that has begun
                from ..views.got_live import Screen

                self._screen = Screen(file, args.color, self._lines)
            self._screen.show(events, wanted)
        elif args.summary:
            self._tally.add(wanted)
        else:
            file.write("".join(map(self._json_line if args.json else self._lines.line, wanted)))
            file.flush()

    def end(self) -> None:
        """What comes last."""
        from ..views import text

        if self._screen:
            self._screen.close()
        elif self._args.summary and self._args.json:
            self._file.write(json.dumps(self._facts(self._tally)) + "\n")
        elif self._args.summary:
            text.write(self._tally.table(), self._args.color, self._file)
        elif not self._args.json:
            self._file.write(self._lines.legend())
        self._file.flush()


def _started(args: argparse.Namespace, guards: Sequence[Name], interrupts: list[int]) -> Watch | UprobeWatch:
    from ..observe.got.session import Watch
    from ..observe.got.uprobe import UprobeWatch

    environ = dict(item.split(b"=", 1) for item in initial_environment() if b"=" in item)
    words = [args.program, *args.arguments] if args.program else []
    watch: Watch | UprobeWatch
    if args.engine == "uprobe":
        watch = UprobeWatch(words, args.pid or 0, environ)
    else:
        pin = not args.no_pin
        watch = Watch(words, args.pid or 0, pin, environ, _session(args.engine), guards=guards, fixed=args.writer)
    watch.interrupted = lambda: bool(interrupts)
    return watch


def _session(engine: str) -> Callable[[Sequence[int], int, bool], Session]:
    if engine == "python":
        from ..trace.got import Session as Python  # python-ptrace, and with it ctypes, are slow to import

        return Python
    from ..native.got import Session as C

    return C


@contextmanager
def _output(args: argparse.Namespace) -> Iterator[TextIO]:
    if args.output:
        with open(args.output, "w", errors="surrogateescape") as file:
            yield file
    else:
        yield sys.stdout if args.json else sys.stderr


def _leave(status: int | None, interrupts: list[int], child: int) -> int:
    """The program's status. One that we started and let go is waited for: an interrupt was meant for it, too."""
    if status is None and child:
        if interrupts:
            os.kill(child, interrupts[0])
            os.kill(child, signal.SIGCONT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _, status = os.waitpid(child, 0)
    if status is None and interrupts and interrupts[0] != signal.SIGINT:  # ^C is how the watch of what runs on is ended
        return leave_as(interrupts[0])
    return 0 if status is None else leave_as(status)


def _fail(message: str, status: int) -> int:
    complain(message)
    return status
