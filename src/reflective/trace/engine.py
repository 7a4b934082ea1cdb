"""`reflective trace --engine=python`: the loop of csrc/tracer in Python, through python-ptrace. Slow, easy to read and change.

Its records are those of the C loop, byte for byte but for times; a test holds that. What is different:

- It runs in the caller's thread, between two batches, and blocks there: python-ptrace has no thread of its own, and ptrace
  wants one thread. Memory is read through /proc/TID/mem, one system call more a task than process_vm_readv takes.
- python-ptrace 0.9.9 names neither PTRACE_SEIZE, INTERRUPT, LISTEN and GET_SYSCALL_INFO nor PTRACE_O_EXITKILL: its `ptrace()`
  takes their numbers. With its own ATTACH a group stop could not be told from a signal, nor entry from return.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from ctypes import addressof, create_string_buffer

from ptrace.binding.func import ptrace, ptrace_geteventmsg, ptrace_getregs
from ptrace.error import PtraceError

from ..native import tracer
from ..native.tracer import BODY, BYTES, HEAD, ON_ENTRY, ON_RETURN, Request
from .copies import Memory, Record, in_file_mapping
from .marks import JUMP, LOAD, Marks, signal_info
from .numbers import NAMES

# linux/ptrace.h, linux/wait.h
SEIZE, INTERRUPT, LISTEN, GET_SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 0x420E
SINGLESTEP, DETACH, SYSCALL = 9, 17, 24
EVENT_EXEC, EVENT_EXIT, EVENT_STOP = 4, 6, 128
SYSGOOD, FOLLOWED, TRACEEXEC, TRACEEXIT, EXITKILL = 1, 2 | 4 | 8, 16, 64, 1 << 20
WALL = 0x40000000
INFO = struct.Struct("<B3xIQQ64x")  # struct ptrace_syscall_info: op, arch, instruction and stack pointer
ENTRY, EXIT = 1, 2
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
SYSCALL_STOP = signal.SIGTRAP | 0x80
NUMBER = {name: number for number, name in NAMES.items()}
ENOUGH, FILE_MOST = 1 << 16, 1 << 20


class Task:
    """A traced task, and the record of the call it is in."""

    def __init__(self, tid: int) -> None:
        self.tid = self.pid = tid
        self.parent = 0
        with open(f"/proc/{tid}/status") as file:
            facts = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        self.pid, self.parent = int(facts["Tgid"]), int(facts["PPid"])
        self.memory, self.marks = Memory(tid), Marks(tid)
        self.affinity: set[int] | None = None
        self.in_call = self.flushed = self.hidden = False
        self.loading = 0
        self.record: Record | None = None
        self.head: tuple[int, int, int, int] = (0, 0, 0, 0)  # entered, number, flags, ip
        self.args: tuple[int, ...] = ()
        self.sp = 0

    def forget(self) -> None:
        """It has ended, or is not traced any more."""
        self.memory.close()

    def renamed(self, tid: int) -> None:
        """execve by a thread that does not lead its group: it goes on under the leader's number."""
        self.tid = self.pid = self.marks.tid = tid
        self.fresh()

    def fresh(self) -> None:
        """A new program: the old descriptor leads to the old memory."""
        self.memory.close()
        self.memory = Memory(self.tid)


class Session:
    """As native.tracer.Session, in Python."""

    def __init__(self, request: Request) -> None:
        self._request, self._tasks, self._out = request, dict[int, Task](), bytearray()
        self._open: Task | None = None
        self._status: int | None = None
        self._cpus = os.sched_getaffinity(0)
        self._cpu = max(self._cpus) if request.pin else -1
        self._error: OSError | None = None
        self._stopping = False
        self._waker, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wakers = waker, signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        if request.pin:
            os.sched_setaffinity(0, {self._cpu})
        for index, tid in enumerate(request.tids):
            try:
                self._seize(tid)
            except (PtraceError, OSError) as error:
                if index < request.needed:
                    number = error.errno or 0
                    self._error = OSError(number, os.strerror(number), tid)
                    self._stopping = True
                    self._interrupt_all()
                    return
        if request.gate >= 0:
            _, status = os.waitpid(request.tids[0], WALL)
            if not os.WIFSTOPPED(status):
                raise ChildProcessError(10, "the program's process has ended")
            ptrace(SYSCALL, request.tids[0])
            os.write(request.gate, b"\0")

    def _seize(self, tid: int) -> None:
        request = self._request
        options = SYSGOOD | TRACEEXEC | TRACEEXIT | (FOLLOWED if request.follow else 0)
        ptrace(SEIZE, tid, 0, options | (EXITKILL if request.gate >= 0 else 0))
        ptrace(INTERRUPT, tid)
        task = self._tasks[tid] = Task(tid)
        if self._cpu >= 0:
            task.affinity = os.sched_getaffinity(tid)
            os.sched_setaffinity(tid, {self._cpu})
        task.hidden = request.until != tracer.UNHIDDEN
        if not task.hidden:
            self._show(task)

    def batches(self, interrupted: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Records as they come, up to the end; when `interrupted` says so the session detaches from all tasks."""
        while self._tasks:
            if interrupted() and not self._stopping:
                self.stop()
            try:
                tid, status = os.waitpid(-1, WALL | os.WNOHANG)
            except ChildProcessError:
                break
            if tid:
                self._happened(tid, status)
            if self._out and (not tid or len(self._out) > ENOUGH):
                yield bytes(self._out)
                self._out.clear()
            if not tid:
                self._wait()
        if self._out:
            yield bytes(self._out)
            self._out.clear()

    def _wait(self) -> None:
        """For the next stop. A call in which a task waits while nothing else happens is told, if that was asked."""
        patience = tracer.QUIET_MS / 1000 if self._request.waiting and self._open else None
        if select.select([self._waker], [], [], patience)[0]:
            os.read(self._waker, 4096)
        elif self._open:
            task, head = self._open, self._open.head
            task.head = (*head[:2], head[2] | tracer.WAITING, head[3])
            self._interrupt_open()
            task.head = head

    def stop(self) -> None:
        """Asks to detach."""
        self._stopping = True
        self._interrupt_all()

    def finish(self) -> int | None:
        """The leader's wait status, None if it lives. OSError, `filename` the task that refused."""
        signal.set_wakeup_fd(self._wakers[1])
        signal.signal(signal.SIGCHLD, self._handler)
        os.close(self._wakers[0])
        os.close(self._waker)
        os.sched_setaffinity(0, self._cpus)
        if self._error:
            raise self._error
        return self._status

    def _interrupt_all(self) -> None:
        for tid in self._tasks:
            _try(INTERRUPT, tid)

    def _happened(self, tid: int, status: int) -> None:
        task = self._tasks.get(tid)
        if not os.WIFSTOPPED(status):
            if task:
                self._ended(task, status)
            return
        if task is None:
            try:
                task = self._tasks[tid] = Task(tid)
            except OSError:  # killed
                return
            first = self._request.tids[0]
            task.affinity = self._tasks[first].affinity if first in self._tasks else (self._cpus if self._cpu >= 0 else None)
            self._interrupt_open()
            self._tell(task, tracer.TASK, task.parent)
        self._stopped(task, status)

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
            _try(LISTEN, task.tid)
            return
        elif event == 0:
            deliver = self._signal(task, number)
        elif event != EVENT_STOP:
            task = self._event(task, event)
        _try(SINGLESTEP if task.marks.stepping else SYSCALL, task.tid, deliver)

    def _call(self, task: Task) -> None:
        info = create_string_buffer(88)
        if _try(GET_SYSCALL_INFO, task.tid, addressof(info), size=len(info)) is None:
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
                    task.args, task.record.payloads if task.record else [])  # fmt: skip

    def _write(
        self, task: Task, kind: int, times: tuple[int, int], facts: tuple[int, int, int, int], args: tuple[int, ...],
        payloads: list[bytes],
    ) -> None:  # fmt: skip
        body = BODY.pack(task.pid, task.tid, *facts, *args) + b"".join(payloads)
        self._out += HEAD.pack(HEAD.size + len(body), kind, *times) + body

    def _tell(self, task: Task, kind: int, first: int = 0, second: int = 0, data: list[bytes] | None = None) -> None:
        """An event besides the calls."""
        if task.hidden:
            return
        now, record = time.monotonic_ns(), Record(task.memory, 0)
        for one in data or ():
            record.add(0, 0, BYTES, 0, 0, one)
        facts = (0xFFFFFFFF, 0, 0, first if first < 1 << 63 else first - (1 << 64))
        self._write(task, kind, (now, now), facts, (first, second, 0, 0, 0, 0), record.payloads)

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
        if task.tid == self._request.leader:
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
        if task.affinity and os.sched_getaffinity(task.tid) == {self._cpu}:
            os.sched_setaffinity(task.tid, task.affinity)
        _try(DETACH, task.tid, number)
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


def _try(request: int, tid: int, data: int = 0, *, size: int = 0) -> int | None:
    """A request to a task that may have been killed meanwhile: then None."""
    try:
        return int(ptrace(request, tid, size, data))
    except PtraceError:
        return None
