"""From the records of a session to events, and to lines of text.

Programs repeat themselves: the lines of equal calls are kept, so that only the times have to be written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..native import tracer
from ..native.tracer import BODY, HEAD, payloads, records
from . import decode, phases
from .decode.base import Call, Piece
from .decode.signal import siginfo, signal_name
from .events import (
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
from .phases import Process
from .syscalls import NUMBERS, errno_name, error_text, name_of

CACHE_MOST = 20_000
STACK_AT, STACK_MOST = 0, 65536  # an argument that pieces are kept under; bytes
RESTART_BLOCK = -516  # -ERESTART_RESTARTBLOCK
PARTS = {tracer.SYSCALL: WHOLE, tracer.ENTER: ENTERED, tracer.LEAVE: LEFT, tracer.EXITING: UNENDED}
HOW = {1: "fork", 2: "vfork", 3: "clone"}
MARK_LOAD, MARK_ENTRY, MARK_MAIN, MARK_RETURN, MARK_JUMP = range(5)
MMAP_FILE = {NUMBERS["mmap"]: ((tracer.ON_ENTRY, tracer.FD, 4, tracer.BY_ONE, 1),)}


class View(Protocol):
    """Writes events. A call's line is what `head` gives for it, and its times if the view is `timed`."""

    timed: bool

    @property
    def open(self) -> bool:
        """A line of this view is not at its end: all that comes must go by it."""

    def head(self, call: Syscall, many: bool) -> str:
        """The line of a call, or what comes before its times."""

    def other(self, event: Event, many: bool) -> str:
        """The line of another event; "" if it has none."""


def copies(phases_too: bool) -> dict[int, tuple[tracer.Copy, ...]]:
    """What the tracer copies for each call."""
    table = {number: decode.copies(name) for name, number in NUMBERS.items()}
    if phases_too:
        for number, more in MMAP_FILE.items():
            table[number] += more
    return table


def with_paths(table: dict[int, tuple[tracer.Copy, ...]]) -> dict[int, tuple[tracer.Copy, ...]]:
    """The same, and what descriptors are: for a reader with `paths` set."""
    return {number: (*table.get(number, ()), *decode.descriptors(name)) for name, number in NUMBERS.items()}


def with_stacks(table: dict[int, tuple[tracer.Copy, ...]]) -> dict[int, tuple[tracer.Copy, ...]]:
    """The same, and registers and stack: for a reader with `stacks` set. execve shows those of the new program."""
    rows = {}
    for number in NUMBERS.values():
        when = tracer.ON_RETURN if number == NUMBERS["execve"] else tracer.ON_ENTRY
        more = (
            (when, tracer.REGISTERS, STACK_AT, tracer.BY_ONE, 0),
            (when, tracer.FRAMES, STACK_AT, tracer.BY_ONE, STACK_MOST),
        )
        rows[number] = (*table.get(number, ()), *more)
    return rows


def line_of(head: str, entered: int, left: int, timed: bool) -> str:
    """A call's line: what a view gives for it, and its times if the view wants them."""
    return f'{head}{entered},"dur_ns":{left - entered}}}\n' if timed else head


class Reader:
    """What must be remembered from one record to the next: tasks, mappings, phases."""

    def __init__(self, limit: int = 32, shown: frozenset[int] | None = None) -> None:
        self.limit, self._shown, self.paths, self.stacks = limit, shown, False, False
        self.tasks: set[int] = set()
        self._processes: dict[int, Process] = {}
        self._cache: dict[bytes, str] = {}
        self._interrupted: dict[int, str] = {}
        self._tallies: dict[bytes, list[int]] = {}

    @property
    def many(self) -> bool:
        """More than one task is traced."""
        return len(self.tasks) > 1

    def lines(self, batch: bytes, view: View) -> str:
        """A batch of records as text."""
        out: list[str] = []
        append, find, unpack, timed = out.append, self._cache.get, HEAD.unpack_from, view.timed
        at, end = 0, len(batch)
        while at < end:
            size, kind, entered, left = unpack(batch, at)
            body = batch[at + 24 : at + size]
            at += size
            head = find(body) if kind == 1 else None
            if head is None or view.open:
                append(self._line(kind, entered, left, body, view))
            elif timed:
                append(f'{head}{entered},"dur_ns":{left - entered}}}\n')
            else:
                append(head)
        return "".join(out)

    def _line(self, kind: int, entered: int, left: int, body: bytes, view: View) -> str:
        many, cut = self.many, view.open
        event = self.event(kind, entered, left, body)
        if event is None:
            return ""
        if not isinstance(event, Syscall):
            return view.other(event, self.many or (many and not isinstance(event, Exec)))
        head = view.head(event, many)
        same = kind == tracer.SYSCALL and event.name not in phases.STATEFUL and event.ret != RESTART_BLOCK
        if same and not self.stacks and not cut:
            if len(self._cache) >= CACHE_MOST:
                self._cache.clear()
            self._cache[body] = head
        return line_of(head, entered, left, view.timed)

    def tally(self, batch: bytes) -> str:
        """Counts the calls of a batch, for which there is no text; `totals` has the sums."""
        tallies = self._tallies
        for kind, entered, left, body in records(batch):
            if kind in (tracer.SYSCALL, tracer.LEAVE):
                entry = tallies.get(body)
                if entry is None:
                    entry = tallies[body] = [0, 0]
                entry[0] += 1
                entry[1] += left - entered
        if len(tallies) > CACHE_MOST:
            self._fold()
        return ""

    def _fold(self) -> None:
        """Records that differ only in what does not count are counted together."""
        folded: dict[bytes, list[int]] = {}
        for body, (count, spent) in self._tallies.items():
            _, _, number, mode, _, _, *_ = BODY.unpack_from(body)
            entry = folded.setdefault(BODY.pack(0, 0, number, mode & tracer.ERROR, 0, 0, *([0] * 6)), [0, 0])
            entry[0] += count
            entry[1] += spent
        self._tallies = folded

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """For each call: how often, how often in error, and ns between entry and return."""
        self._fold()
        sums: dict[str, tuple[int, int, int]] = {}
        for body, (count, spent) in self._tallies.items():
            _, _, number, mode, *_ = BODY.unpack_from(body)
            before = sums.get(name_of(number), (0, 0, 0))
            sums[name_of(number)] = (before[0] + count, before[1] + (count if mode & tracer.ERROR else 0), before[2] + spent)
        return sums

    def events(self, batch: bytes) -> Iterator[Event]:
        """A batch of records as events."""
        for kind, entered, left, body in records(batch):
            event = self.event(kind, entered, left, body)
            if event is not None:
                yield event

    def event(self, kind: int, entered: int, left: int, body: bytes) -> Event | None:
        """One record; None if it only changes what is known."""
        pid, tid, number, mode, ip, ret, *args = BODY.unpack_from(body)
        if kind in PARTS:
            part = PARTS[kind]
            if kind == tracer.ENTER and mode & (tracer.LAST | tracer.WAITING):
                part = CUT if mode & tracer.LAST else WAITING
            return self._call(part, (entered, left), body, (pid, tid, number, mode, ip, ret, tuple(args)))
        self._cache.clear()
        where = (pid, tid, entered)
        if kind == tracer.TASK:
            self.tasks.add(tid)
            self._interrupted.pop(tid, None)
            if tid == pid or pid not in self._processes:  # a new process; its number may have been another's
                self._processes[pid] = self._process(args[0]).copy()
            return Start(*where, args[0])
        if kind == tracer.MAPS:
            self._process(pid).read(next(payloads(body))[5])
            return None
        if kind == tracer.MARK:
            return self._mark(where, args[0], args[1])
        if kind == tracer.EXEC:
            self._process(pid).phase = phases.INTERPRETER
            if args[0] != tid:
                self.tasks.discard(args[0])
            return Exec(*where, args[0])
        if kind == tracer.CLONE:
            return Clone(*where, args[0], HOW.get(args[1], "clone"))
        if kind == tracer.SIGNAL:
            return Signal(*where, signal_name(args[0]), args[0], siginfo(next(payloads(body))[5]))
        if kind == tracer.STOPPED:
            return Stop(*where, signal_name(args[0]))
        self.tasks.discard(tid)
        if kind == tracer.DETACHED:
            return Detach(*where, bool(args[0]))
        if kind == tracer.EXITED:
            return Exit(*where, args[0], None, False)
        return Exit(*where, None, signal_name(args[0]), bool(args[1]))

    def _process(self, pid: int) -> Process:
        return self._processes.setdefault(pid, Process())

    def _mark(self, where: tuple[int, int, int], mark: int, address: int) -> Event | None:
        process = self._process(where[0])
        if mark == MARK_LOAD:
            process.phase = phases.LOADER
            return None
        if mark == MARK_JUMP:
            process.phase = phases.INTERPRETER
            return Jump(*where)
        if mark == MARK_RETURN:
            process.phase = phases.EXIT
            return Return(*where)
        process.phase = phases.STARTUP if mark == MARK_ENTRY else phases.PROGRAM
        return Entry(*where, address) if mark == MARK_ENTRY else Main(*where, address)

    def _call(
        self, part: str, times: tuple[int, int], body: bytes, head: tuple[int, int, int, int, int, int, tuple[int, ...]]
    ) -> Syscall | None:
        pid, tid, number, mode, ip, ret, args = head
        name = name_of(number)
        if mode & tracer.FOREIGN:
            name = f"i386_syscall_{number:#x}"
        pieces: dict[int, list[Piece]] = {}
        for arg, when, kind, state, address, data in payloads(body):
            pieces.setdefault(arg, []).append((when, kind, state, address, data))
        call = Call(name, args, pieces, self.limit)
        call.paths = self.paths
        if name == "restart_syscall":
            call.interrupted = self._interrupted.get(tid, call.interrupted)
        elif ret == RESTART_BLOCK:
            self._interrupted[tid] = name
        call.ret, call.error, call.returned = ret, bool(mode & tracer.ERROR), part in (WHOLE, LEFT)
        process = self._process(pid)
        phase, where = process.phase, process.object_at(ip)
        if call.returned and not call.error and name in phases.STATEFUL:
            _follow(process, call)
        elif name in decode.NEVER_RETURN:
            phase = phases.EXIT
        if name in ("execve", "execveat"):
            phase = phases.LOADER if call.returned and not call.error else phase
        if self._shown is not None and number not in self._shown:
            return None
        stack = _stack(pieces, process) if self.stacks and part not in (ENTERED, WAITING) else None
        entry, words = decode.arguments(call)
        result = error_text(-ret) if call.error else decode.result(call)
        return Syscall(
            pid, tid, times[0], part, bool(mode & tracer.TOLD), name, number, tuple(words), entry, args, ret, result,
            errno_name(-ret) if call.error else None, ip, phase, where, times[1] - times[0], None, stack,
        )  # fmt: skip


def _stack(pieces: dict[int, list[Piece]], process: Process) -> tuple[str, ...]:
    from .stack import frames

    found = {kind: data for _, kind, _, _, data in pieces.get(STACK_AT, ())}
    return frames(found.get(tracer.REGISTERS, b""), found.get(tracer.FRAMES, b""), process.place)


def _follow(process: Process, call: Call) -> None:
    if call.name == "mmap":
        file = next((piece[4] for piece in call.pieces.get(4, ()) if piece[1] == tracer.FD), b"[anon]")
        process.mapped(
            call.ret, (call.args[1] + 4095) & ~4095, call.args[2], file.decode(errors="surrogateescape"), call.args[5]
        )
    elif call.name == "munmap":
        process.unmapped(call.args[0], call.args[1])
