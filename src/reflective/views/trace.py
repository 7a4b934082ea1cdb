"""Traces as text, in strace's format, as JSON lines, and summed up."""

from __future__ import annotations

import json
from typing import Any

from ..trace.events import (
    CUT,
    ENTERED,
    LEFT,
    UNENDED,
    WAITING,
    WHOLE,
    Clone,
    Detach,
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

EXPLAINS = "   # "  # begins the line below a call that says what it is for
COLUMN = 40  # where the equals sign goes, if there is room
SCHEMA, COUNT_SCHEMA = "reflective.trace/1", "reflective.trace-count/1"


class Text:
    """strace's lines: with the task in front if there is more than one, or in a file of several.

    On a screen also, as strace does, which tasks come and go; `known` are those there from the beginning, with the number of
    threads that is said, or 0.
    """

    timed = False

    def __init__(self, file_of_several: bool = False, known: dict[int, int] | None = None) -> None:
        self._always, self._known = file_of_several, known
        self._begun, self._caller = "", 0  # of the last line, if it is that of a call which has not returned, and whose it is

    @property
    def open(self) -> bool:
        """The last line is not at its end."""
        return bool(self._begun)

    def head(self, call: Syscall, many: bool) -> str:
        """A call, or the part of it that is known; below it what it is for, if that was asked."""
        line = self._ended(call, many) + "".join(f" > {frame}\n" for frame in call.stack or ())
        return f"{line}{EXPLAINS}{call.explain}\n" if call.explain else line

    def _ended(self, call: Syscall, many: bool) -> str:
        """The line; what is missing of it, if it has begun already."""
        begun, self._begun = self._begun, ""
        if not begun:
            return self._line(call, many)
        whole = self._line(call.replace(part=WHOLE if call.part == LEFT else call.part, told=False), many)
        if call.tid == self._caller and whole.startswith(begun):
            return whole[len(begun) :]
        return f" <unfinished ...>\n{self._line(call, many)}"

    def _line(self, call: Syscall, many: bool) -> str:
        before, words = self._prefix(call, many), ", ".join(call.args)
        if call.part == ENTERED:
            return f"{before}{call.name}({call.entry} <unfinished ...>\n"
        if call.part == WAITING:
            self._begun, self._caller = f"{before}{call.name}({call.entry}", call.tid
            return self._begun
        if call.part == CUT:
            return f"{before}{call.name}({call.entry} <detached ...>\n"
        if call.part == UNENDED:
            return self._unended(before, call)
        if call.part == LEFT:
            rest = words.removeprefix(call.entry) if words.startswith(call.entry) else words
            return f"{f'{before}<... {call.name} resumed>{rest}) ':<{COLUMN}}= {call.result}\n"
        return f"{f'{before}{call.name}({words}) ':<{COLUMN}}= {call.result}\n"

    def other(self, event: Event, many: bool) -> str:
        """Signals and ends; the rest has no line."""
        line = self._other(event, many)
        begun, self._begun = self._begun, ""
        if not begun:
            return line
        if isinstance(event, Detach) and event.tid == self._caller:
            return f" <detached ...>\n{line}"
        if not line:
            self._begun = begun
            return ""
        return f" <unfinished ...>\n{line}"

    def _other(self, event: Event, many: bool) -> str:
        if isinstance(event, Start | Detach):
            return self._coming_or_going(event)
        before = self._prefix(event, many)
        if isinstance(event, Signal):
            return f"{before}--- {event.signal} {event.info} ---\n"
        if isinstance(event, Stop):
            return f"{before}--- stopped by {event.signal} ---\n"
        if isinstance(event, Exec) and event.former != event.tid:
            return f"{before}+++ superseded by execve in pid {event.former} +++\n"
        if isinstance(event, Exit):
            core = " (core dumped)" if event.core else ""
            end = f"exited with {event.status}" if event.signal is None else f"killed by {event.signal}{core}"
            return f"{before}+++ {end} +++\n"
        return ""

    def _coming_or_going(self, event: Start | Detach) -> str:
        if self._known is None:
            return ""
        if isinstance(event, Detach):
            return f"reflective: Process {event.tid} detached\n"
        threads = self._known.pop(event.tid, 1)
        more = f" with {threads} threads" if threads > 1 else ""
        return f"reflective: Process {event.tid} attached{more}\n" if threads else ""

    def _prefix(self, event: Event, many: bool) -> str:
        return f"{event.tid:<5} " if self._always else f"[pid {event.tid:5}] " if many else ""

    def _unended(self, before: str, call: Syscall) -> str:
        text = f"{before}<... {call.name} resumed>" if call.told else f"{before}{call.name}({call.entry}"
        text += ") " if call.entry == ", ".join(call.args) else " <unfinished ...>) "
        return f"{text:<{COLUMN}}= ?\n"


class Json:
    """One JSON object an event, schema reflective.trace/1 (docs/trace.schema.json)."""

    timed, open = True, False

    def head(self, call: Syscall, many: bool) -> str:
        """A call up to its times, which come last."""
        if call.part in (ENTERED, CUT, WAITING):
            return (
                json.dumps({**_frame("enter", call), "name": call.name, "number": call.number, "phase": call.phase})[:-1]
                + ', "t_ns":'
            )
        known = {
            **_frame("syscall", call),
            "name": call.name,
            "number": call.number,
            "args": call.args,
            "raw_args": call.raw_args,
            "ret": None if call.part == UNENDED else -1 if call.errno else call.ret,
            "errno": call.errno,
            "phase": call.phase,
            "object": call.object,
        }
        if call.stack is not None:
            known["stack"] = call.stack
        if call.explain is not None:
            known["explain"] = call.explain
        return json.dumps(known)[:-1] + ', "t_ns":'

    def other(self, event: Event, many: bool) -> str:
        """Any event but a call."""
        for kind, name, more in _OTHERS:
            if isinstance(event, kind):
                return (
                    json.dumps({**_frame(name, event), **{key: getattr(event, key) for key in more}, "t_ns": event.t_ns})
                    + "\n"
                )
        return ""


_OTHERS: tuple[tuple[type[Event], str, tuple[str, ...]], ...] = (
    (Start, "start", ("parent",)),
    (Jump, "jump", ()),
    (Entry, "entry", ("address",)),
    (Main, "main", ("address",)),
    (Return, "return", ()),
    (Exec, "exec", ("former",)),
    (Clone, "clone", ("child", "how")),
    (Signal, "signal", ("signal", "number", "info")),
    (Stop, "stop", ("signal",)),
    (Exit, "exit", ("status", "signal", "core")),
    (Detach, "detach", ("inside",)),
)


def _frame(name: str, event: Event) -> dict[str, Any]:
    return {"schema": SCHEMA, "event": name, "pid": event.pid, "tid": event.tid}


def summary(totals: dict[str, tuple[int, int, int]]) -> str:
    """strace -c's table. The time is what passed between entry and return, the tracer's own work included."""
    rule = "------ ----------- ----------- --------- --------- ----------------"
    lines = ["% time     seconds  usecs/call     calls    errors syscall", rule]
    calls, errors, spent = (sum(item[at] for item in totals.values()) for at in range(3))
    for name, (count, failed, time) in sorted(totals.items(), key=lambda item: -item[1][2]):
        share = 100 * time / spent if spent else 0
        lines.append(f"{share:6.2f} {time / 1e9:11.6f} {time // count // 1000:11} {count:9} {failed or '':>9} {name}")
    lines += [rule, f"100.00 {spent / 1e9:11.6f} {spent // max(calls, 1) // 1000:11} {calls:9} {errors or '':>9} total"]
    return "\n".join(lines) + "\n"


def json_summary(totals: dict[str, tuple[int, int, int]]) -> str:
    """The same as JSON lines, one a call."""
    return "".join(
        json.dumps({"schema": COUNT_SCHEMA, "name": name, "calls": count, "errors": failed, "time_ns": time}) + "\n"
        for name, (count, failed, time) in sorted(totals.items(), key=lambda item: -item[1][2])
    )
