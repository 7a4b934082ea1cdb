"""What a trace tells: one frozen value an event. Times are CLOCK_MONOTONIC in ns, addresses and numbers ints."""

from __future__ import annotations

from ..values import Value


class Event(Value):
    """Something that a task did, or that happened to it."""

    pid: int
    tid: int
    t_ns: int


class Start(Event):
    """A task is traced from now on: the program, a child of it, a thread, or what was attached to."""

    parent: int


class Jump(Event):
    """reflective's own loader has left the address space; the program's first instruction is next."""


class Entry(Event):
    """The entry point of the executable is reached."""

    address: int


class Main(Event):
    """main is called."""

    address: int


class Return(Event):
    """main has returned."""


class Exec(Event):
    """The process became another program; `former` is the thread that called execve."""

    former: int


class Clone(Event):
    """A task was made."""

    child: int
    how: str


class Signal(Event):
    """A signal arrives. `info` is strace's text of siginfo."""

    signal: str
    number: int
    info: str


class Stop(Event):
    """The group is stopped by a signal."""

    signal: str


class Exit(Event):
    """The task has ended: with a status, or by a signal."""

    status: int | None
    signal: str | None
    core: bool


class Detach(Event):
    """The task runs on, untraced."""

    inside: bool


ENTERED, LEFT, WHOLE, UNENDED, CUT, WAITING = "enter", "leave", "whole", "exiting", "detached", "waiting"


class Syscall(Event):
    """A system call: entered, left after something else happened in between, both at once, never left, or not seen so.

    `waiting`: entered, and nothing else has happened for a while.
    """

    part: str
    told: bool
    name: str
    number: int
    args: tuple[str, ...]
    entry: str
    raw_args: tuple[int, ...]
    ret: int
    result: str
    errno: str | None
    ip: int
    phase: str
    object: str
    dur_ns: int
    explain: str | None = None  # what it is for (trace/explain); "": not known, None: not asked
    stack: tuple[str, ...] | None = None  # who called, innermost first (trace/stack.py); None: not asked
