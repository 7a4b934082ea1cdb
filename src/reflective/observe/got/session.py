"""A watched program, or processes that ran already: a session of the C core, driven to its end."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Protocol

from ...errors import SessionError
from ...native import got as native
from ...plan.kernel import find
from ...proc.attach import refusal, tasks
from .callers import Callers
from .engine import Engine
from .events import Event
from .redirect import Name


class Session(Protocol):
    """What carries out the watching: native.got.Session in C, trace.got.Session in Python."""

    def batches(self, interrupted: Callable[[], bool]) -> Iterator[bytes]:
        """Records as they come; a question is the last of its batch."""

    def answer(self, changes: Sequence[native.Change]) -> None:
        """Lets the task that asked go on, when the changes have been made."""

    def finish(self) -> int | None:
        """The leader's wait status, None if it lives. OSError, `filename` the task that refused."""


class Watch:
    """Iterating over it gives the events, as they come. `status` is the program's wait status at the end, None if it lives."""

    def __init__(
        self, command: Sequence[str] = (), pid: int = 0, pin: bool = True, environ: Mapping[bytes, bytes] | None = None,
        session: Callable[[Sequence[int], int, bool], Session] = native.Session, guards: Sequence[Name] = (),
        fixed: bool = False,
    ) -> None:  # fmt: skip
        """Starts a program (`fixed`: without address randomization), or attaches to a process.

        `guards` are slots whose writers are to be known, the first four. Raises LoadError if there is no such program,
        SessionError.
        """
        gate = -1
        if command:
            path, refused = find(command[0])
            variables = os.environb if environ is None else environ
            self.pid, gate = native.gated(path, command, variables, fixed, str(refused or ""))
            tids = [self.pid]
        else:
            self.pid = pid
            tids = tasks([pid], follow=True)
        self.status: int | None = None
        self._attached = not command
        try:
            self._session = session(tids, gate, pin)
            self._engine, self._callers = Engine(guards), Callers()
            self._batches = self._run()
        finally:
            self._gate = gate
        self.interrupted: Callable[[], bool] = lambda: False

    def __iter__(self) -> Iterator[Event]:
        for events in self._batches:
            yield from events

    def batches(self) -> Iterator[list[Event]]:
        """The events, as many at once as came together."""
        return self._batches

    def close(self) -> None:
        """Detaches, before the end. A generator that has not begun would not run its `finally`."""
        if inspect.getgeneratorstate(self._batches) == inspect.GEN_CREATED:
            self._end()
        self._batches.close()

    def _run(self) -> Generator[list[Event], None, None]:
        try:
            for batch in self._session.batches(lambda: self.interrupted()):
                events = list(self._engine.batch(batch))
                self._answer()
                yield self._callers.fill(events, self._engine.processes)
        finally:
            self._end()

    def _answer(self) -> None:
        if self._engine.answer is not None:
            self._session.answer(self._engine.answer)
            self._engine.answer = None

    def _end(self) -> None:
        """Detaches if the end was not reached: whoever iterates may have had enough."""
        self._answer()
        for batch in self._session.batches(lambda: True):
            for _ in self._engine.batch(batch):
                pass
            self._answer()
        if self._gate >= 0:
            os.close(self._gate)
        try:
            self.status = self._session.finish()
        except OSError as error:
            raise SessionError(refusal(self.pid, error, "got-watch")) from None
