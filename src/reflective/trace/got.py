"""`got-watch --engine=python`: the loop of csrc/got in Python.

Records, questions and answers are those of the C loop, so that all above is shared; a test holds that the events are equal.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Generator, Iterator, Sequence
from ctypes import addressof, c_ulong, create_string_buffer
from typing import Any

from ptrace.binding.func import PTRACE_GETEVENTMSG, ptrace, ptrace_getregs, ptrace_setregs
from ptrace.ctypes_libc import libc
from ptrace.error import PtraceError

from ..native import got as native
from ..native import tracer
from ..native.got import Break, Change, Guard, Table
from . import loop
from .breakpoints import GONE, WORD, Space, arm, hits, word
from .loop import Loop, attempt
from .marks import TRAP_HWBKPT, signal_info

SYS_KCMP, KCMP_VM = 312, 1
PEEKSIGINFO, SIGINFO, WAITING_MOST = 0x4209, 128, 64
SI_KERNEL = 0x80
DEPTH = 8  # of resolutions inside resolutions; deeper than this the outermost is forgotten
NO_ARGS = (0,) * 6


class Pending:
    """A resolution under way. `sp` is the stack pointer before the call's return address."""

    def __init__(self, sp: int, link_map: int, index: int, caller: int) -> None:
        self.time, self.sp, self.link_map, self.index, self.caller = time.monotonic_ns(), sp, link_map, index, caller
        self.slot = self.before = 0


class Task(loop.Task):
    """A traced task. Without a space it is not known yet who made it."""

    def __init__(self, tid: int) -> None:
        super().__init__(tid)
        self.space: Space | None = None
        self.pending: list[Pending] = []
        self.held = self.halted = self.in_vfork = self.exiting = False
        self.deliver = self.armed = 0


class Session(Loop[Task]):
    """As native.got.Session, in Python."""

    options = Loop.options | loop.FOLLOWED | loop.TRACEVFORKDONE
    resume = loop.CONT

    def __init__(self, tids: Sequence[int], gate: int = -1, pin: bool = True) -> None:
        self._changes: Sequence[Change] = ()
        super().__init__(tids, leader=tids[0], gate=gate, pin=pin, needed=1)
        self._work = self._begin()

    def answer(self, changes: Sequence[Change]) -> None:
        """What is to be done before the task that asked goes on, which it does with the next batch."""
        self._changes = changes

    # Beginning and end

    def _task(self, tid: int) -> Task:
        return Task(tid)

    def _begin(self) -> Iterator[None]:
        """Tasks that ran already are stopped one after the other, and let go together when the breakpoints are set."""
        tasks = list(self._tasks.values())
        if self._gate >= 0:
            for task in tasks:
                task.space = Space()
            return
        for task in tasks:
            self._attached(task)
        for task in [task for task in tasks if task.tid in self._tasks]:
            leader = self._tasks.get(task.pid)
            if leader and leader is not task and leader.space:
                task.space = leader.space
                continue
            task.space = Space()
            yield from self._ask(task, native.ASK_ATTACHED)
        for task in [task for task in tasks if task.tid in self._tasks]:
            if task.halted:
                attempt(loop.LISTEN, task.tid)
            else:
                self._resume(task, task.deliver)

    def _attached(self, task: Task) -> None:
        _, status = os.waitpid(task.tid, loop.WALL)
        if not os.WIFSTOPPED(status):
            self._remove(task)
            return
        number, event = os.WSTOPSIG(status), status >> 16
        task.halted = event == loop.EVENT_STOP and number != signal.SIGTRAP
        task.deliver = 0 if event else number

    def _hold(self, task: Task, deliver: int) -> None:
        """Leaving: every task is stopped first, then every breakpoint taken out of every memory, then all are let go."""
        if not task.held and deliver == 0 and not task.exiting and _trap_waits(task.tid):
            attempt(loop.CONT, task.tid)  # to the stop that reports it: no instruction is carried out before
            return
        if not task.held:
            task.deliver = self._step_back(task, deliver)
        task.held = True
        self._leave_if_all_held()

    def _step_back(self, task: Task, deliver: int) -> int:
        """One that stands right behind a breakpoint, its trap not taken yet, is to carry out what was there before."""
        if deliver != signal.SIGTRAP or _code(task.tid) != SI_KERNEL or task.space is None:
            return deliver
        registers = ptrace_getregs(task.tid)
        if registers.rip - 1 not in task.space.points:
            return deliver
        registers.rip -= 1
        ptrace_setregs(task.tid, registers)
        return 0

    def _leave_if_all_held(self) -> None:
        # One that waits for its vfork child shares its memory, and stops later; one past the stop at its end never does.
        if any(not (task.held or task.in_vfork or task.exiting) for task in self._tasks.values()):
            return
        held = [task for task in self._tasks.values() if task.held]
        for task in held:
            for point in task.space.points.values() if task.space else ():
                point.restore(task)
        for task in held:
            self._unpin(task)
            if task.armed:
                arm(task, ())
            self._tell(task, tracer.DETACHED)
            attempt(loop.DETACH, task.tid, task.deliver)
            self._remove(task)

    # Stops

    def _happened(self, tid: int, status: int) -> Iterator[None]:
        task = self._tasks.get(tid)
        if not os.WIFSTOPPED(status):
            if task:
                self._ended(task, status)
            return
        task = task or self._appeared(tid)
        if task is None:
            return
        try:
            yield from self._stopped(task, os.WSTOPSIG(status), status >> 16)
        except PtraceError:  # it has been killed; its end comes next
            return

    def _stopped(self, task: Task, number: int, event: int) -> Iterator[None]:
        task.halted = event == loop.EVENT_STOP and number != signal.SIGTRAP
        if task.space is None:  # whose child it is, its parent's stop will tell
            return
        if task.halted:
            if self._stopping:
                self._hold(task, 0)
            else:
                attempt(loop.LISTEN, task.tid)
        elif event:
            yield from self._event(task, event)
        elif number == signal.SIGTRAP:
            ours = (yield from self._written(task)) or (not self._stopping and (yield from self._trap(task)))
            self._resume(task, 0 if ours else number)
        else:
            self._resume(task, number)

    def _resume(self, task: Task, deliver: int) -> None:
        if self._stopping:
            self._hold(task, deliver)
            return
        self._arm(task)
        attempt(loop.CONT, task.tid, deliver)

    def _arm(self, task: Task) -> None:
        if not task.space or task.armed == len(task.space.guards):
            return
        if not arm(task, task.space.guards):
            self._tell(task, native.REFUSED, (task.space.guards[0], native.OP_GUARD))
            task.space.guards.clear()
        task.armed = len(task.space.guards)

    def _event(self, task: Task, event: int) -> Iterator[None]:
        if event == loop.EVENT_EXEC:
            task = yield from self._executed(task)
        elif event == loop.EVENT_EXIT:
            yield from self._exiting(task)
        elif event == loop.EVENT_VFORK_DONE:
            task.in_vfork = False
        elif event != loop.EVENT_STOP:
            self._cloned(task, _message(task.tid), event)
        self._resume(task, 0)

    def _cloned(self, parent: Task, tid: int, event: int) -> None:
        """The child may have stopped already, and waits."""
        child = waiting = self._tasks.get(tid)
        child = child or self._appeared(tid)
        parent.in_vfork = event == loop.EVENT_VFORK
        if child is None:
            return
        if child.space is None:
            self._inherit(parent, child, event)
        if waiting:
            self._resume(waiting, 0)

    def _inherit(self, parent: Task, child: Task, event: int) -> None:
        shared = _one_memory(parent, child, event)
        child.space = parent.space if shared or parent.space is None else parent.space.copy()
        if child.pid != parent.pid:
            self._tell(parent, tracer.CLONE, (child.pid, event, int(shared)))

    def _executed(self, task: Task) -> Generator[None, None, Task]:
        former = _message(task.tid)
        caller = self._tasks.pop(former, None) if former != task.tid else None
        if caller:  # the thread that called execve takes over the leader's number, and the leader is gone
            task.forget()
            caller.renamed(task.tid)
            task = self._tasks[task.tid] = caller
        else:
            task.fresh()
        self._adopt(task)  # all other threads are gone
        task.space, task.pending, task.exiting, task.armed = Space(), [], False, 0
        yield from self._ask(task, native.ASK_EXEC, former)
        return task

    def _adopt(self, task: Task) -> None:
        """Children whose maker was killed before it could say that they are its own."""
        for child in [one for one in self._tasks.values() if one.space is None and task.pid in (one.pid, one.parent)]:
            self._inherit(task, child, loop.EVENT_FORK)
            self._resume(child, 0)

    def _exiting(self, task: Task) -> Iterator[None]:
        task.exiting = True
        if any(other.pid == task.pid and not other.exiting for other in self._tasks.values()) or self._stopping:
            return
        yield from self._ask(task, native.ASK_EXIT, _message(task.tid))

    def _ended(self, task: Task, status: int) -> None:
        if task.tid == self._leader:
            self._status = status
        exited = os.WIFEXITED(status)
        kind, number = (tracer.EXITED, os.WEXITSTATUS(status)) if exited else (tracer.KILLED, os.WTERMSIG(status))
        self._tell(task, kind, (number,))
        if not any(other is not task and other.pid == task.pid and other.space for other in self._tasks.values()):
            self._adopt(task)
        self._remove(task)
        if self._stopping:
            self._leave_if_all_held()

    def _remove(self, task: Task) -> None:
        task.forget()
        del self._tasks[task.tid]

    # Breakpoints

    def _trap(self, task: Task) -> Generator[None, None, bool]:
        """Gives True if it was a breakpoint of ours."""
        registers = ptrace_getregs(task.tid)
        point = task.space.points.get(registers.rip - 1) if task.space else None
        if point is None or _code(task.tid) != SI_KERNEL:
            return False
        if point.kind in (native.ONCE, GONE):
            once = point.kind == native.ONCE
            point.kind = GONE
            point.restore(task)
            registers.rip -= 1
            ptrace_setregs(task.tid, registers)
            if once:
                yield from self._ask(task, native.ASK_BREAK, point.address, registers)
            return True
        if point.kind == native.ENTRY:
            yield from self._enter(task, registers)
        elif point.kind == native.JUMP:
            self._leave(task, registers)
        else:
            yield from self._ask(task, native.ASK_BREAK, point.address, registers)
        point.step_over(task, registers)
        return True

    def _written(self, task: Task) -> Generator[None, None, bool]:
        """Gives True if it was a guard's trap: an instruction has written to its slot."""
        if not task.armed or _code(task.tid) != TRAP_HWBKPT or task.space is None:
            return False
        registers, hit = ptrace_getregs(task.tid), hits(task)
        for at, address in enumerate(task.space.guards):
            if hit >> at & 1 and not self._stopping:
                yield from self._ask(task, native.ASK_WRITTEN, address, registers)
        return hit != 0

    def _enter(self, task: Task, registers: Any) -> Iterator[None]:
        """The resolver's first instruction: the stub has pushed the relocation's index and the object's link_map."""
        sp = int(registers.rsp)
        words = task.memory.read(sp, 3 * WORD)
        if len(words) < 3 * WORD:
            return
        link_map, index, caller = (int.from_bytes(words[at : at + WORD], "little") for at in (0, WORD, 2 * WORD))
        pending = Pending(sp + 2 * WORD, link_map, index, caller)
        task.pending = [*task.pending[-DEPTH + 1 :], pending]
        if task.space and link_map not in task.space.tables:
            yield from self._ask(task, native.ASK_MAP, link_map, registers)
        slots = task.space.tables.get(link_map, ()) if task.space else ()
        if index < len(slots):
            pending.slot = slots[index]
            pending.before = word(task, pending.slot)

    def _leave(self, task: Task, registers: Any) -> None:
        """Its last instruction, an indirect jump: the slot is written."""
        sp, target, ip = (int(getattr(registers, name)) for name in ("rsp", "r11", "rip"))
        while task.pending and task.pending[-1].sp < sp:  # left by a longjmp
            task.pending.pop()
        if not task.pending or task.pending[-1].sp != sp:  # begun before we came
            return
        one = task.pending.pop()
        args = (one.link_map, one.caller, one.slot, one.before, target, one.sp)
        self._tell(task, native.BIND, args, number=one.index & 0xFFFFFFFF, ip=ip, ret=word(task, one.slot), since=one.time)

    # Records

    def _tell(
        self, task: Task, kind: int, args: Sequence[int] = (), *, number: int = 0, ip: int = 0, ret: int = 0, since: int = 0,
        data: bytes = b"",
    ) -> None:  # fmt: skip
        now = time.monotonic_ns()
        signed = ret - (1 << 64) if ret >> 63 else ret
        self._write(task, kind, (since or now, now), (number, 0, ip, signed), (*args, *NO_ARGS)[:6], data)

    def _ask(self, task: Task, why: int, what: int = 0, registers: Any = None) -> Iterator[None]:
        """Python above answers before it takes the next batch."""
        names = ("rdi", "rsi", "rdx", "rsp", "rip") if registers else ()
        values = [int(getattr(registers, name)) for name in names]
        data = bytes(registers) if why == native.ASK_WRITTEN else b""
        self._tell(task, native.ASK, (why, what, *values[:4]), ip=values[4] if values else 0, data=data)
        yield
        changes, self._changes = self._changes, ()
        for change in changes:
            done = task.space is None or task.space.change(task, change)
            if not done and not isinstance(change, Table):
                op = native.OP_BREAK if isinstance(change, Break) else native.OP_GUARD
                self._tell(task, native.REFUSED, (change.address, op))
            elif isinstance(change, Guard):  # others that run in this memory get their registers when they stop next
                for other in self._tasks.values():
                    if other is not task and other.space is task.space:
                        attempt(loop.INTERRUPT, other.tid)


def _trap_waits(tid: int) -> bool:
    """A trap of ours that has not been reported: it would kill the program once we are gone."""
    info = create_string_buffer(SIGINFO)
    for offset in range(WAITING_MOST):
        args = create_string_buffer(struct.pack("<QIi", offset, 0, 1))  # struct ptrace_peeksiginfo_args
        if attempt(PEEKSIGINFO, tid, addressof(info), size=addressof(args)) != 1:
            return False
        number, _, code = struct.unpack_from("<iii", info)
        if number == signal.SIGTRAP and code in (SI_KERNEL, TRAP_HWBKPT):
            return True
    return False


def _one_memory(parent: Task, child: Task, event: int) -> bool:
    """Threads share their memory, and so does a vfork child; a fork's is a copy, breakpoints included."""
    order = int(libc.syscall(SYS_KCMP, parent.tid, child.tid, KCMP_VM, 0, 0))
    return child.pid == parent.pid or event == loop.EVENT_VFORK if order < 0 else order == 0


def _message(tid: int) -> int:
    """PTRACE_GETEVENTMSG: an unsigned long, whatever python-ptrace has room for."""
    message = c_ulong()
    ptrace(PTRACE_GETEVENTMSG, tid, 0, addressof(message))
    return message.value


def _code(tid: int) -> int:
    """si_code of the signal that has stopped a task."""
    return int.from_bytes(signal_info(tid)[8:12], "little", signed=True)
