"""One template process with what it depends on, and its pool of waiting clones."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Sequence

from ..elf import linker
from ..native.faults import Faults
from ..native.prepare import Request
from ..native.template import Files, Gone, Process, Refused, Stale, Start, close, reap
from ..native.template_make import make
from ..proc import maps
from . import key
from .hot import Hot

ROOM = 2048  # bytes that arguments and environment may be longer than those of the start that a template is made for
LOOKED_AT_S = 0.05  # a program that has run so long has started


class Warm:
    """A template that lives, until `end`, and its clones that wait."""

    def __init__(self, process: Process, files: Files, hot: Hot, pool: int) -> None:
        self.process, self.files = process, files
        self._hot: Hot | None = hot
        self._seen: tuple[Faults, float] | None = None  # of a start that was looked at, and when
        self.born = time.monotonic()
        self._pool = pool
        self._waiting: deque[tuple[int, int, int]] = deque()  # pid, slot, our end of the socket
        self._ordered: deque[tuple[int, int]] = deque()  # slot, socket: their pids are not known yet
        process.depend_on(files)
        process.ahead(hot.ahead())
        self.fill()

    def start(self, what: Start) -> int:
        """The pid of the program; raises Gone, Stale, Refused as native.template.Process.start: there is none then."""
        if self._hot and self._look(self._hot):
            return self._looked_at(what)
        while self._waiting or self._ordered:
            if not self._waiting:
                self.collect()
            pid, slot, sock = self._waiting[0]
            try:
                self.process.start(what, (slot, sock))
            except Gone:  # it was killed, which is no reason not to take the next
                self._end_first()
                continue
            except Stale:
                self._waiting.popleft()
                close(sock)
                raise
            self._waiting.popleft()
            close(sock)
            if 2 * (len(self._waiting) + len(self._ordered)) <= self._pool:
                with contextlib.suppress(Gone, Refused):  # this start has been made, the next will find out
                    self.fill()
            return pid
        return self.process.start(what)

    def _look(self, hot: Hot) -> bool:
        """Whether the next start is to be looked at: learns from the last one that was, if it is over."""
        if self._seen:
            faults, since = self._seen
            if not faults.ended and time.monotonic() - since < LOOKED_AT_S:
                return False
            self._seen = None
            own, calls = hot.learn(faults.pages())
            faults.close()
            self.process.advise(own, calls)
            self.process.ahead(hot.ahead())
        if not hot.learning:
            self._hot = None
        return hot.learning

    def _looked_at(self, what: Start) -> int:
        """A start of a clone that is made now, of the template as it is now."""
        self.collect()
        pid, faults = self.process.start_looked_at(what)
        if faults:
            self._seen = faults, time.monotonic()
        else:
            self._hot = None
        return pid

    def _end_first(self) -> None:
        pid, _, sock = self._waiting.popleft()
        close(sock)
        reap(pid, kill=True)

    def fill(self) -> None:
        """Orders clones until there are as many as wanted. They come while the caller goes on."""
        while len(self._waiting) + len(self._ordered) < self._pool:
            self._ordered.append(self.process.order())

    def collect(self) -> None:
        """Takes the pids of all that were ordered."""
        while self._ordered:
            slot, sock = self._ordered.popleft()
            try:
                self._waiting.append((self.process.ordered(slot), slot, sock))
            except BaseException:
                close(sock)
                raise

    def end(self) -> None:
        """Ends the template and the clones that wait, and reaps them."""
        self._close_seen()
        while self._ordered:
            with contextlib.suppress(Gone, Refused):
                self.collect()
        self.process.end()
        while self._waiting:
            self._end_first()

    def forget(self) -> None:
        """In a child made by fork: they are not its own."""
        self._close_seen()
        for sock in (*(sock for _, sock in self._ordered), *(sock for _, _, sock in self._waiting)):
            close(sock)
        self.process.forget()

    def _close_seen(self) -> None:
        if self._seen:
            self._seen[0].close()
            self._seen = None


def warm(request: Request, strings: Sequence[bytes], size: int, pool: int) -> Warm:
    """A template for starts like this one: `strings` are what ld.so reads of the environment, `size` what all strings take.

    Raises Gone if there can be none, LoadError if the program can't be started either.
    """
    plan = request.plan
    known = linker.linker(plan.interpreter) if plan.interpreter else None
    if known is None:
        raise Gone("its dynamic linker is not known" if plan.interpreter else "it has no dynamic linker")
    before = key.files(key.files_of(plan, strings, ()))
    process = make(request.replace(argv=(b"",) * bool(not plan.prefix), envp=tuple(strings)), known, size + ROOM)
    try:
        space = maps.read(process.pid)
        if not key.same(before):
            raise Gone("changed while it was made")
        files = key.files(key.files_of(plan, strings, _loaded(space)))
        program = [one for one in space if one.end <= process.made.stack_top]
        return Warm(process, files, Hot(process.pid, program), pool)
    except BaseException:
        process.end()
        raise


def _loaded(space: tuple[maps.Mapping, ...]) -> list[str]:
    """The files that are mapped. Raises Gone if one has been replaced meanwhile."""
    found = {one.path: (one.device, one.inode) for one in space if one.file and not one.shared}
    for path, identity in found.items():
        try:
            status = os.stat(path)
        except OSError:
            raise Gone(f"{path} is gone") from None
        if (status.st_dev, status.st_ino) != identity:
            raise Gone(f"{path} is another file now")
    return list(found)
