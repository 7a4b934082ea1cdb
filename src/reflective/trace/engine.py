"""`reflective trace --engine=python`: the loop of csrc/tracer in Python.

Its records are those of the C loop, byte for byte but for times; a test holds that.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterable
from ctypes import addressof, create_string_buffer

from ptrace.binding.func import ptrace_geteventmsg, ptrace_getregs
from ptrace.error import PtraceError

from ..native import tracer
from ..native.tracer import BYTES, ON_ENTRY, ON_RETURN, Request
from . import loop
from .copies import Record, in_file_mapping
from .loop import DETACH, EVENT_EXEC, EVENT_EXIT, EVENT_STOP, FOLLOWED, LISTEN, SYSCALL, Loop, attempt
from .marks import JUMP, LOAD, Marks, signal_info
from .numbers import NAMES

SINGLESTEP, GET_SYSCALL_INFO = 9, 0x420E  # linux/ptrace.h
INFO = struct.Struct("<B3xIQQ64x")  # struct ptrace_syscall_info: op, arch, instruction and stack pointer
ENTRY, EXIT = 1, 2
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
SYSCALL_STOP = signal.SIGTRAP | 0x80
NUMBER = {name: number for number, name in NAMES.items()}
FILE_MOST = 1 << 20


class Task(loop.Task):
    """A traced task, and the record of the call it is in."""

    def __init__(self, tid: int) -> None:
        super().__init__(tid)
        self.marks = Marks(tid)
        self.in_call = self.flushed = self.hidden = False
        self.loading = 0
        self.record: Record | None = None
        self.head: tuple[int, int, int, int] = (0, 0, 0, 0)  # entered, number, flags, ip
        self.args: tuple[int, ...] = ()
        self.sp = 0

    def renamed(self, tid: int) -> None:
        """execve by a thread that does not lead its group."""
        self.marks.tid = tid
        super().renamed(tid)


class Session(Loop[Task]):
    """As native.tracer.Session, in Python."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._open: Task | None = None
        self.options |= FOLLOWED if request.follow else 0
        super().__init__(request.tids, leader=request.leader, gate=request.gate, pin=request.pin, needed=request.needed)

    def _task(self, tid: int) -> Task:
        return Task(tid)

    def _began(self, task: Task) -> None:
        task.hidden = self._request.until != tracer.UNHIDDEN
        if not task.hidden:
            self._show(task)

    def _patience(self) -> float | None:
        return tracer.QUIET_MS / 1000 if self._request.waiting and self._open else None

    def _quiet(self) -> None:
        """The call in which a task waits is told."""
        if self._open:
            task, head = self._open, self._open.head
            task.head = (*head[:2], head[2] | tracer.WAITING, head[3])
            self._interrupt_open()
            task.head = head

    def _happened(self, tid: int, status: int) -> Iterable[None]:
        task = self._tasks.get(tid)
        if not os.WIFSTOPPED(status):
            if task:
                self._ended(task, status)
            return ()
        if task is None:
            task = self._appeared(tid)
            if task is None:
                return ()
            self._interrupt_open()
            self._tell(task, tracer.TASK, task.parent)
        self._stopped(task, status)
        return ()

    def _stopped(self, task: Task, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if self._stopping:
            self._detach(task, 0 if event or number == SYSCALL_STOP else number)
            return
        deliver = 0
        if number == SYSCALL_STOP:
            self._call(task)
        elif event == EVENT_STOP and number != signal.SIGTRAP:
            if not task.hidden:
                self._interrupt_open()
                self._tell(task, tracer.STOPPED, number)
            attempt(LISTEN, task.tid)
            return
        elif event == 0:
            deliver = self._signal(task, number)
        elif event != EVENT_STOP:
            task = self._event(task, event)
        attempt(SINGLESTEP if task.marks.stepping else SYSCALL, task.tid, deliver)

    def _call(self, task: Task) -> None:
        info = create_string_buffer(88)
        if attempt(GET_SYSCALL_INFO, task.tid, addressof(info), size=len(info)) is None:
            return
        op, arch, ip, sp = INFO.unpack_from(info)
        if op == ENTRY:
            number, *args = struct.unpack_from("<7Q", info, 24)
            flags = 0 if arch == X86_64 else tracer.FOREIGN
            self._entered(task, (time.monotonic_ns(), number & 0xFFFFFFFF, flags, ip), tuple(args), sp)
        elif op == EXIT:
            self._left(task, *struct.unpack_from("<q?", info, 24))

    def _wanted(self, task: Task) -> bool:
        wanted, number = self._request.wanted, task.head[1]
        if number >= self._request.numbers or task.head[2] & tracer.FOREIGN:
            number = self._request.numbers
        return wanted is None or number in wanted

    def _entered(self, task: Task, head: tuple[int, int, int, int], args: tuple[int, ...], sp: int) -> None:
        task.head, task.args, task.sp = head, args, sp
        task.record = Record(task.memory, self._request.string_limit)
        task.record.registers = lambda: bytes(ptrace_getregs(task.tid))
        task.marks.called()
        if task.hidden and self._appears(task):
            self._show(task)
        task.in_call, task.flushed = True, False
        if task.hidden or not self._wanted(task):
            return
        self._copy(task, ON_ENTRY, 0)
        self._interrupt_open()
        self._open = task

    def _copy(self, task: Task, when: int, ret: int) -> None:
        if task.record and not task.head[2] & (tracer.FOREIGN | tracer.ERROR):
            task.record.copy(self._request.copies.get(task.head[1], ()), when, task.args, ret, task.sp)

    def _appears(self, task: Task) -> bool:
        if self._request.until == tracer.UNTIL_ANONYMOUS:
            return not in_file_mapping(task.pid, task.head[3])
        return task.head[1] in (NUMBER["execve"], NUMBER["execveat"])

    def _show(self, task: Task) -> None:
        task.hidden = False
        self._tell(task, tracer.TASK, task.parent)
        if self._request.phases:
            self._maps(task)
        if self._request.until == tracer.UNTIL_ANONYMOUS:
            self._tell(task, tracer.MARK, LOAD)
            task.loading = 1

    def _left(self, task: Task, ret: int, error: bool) -> None:
        if not task.in_call:  # attached in the middle of it
            return
        task.in_call = False
        if task.hidden or not self._wanted(task):
            return
        if error:
            task.head = (*task.head[:2], task.head[2] | tracer.ERROR, task.head[3])
        self._copy(task, ON_RETURN, ret)
        if self._open is task:
            self._open = None
        else:
            self._interrupt_open()
        self._append(task, tracer.LEAVE if task.flushed else tracer.SYSCALL, ret)
        if task.loading == 2:
            task.loading = 0
            self._tell(task, tracer.MARK, JUMP)
            self._new_program(task)
        elif task.loading and task.head[1] == NUMBER["rt_sigreturn"]:
            task.loading = 2

    def _append(self, task: Task, kind: int, ret: int = 0) -> None:
        entered, number, flags, ip = task.head
        self._write(task, kind, (entered, entered if kind == tracer.ENTER else time.monotonic_ns()), (number, flags, ip, ret),
                    task.args, b"".join(task.record.payloads if task.record else ()))  # fmt: skip

    def _tell(self, task: Task, kind: int, first: int = 0, second: int = 0, data: list[bytes] | None = None) -> None:
        """An event besides the calls."""
        if task.hidden:
            return
        now, record = time.monotonic_ns(), Record(task.memory, 0)
        for one in data or ():
            record.add(0, 0, BYTES, 0, 0, one)
        facts = (0xFFFFFFFF, 0, 0, first if first < 1 << 63 else first - (1 << 64))
        self._write(task, kind, (now, now), facts, (first, second, 0, 0, 0, 0), b"".join(record.payloads))

    def _interrupt_open(self) -> None:
        """Another task, or a signal, comes between this call's entry and its return."""
        if self._open:
            self._append(self._open, tracer.ENTER)
            self._open.flushed, self._open = True, None

    def _maps(self, task: Task) -> None:
        self._tell(task, tracer.MAPS, data=[_file(task.tid, name) for name in ("maps", "auxv", "environ")])

    def _new_program(self, task: Task) -> None:
        task.fresh()
        if self._request.phases:
            self._maps(task)
            task.marks.executed()

    def _signal(self, task: Task, number: int) -> int:
        trap = task.marks.trapped(task.pid, task.memory) if number == signal.SIGTRAP else None
        if trap is not None:
            if trap[0]:
                self._tell(task, tracer.MARK, *trap)
            return 0
        info = signal_info(task.tid)
        if info and not task.hidden:
            self._interrupt_open()
            self._tell(task, tracer.SIGNAL, number, 0, [info])
        return number

    def _event(self, task: Task, event: int) -> Task:
        try:
            message = ptrace_geteventmsg(task.tid)
        except PtraceError:
            return task
        if event == EVENT_EXEC:
            return self._executed(task, message)
        if event != EVENT_EXIT:
            self._tell(task, tracer.CLONE, message, event)
        elif task.in_call and not task.hidden and self._wanted(task):
            if self._open is task:
                self._open = None
            else:
                self._interrupt_open()
            entered, number, flags, ip = task.head
            task.head = (entered, number, flags | (tracer.TOLD if task.flushed else 0), ip)
            self._append(task, tracer.EXITING)
            task.in_call = False
        return task

    def _executed(self, task: Task, former: int) -> Task:
        caller = self._tasks.pop(former, None) if former != task.tid else None
        if caller:  # the thread that called execve takes over the leader's number, and the leader is gone
            self._interrupt_open()
            self._tell(task, tracer.EXEC, former)
            task.forget()
            caller.renamed(task.tid)
            task = self._tasks[task.tid] = caller
        else:
            self._tell(task, tracer.EXEC, former)
        self._new_program(task)
        return task

    def _ended(self, task: Task, status: int) -> None:
        if task.tid == self._leader:
            self._status = status
        self._interrupt_open()
        if os.WIFEXITED(status):
            self._tell(task, tracer.EXITED, os.WEXITSTATUS(status))
        else:
            self._tell(task, tracer.KILLED, os.WTERMSIG(status), int(os.WCOREDUMP(status)))
        self._remove(task)

    def _detach(self, task: Task, number: int) -> None:
        inside = task.in_call and not task.hidden and self._wanted(task)
        task.marks.none()
        self._unpin(task)
        attempt(DETACH, task.tid, number)
        if self._open is task:
            task.head = (*task.head[:2], task.head[2] | tracer.LAST, task.head[3])
        self._interrupt_open()
        self._tell(task, tracer.DETACHED, int(inside))
        self._remove(task)

    def _remove(self, task: Task) -> None:
        if self._open is task:
            self._open = None
        task.forget()
        del self._tasks[task.tid]


def _file(tid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{tid}/{name}", "rb") as file:
            return file.read(FILE_MOST)
    except OSError:  # killed
        return b""
