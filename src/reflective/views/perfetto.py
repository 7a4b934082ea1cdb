"""Traces for ui.perfetto.dev and chrome://tracing: the Trace Event Format, its JSON object form.

A thread is a track of calls (complete events, "X"), a process has its phases beside them (nestable asynchronous events, "b"
and "e", which may begin and end inside a call), and what happens at a moment is an instant event ("i"). Times are microseconds
of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..trace.events import (
    CUT,
    ENTERED,
    WAITING,
    Entry,
    Event,
    Exec,
    Exit,
    Jump,
    Main,
    Return,
    Signal,
    Start,
    Stop,
    Syscall,
)
from ..trace.phases import EXIT, INTERPRETER, LOADER, PROGRAM, STARTUP

HEAD, SEPARATOR, TAIL = '{"displayTimeUnit":"ns","traceEvents":[\n', ",\n", "\n]}\n"
AFTER = ((Exec, INTERPRETER), (Jump, INTERPRETER), (Entry, STARTUP), (Main, PROGRAM), (Return, EXIT))


class Perfetto:
    """Turns events into the text of the file, part by part."""

    def __init__(self) -> None:
        self._phases: dict[int, str] = {}
        self._last = 0.0
        self._before = HEAD

    def lines(self, events: Iterable[Event]) -> str:
        """The next part."""
        return self._text(one for event in events for one in self._events(event))

    def end(self) -> str:
        """The last part: phases of processes that are still there end here."""
        rest = self._text(one for pid in list(self._phases) for one in self._phase(pid, self._last, None))
        return rest + (HEAD if self._before is HEAD else "") + TAIL

    def _text(self, objects: Iterable[dict[str, Any]]) -> str:
        out = []
        for one in objects:
            out.append(self._before + json.dumps(one))
            self._before = SEPARATOR
        return "".join(out)

    def _events(self, event: Event) -> list[dict[str, Any]]:
        at = event.t_ns / 1000
        self._last = max(self._last, at)
        if isinstance(event, Syscall):
            return self._call(event, at)
        if isinstance(event, Start):
            first = PROGRAM if event.parent in self._phases else LOADER
            begins = [] if event.pid in self._phases else self._phase(event.pid, at, first)
            return [*begins, _named("thread_name", event.pid, event.tid, str(event.tid))]
        for kind, phase in AFTER:
            if isinstance(event, kind):
                return [*self._phase(event.pid, at, phase), _instant(event, at)]
        ends = self._phase(event.pid, at, None) if isinstance(event, Exit) and event.tid == event.pid else []
        return [*ends, _instant(event, at)]

    def _call(self, call: Syscall, at: float) -> list[dict[str, Any]]:
        if call.part in (ENTERED, CUT, WAITING):  # comes again, whole, when it returns; or never
            return []
        duration = call.dur_ns / 1000
        self._last = max(self._last, at + duration)
        told = {"args": ", ".join(call.args), "result": call.result, "phase": call.phase, "object": call.object}
        known = {"ph": "X", "cat": "syscall", "name": call.name, "pid": call.pid, "tid": call.tid, "ts": at, "dur": duration}
        found = [known | {"args": told}]
        if call.name == "execve" and call.errno is None and call.args:
            found.append(_named("process_name", call.pid, call.pid, call.args[0].strip('"')))
        if call.phase == EXIT:
            found += self._phase(call.pid, at, EXIT)
        return found

    def _phase(self, pid: int, at: float, phase: str | None) -> list[dict[str, Any]]:
        before, events = self._phases.get(pid), []
        if phase == before:
            return []
        known = {"cat": "phase", "id": pid, "pid": pid, "tid": pid, "ts": at}
        if before is not None:
            events.append({"ph": "e", "name": before, **known})
        if phase is None:
            self._phases.pop(pid, None)
        else:
            self._phases[pid] = phase
            events.append({"ph": "b", "name": phase, **known})
        return events


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _instant(event: Event, at: float) -> dict[str, Any]:
    name = event.signal if isinstance(event, Signal | Stop) else type(event).__name__.lower()
    return {"ph": "i", "s": "t", "cat": "event", "name": name, "pid": event.pid, "tid": event.tid, "ts": at}
