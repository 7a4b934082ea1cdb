"""`got-watch`: every symbol that the dynamic linker binds, live; or, by other options, what the slots are now."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from ..errors import LoadError, ReflectiveError
from ..native.run import leave_as
from .exec import initial_environment, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..observe.got.session import Session, Watch
    from ..observe.got.uprobe import UprobeWatch
    from ..views import got, got_live

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
    try:
        for option, module, function in INSTEAD:
            if getattr(args, option):
                return int(getattr(import_module(f".{module}", __package__), function)(args))
        with _output(args) as file:
            if args.live and not file.isatty():
                return _fail("--live needs a terminal, and the output is none: -o /dev/pts/N, or leave it out", USAGE)
            return _watch(args, file)
    except (ReflectiveError, ValueError, OSError) as error:
        return _fail(str(error), status_of(error) if isinstance(error, LoadError) else FAILED)


def _watch(args: argparse.Namespace, file: TextIO) -> int:
    from ..views import got

    gc.disable()  # nothing here is circular, and every event would count towards the next collection
    interrupts: list[int] = []
    handlers = {
        number: signal.signal(number, lambda at, _: interrupts.append(at)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    tally, lines = got.Tally(), got.Lines(args.color == "always" or (args.color == "auto" and file.isatty()))
    hijacks, failed, selection = 0, None, (args.symbol, args.object, args.how)
    watch = _started(args)
    watch.interrupted = lambda: bool(interrupts)
    try:
        screen = None
        for events in watch.batches():
            if args.live and not screen:  # not before: close() below ends only a watch that has begun
                screen = _screen(args, file, lines)
            hijacks += got.hijacks(events)
            wanted = [one for one in events if got.matches(one, *selection)] if any(selection) else events
            if screen:
                screen.show(events, wanted)
            elif args.summary:
                tally.add(wanted)
            else:
                file.write("".join(map(got.json_line if args.json else lines.line, wanted)))
                file.flush()
        if screen:
            screen.close()
        else:
            _conclude(args, file, tally, lines)
    except OSError as error:  # nobody reads, or there is no more room: the program goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        watch.close()
        failed = error
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)
    status = _leave(watch.status, interrupts, watch.pid if args.program else 0)
    if failed and not isinstance(failed, BrokenPipeError):
        return _fail(f"the events can't be written: {failed.strerror}", FAILED)
    return HIJACKED if hijacks and args.fail_on_hijack else status


def _screen(args: argparse.Namespace, file: TextIO, lines: got.Lines) -> got_live.Screen:
    from ..views import got_live

    return got_live.Screen(file, args.color, lines)


def _started(args: argparse.Namespace) -> Watch | UprobeWatch:
    from ..observe.got.session import Watch
    from ..observe.got.uprobe import UprobeWatch

    environ = dict(item.split(b"=", 1) for item in initial_environment() if b"=" in item)
    words = [args.program, *args.arguments] if args.program else []
    if args.engine == "uprobe":
        return UprobeWatch(words, args.pid or 0, environ)
    return Watch(words, args.pid or 0, not args.no_pin, environ, _session(args.engine))


def _session(engine: str) -> Callable[[Sequence[int], int, bool], Session]:
    if engine == "python":
        from ..trace.got import Session as Python  # python-ptrace, and with it ctypes, are slow to import

        return Python
    from ..native.got import Session as C

    return C


def _conclude(args: argparse.Namespace, file: TextIO, tally: got.Tally, lines: got.Lines) -> None:
    from ..views import got, text

    if args.summary and args.json:
        file.write(json.dumps(got.facts(tally)) + "\n")
    elif args.summary:
        text.write(tally.table(), args.color, file)
    elif not args.json:
        file.write(lines.legend())
    file.flush()


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
    return 0 if status is None else leave_as(status)


def _fail(message: str, status: int) -> int:
    print(f"reflective: {message}", file=sys.stderr)
    return status
