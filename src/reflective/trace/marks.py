"""Entry point, main and main's return by debug register: csrc/tracer/marks.c once more, in Python."""

from __future__ import annotations

from ctypes import addressof, create_string_buffer

from ptrace.binding.func import PTRACE_GETSIGINFO, ptrace, ptrace_getregs, ptrace_pokeuser
from ptrace.error import PtraceError

from ..plan.stack import AT_ENTRY, parse_auxv
from .copies import Memory, in_file_mapping

LOAD, ENTRY, MAIN, RETURN, JUMP = range(5)
DEBUG_REGISTERS = 848  # offsetof(struct user, u_debugreg), x86-64
TRAP_TRACE, TRAP_HWBKPT = 2, 4
STEPS_MOST, FAR, CALLS_BEFORE_RETURN = 200, 128, 10_000


def signal_info(tid: int) -> bytes:
    """siginfo of the signal that has stopped a task; "" if there is none."""
    info = create_string_buffer(128)
    try:
        ptrace(PTRACE_GETSIGINFO, tid, 0, addressof(info))
    except PtraceError:
        return b""
    return info.raw


class Marks:
    """What one task waits for."""

    def __init__(self, tid: int) -> None:
        self.tid, self.mark, self.at, self.steps, self.stepping = tid, 0, 0, 0, False

    def _watch(self, mark: int, address: int) -> None:
        self.mark, self.at = 0, address
        try:
            ptrace_pokeuser(self.tid, DEBUG_REGISTERS + 7 * 8, 0)
            if mark:
                ptrace_pokeuser(self.tid, DEBUG_REGISTERS, address)
                ptrace_pokeuser(self.tid, DEBUG_REGISTERS + 7 * 8, 1)
                self.mark = mark
        except PtraceError:
            pass  # none to be had: the phases stay as they are

    def none(self) -> None:
        """Waits for nothing more."""
        if self.mark:
            self._watch(0, 0)

    def called(self) -> None:
        """A set debug register makes every switch dearer: after many calls main's return is no longer waited for."""
        if self.mark == RETURN:
            self.steps += 1
            if self.steps > CALLS_BEFORE_RETURN:
                self.none()

    def executed(self) -> None:
        """The task has just become another program: AT_ENTRY is in its auxiliary vector."""
        with open(f"/proc/{self.tid}/auxv", "rb") as file:
            entry = dict(parse_auxv(file.read())).get(AT_ENTRY, 0)
        self.stepping = False
        self._watch(ENTRY if entry else 0, entry)

    def trapped(self, pid: int, memory: Memory) -> tuple[int, int] | None:
        """A SIGTRAP: None if it is the program's, else what was reached (0: nothing yet), and where."""
        info = signal_info(self.tid) if self.mark or self.stepping else b""
        if not info:
            return None
        code, registers = int.from_bytes(info[8:12], "little", signed=True), ptrace_getregs(self.tid)
        if self.stepping and code == TRAP_TRACE:
            self._step(pid, memory, registers)
            return 0, 0
        if not self.mark or code != TRAP_HWBKPT or registers.rip != self.at:
            return None
        reached = self.mark
        self._watch(0, registers.rip)
        self.steps = 0
        if reached == ENTRY:
            self.stepping = True
        elif reached == MAIN:
            back = memory.read(registers.rsp, 8)
            if len(back) == 8:
                self._watch(RETURN, int.from_bytes(back, "little"))
        return reached, int(registers.rip)

    def _step(self, pid: int, memory: Memory, registers: object) -> None:
        ip, first, sp = (int(getattr(registers, name)) for name in ("rip", "rdi", "rsp"))
        left = not -FAR <= ip - self.at <= FAR
        if left and first and first != sp and in_file_mapping(pid, first):
            self.stepping = False
            self._watch(MAIN, first)
            return
        self.steps += 1
        if memory.read(ip, 2) == b"\x0f\x05" or self.steps > STEPS_MOST:
            self.stepping = False
