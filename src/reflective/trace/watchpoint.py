"""A debug register on one word of a traced program: a stop right behind every instruction that writes to it.

What the kernel writes there, for the program (read(2) into it, say) or for another process, makes no stop: a watchpoint of
ptrace's sees user mode alone (arch/x86/kernel/ptrace.c: ptrace_register_breakpoint). A forked child has memory of its own, and
is not followed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from ptrace import PtraceError
from ptrace.binding.func import (
    ptrace_cont,
    ptrace_detach,
    ptrace_geteventmsg,
    ptrace_getregs,
    ptrace_peekuser,
    ptrace_pokeuser,
    ptrace_setoptions,
)

from ..errors import SessionError
from ..proc.memory import Memory
from ..values import Value
from .session import DEBUG_REGISTERS, EXITKILL

TRACECLONE, TRACEEXEC, TRACEEXIT, EVENT_CLONE, EVENT_EXEC, EVENT_EXIT = 0x8, 0x10, 0x40, 3, 4, 6  # linux/ptrace.h
WALL = 0x40000000  # linux/wait.h
DR6, DR7 = DEBUG_REGISTERS + 6 * 8, DEBUG_REGISTERS + 7 * 8
ON_WRITE = 1 | 0b01 << 16 | 0b10 << 18  # DR7: register 0, on writing, 8 bytes
ON_ENTRY = 1 << 2  # register 1, on execution, 1 byte
PATIENCE = 0.05  # s between two looks, should SIGCHLD be ignored


class Write(Value):
    """A stop behind an instruction that has written to the word. `started`: the program's entry point has been passed.

    `before` is what the word held after the write before this one, `after` what it holds now; `next` the address of the
    following instruction; `stack` the stack pointer; `t_ns` is CLOCK_MONOTONIC's.
    """

    tid: int
    t_ns: int
    started: bool
    before: int
    after: int
    next: int
    stack: int


class Watchpoint:
    """Writes to the 8 bytes at `address`, a multiple of 8, of a program that is stopped and traced (Session.hand_over).

    Iterating lets it run; while the loop's body runs the thread that wrote stands still. When the loop is over the program has
    ended, with wait status `status`; leaving it early kills the program. `gone` is True if it has called execve. `seen` is
    what the last write left there, `last` what was there when threads ended: something else if the kernel has written, say.
    """

    def __init__(self, pid: int, address: int, entry: int, *, started: bool = False) -> None:
        self.pid, self.address, self.entry = pid, address, entry
        self.status, self.started, self.gone = -1, started, False
        self.count = 0  # of writes
        self.seen = self.last = 0
        self._tids, self._fresh = {pid}, set[int]()

    def __iter__(self) -> Iterator[Write]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            ptrace_setoptions(self.pid, EXITKILL | TRACECLONE | TRACEEXEC | TRACEEXIT)
            self._arm(self.pid)
            with Memory(self.pid) as memory:
                self.seen = self.last = self._value(memory)
                ptrace_cont(self.pid)
                yield from self._writes(memory)
        finally:
            self._end()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _writes(self, memory: Memory) -> Iterator[Write]:
        for tid, status in self._stops():
            number = self._handled(tid, status)
            if status >> 16 == EVENT_EXIT:
                self.last = self._value(memory)
            if number == signal.SIGTRAP and (hit := self._hit(tid)):
                if hit & 1:
                    self.count += 1
                    before, self.seen = self.seen, self._value(memory)
                    registers = ptrace_getregs(tid)
                    now = time.monotonic_ns()
                    yield Write(tid, now, self.started, before, self.seen, int(registers.rip), int(registers.rsp))
                if hit & 2:
                    self.started = True
                    self._arm(tid)
                number = 0
            if os.WIFSTOPPED(status) and not self.gone:
                with suppress(PtraceError):  # it has been killed meanwhile
                    ptrace_cont(tid, number)

    def _stops(self) -> Iterator[tuple[int, int]]:
        """Wait statuses of our threads, and of no other child of this process."""
        while self._tids:
            found = False
            for tid in tuple(self._tids):
                got, status = os.waitpid(tid, WALL if len(self._tids) == 1 else WALL | os.WNOHANG)
                if got:
                    found = True
                    yield tid, status
            if not found:
                signal.sigtimedwait({signal.SIGCHLD}, PATIENCE)

    def _handled(self, tid: int, status: int) -> int:
        """Takes in what a status says of the threads; the signal that is left to be passed on, or looked at."""
        if not os.WIFSTOPPED(status):
            self._tids.discard(tid)
            if tid == self.pid:
                self.status = status
            return 0
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == EVENT_CLONE:
            child = int(ptrace_geteventmsg(tid))
            self._tids.add(child)
            self._fresh.add(child)
        elif event == EVENT_EXEC:
            self._leave()
        elif number == signal.SIGSTOP and tid in self._fresh:
            self._fresh.discard(tid)
            self._arm(tid)
            return 0
        return 0 if event else number

    def _leave(self) -> None:
        """Another program is there now; it is left alone."""
        self.gone = True
        ptrace_detach(self.pid)
        self._tids = {self.pid}

    def _hit(self, tid: int) -> int:
        """Which debug registers made the stop."""
        hit = int(ptrace_peekuser(tid, DR6)) & 3
        if hit:
            ptrace_pokeuser(tid, DR6, 0)
        return hit

    def _arm(self, tid: int) -> None:
        try:
            ptrace_pokeuser(tid, DEBUG_REGISTERS, self.address)
            if not self.started:
                ptrace_pokeuser(tid, DEBUG_REGISTERS + 8, self.entry)
            ptrace_pokeuser(tid, DR7, ON_WRITE | (0 if self.started else ON_ENTRY))
        except PtraceError as error:
            raise SessionError(f"this machine gives no hardware watchpoint: {error}") from None

    def _value(self, memory: Memory) -> int:
        return int.from_bytes(memory.read(self.address, 8), "little")

    def _end(self) -> None:
        """Nothing is left of it, whatever has happened."""
        if not self._tids:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        for tid, status in self._stops():
            self._handled(tid, status)
            if os.WIFSTOPPED(status):
                with suppress(PtraceError):
                    ptrace_cont(tid)
