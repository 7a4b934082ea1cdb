"""Breakpoints that displace an instruction, guards, where slots are: csrc/got's space.c, step.c and guard.c, in Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import c_ulong
from typing import Any

from ptrace.binding.func import ptrace, ptrace_peektext, ptrace_peekuser, ptrace_pokeuser, ptrace_setregs
from ptrace.error import PtraceError

from ..native import got as native
from ..native.got import Break, Change, Guard, Step
from .loop import Task, attempt
from .marks import DEBUG_REGISTERS

POKEDATA = 5  # linux/ptrace.h
INT3 = b"\xcc"
GONE = 4  # kind of a breakpoint that was taken out, whose trap another thread may still bring
POINTS_MOST, WORD = 64, 8
DR6, DR7 = DEBUG_REGISTERS + 6 * WORD, DEBUG_REGISTERS + 7 * WORD
ON_WRITE, WRITE_8 = 1, 9  # DR7: enabled; on writing, 8 bytes
# In the order of the processor's encoding.
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))


class Point:
    """A breakpoint that is set."""

    def __init__(self, address: int, kind: int, step: Step, original: bytes) -> None:
        self.address, self.kind, self.step, self.original = address, kind, step, original

    def restore(self, task: Task) -> None:
        """Takes it out, unless something else has been mapped there meanwhile."""
        if task.memory.read(self.address, 1) == INT3:
            _write(task.tid, self.address, self.original)

    def step_over(self, task: Task, registers: Any) -> None:
        """Carries out the instruction that was displaced: a step by the processor would cost a second stop."""
        step, changed = self.step, {"rip": self.address + len(self.step.code)}
        sp, held = int(registers.rsp), int(getattr(registers, GENERAL[step.reg]))
        if step.kind == native.PUSH:
            changed["rsp"] = sp - WORD
            attempt(POKEDATA, task.tid, held, size=sp - WORD)
        elif step.kind == native.SET:
            changed[GENERAL[step.reg]] = step.value
        elif step.kind == native.JUMP_TO:
            changed["rip"] = held
        elif step.kind == native.RETURN:
            changed |= {"rip": word(task, sp), "rsp": sp + WORD}
        for name, value in changed.items():
            setattr(registers, name, value)
        ptrace_setregs(task.tid, registers)


class Space:
    """What tasks with one memory share: breakpoints by address, where the slots of a link_map are, and guarded slots."""

    def __init__(
        self, points: Iterable[Point] = (), tables: dict[int, tuple[int, ...]] | None = None, guards: Iterable[int] = ()
    ) -> None:
        self.points = {one.address: Point(one.address, one.kind, one.step, one.original) for one in points}
        self.tables = dict(tables or {})
        self.guards = list(guards)

    def copy(self) -> Space:
        """What a fork makes."""
        return Space(self.points.values(), self.tables, self.guards)

    def change(self, task: Task, change: Change) -> bool:
        """Does what Python above has asked for; False if a breakpoint can't be set, or all guards are taken."""
        if isinstance(change, Break):
            return self._set(task, change)
        if isinstance(change, Guard):
            self.guards += [change.address] if len(self.guards) < native.GUARDS else []
            return change.address in self.guards
        if change.slots is None:
            self.tables.pop(change.link_map, None)
        else:
            self.tables[change.link_map] = change.slots
        return True

    def _set(self, task: Task, change: Break) -> bool:
        """Only where there is the instruction that was seen."""
        code, known = change.step.code, change.address in self.points
        there = task.memory.read(change.address, len(code))
        if not code or there != code or there[:1] == INT3 or (len(self.points) == POINTS_MOST and not known):
            return False
        if not _write(task.tid, change.address, INT3):
            return False
        self.points[change.address] = Point(change.address, change.kind, change.step, there[:1])
        return True


def arm(task: Task, guards: Sequence[int]) -> bool:
    """Debug registers on these slots, which stop right behind each store; none: they are cleared. False if there are none."""
    control = sum(ON_WRITE << 2 * at | WRITE_8 << 16 + 4 * at for at in range(len(guards)))
    try:
        for at, address in enumerate(guards):
            ptrace_pokeuser(task.tid, DEBUG_REGISTERS + 8 * at, address)
        ptrace_pokeuser(task.tid, DR7, control)
    except PtraceError:
        return False
    return True


def hits(task: Task) -> int:
    """Which debug registers have made the stop, a bit each."""
    found = int(ptrace_peekuser(task.tid, DR6)) & 15
    ptrace_pokeuser(task.tid, DR6, 0)
    return found


def word(task: Task, address: int) -> int:
    """8 bytes of its memory; 0 if they can't be read."""
    return int.from_bytes(task.memory.read(address, WORD), "little")


def _write(tid: int, address: int, byte: bytes) -> bool:
    start, place = address & -WORD, address & WORD - 1
    try:
        whole = c_ulong(ptrace_peektext(tid, start)).value.to_bytes(WORD, "little")
        ptrace(POKEDATA, tid, start, int.from_bytes(whole[:place] + byte + whole[place + 1 :], "little"))
    except PtraceError:
        return False
    return True
