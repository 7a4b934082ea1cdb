"""A ptrace session in Python, through python-ptrace: csrc/tracer's session.c once more. Slow, easy to read and change.

What a stop means is said by those that build on it: engine.py (`trace --engine=python`), got.py (`got-watch --engine=python`).
What is different from the C sessions:

- It runs in the caller's thread, between two batches, and blocks there: python-ptrace has no thread of its own, and ptrace
  wants one thread. Memory is read through /proc/TID/mem, one system call more a task than process_vm_readv takes.
- python-ptrace 0.9.9 names neither PTRACE_SEIZE, INTERRUPT, LISTEN and GET_SYSCALL_INFO nor PTRACE_O_EXITKILL: its `ptrace()`
  takes their numbers. With its own ATTACH a group stop could not be told from a signal, nor entry from return.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from ptrace.binding.func import ptrace
from ptrace.error import PtraceError

from ..native.tracer import BODY, HEAD
from .copies import Memory

# linux/ptrace.h, linux/wait.h
CONT, DETACH, SYSCALL, SEIZE, INTERRUPT, LISTEN = 7, 17, 24, 0x4206, 0x4207, 0x4208
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_VFORK_DONE, EVENT_EXIT, EVENT_STOP = 1, 2, 3, 4, 5, 6, 128
SYSGOOD, FOLLOWED, TRACEEXEC, TRACEVFORKDONE, TRACEEXIT, EXITKILL = 1, 2 | 4 | 8, 16, 32, 64, 1 << 20
WALL = 0x40000000
ENOUGH = 1 << 16  # bytes of records


class Task:
    """A traced task."""

    def __init__(self, tid: int) -> None:
        """Raises OSError if it has been killed."""
        self.tid = tid
        with open(f"/proc/{tid}/status") as file:
            facts = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        self.pid, self.parent = int(facts["Tgid"]), int(facts["PPid"])
        self.memory = Memory(tid)
        self.affinity: set[int] | None = None  # what it was before it was pinned

    def forget(self) -> None:
        """It has ended, or is not traced any more."""
        self.memory.close()

    def renamed(self, tid: int) -> None:
        """execve by a thread that does not lead its group: it goes on under the leader's number."""
        self.tid = self.pid = tid
        self.fresh()

    def fresh(self) -> None:
        """A new program: the old descriptor leads to the old memory."""
        self.memory.close()
        self.memory = Memory(self.tid)


T = TypeVar("T", bound=Task)


class Loop(Generic[T]):
    """As native.tracer.Session, in Python."""

    options = SYSGOOD | TRACEEXEC | TRACEEXIT
    resume = SYSCALL

    def __init__(self, tids: Sequence[int], *, leader: int, gate: int, pin: bool, needed: int) -> None:
        """As native.tracer.Request has them. With a gate tids[0] goes on to the call of the program when it is traced."""
        self._tids, self._leader, self._gate = tuple(tids), leader, gate
        self._tasks, self._out = dict[int, T](), bytearray()
        self._work: Iterator[None] = iter(())
        self._status: int | None = None
        self._cpus = os.sched_getaffinity(0)
        self._cpu = max(self._cpus) if pin else -1
        self._error: OSError | None = None
        self._stopping = False
        self._waker, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wakers = waker, signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        if pin:
            os.sched_setaffinity(0, {self._cpu})
        for index, tid in enumerate(tids):
            try:
                self._seize(tid)
            except (PtraceError, OSError) as error:
                if index < needed:
                    number = error.errno or 0
                    self._error = OSError(number, os.strerror(number), tid)
                    self.stop()
                    return
        if gate >= 0:
            _, status = os.waitpid(tids[0], WALL)
            if not os.WIFSTOPPED(status):
                raise ChildProcessError(10, "the program's process has ended")
            ptrace(self.resume, tids[0])
            os.write(gate, b"\0")

    # What those that build on it say

    def _task(self, tid: int) -> T:
        """A task that is known from now on."""
        raise NotImplementedError

    def _began(self, task: T) -> None:
        """One of those to begin with is traced now."""

    def _happened(self, tid: int, status: int) -> Iterable[None]:
        """What waitpid has told. Each item that comes means: what is recorded must be read before it can go on."""
        raise NotImplementedError

    def _patience(self) -> float | None:
        """How long to wait for the next stop until it is `_quiet`, in s; None: for ever."""
        return None

    def _quiet(self) -> None:
        """Nothing has happened for so long."""

    # The session

    def _seize(self, tid: int) -> None:
        ptrace(SEIZE, tid, 0, self.options | (EXITKILL if self._gate >= 0 else 0))
        ptrace(INTERRUPT, tid)
        task = self._tasks[tid] = self._task(tid)
        if self._cpu >= 0:
            task.affinity = os.sched_getaffinity(tid)
            os.sched_setaffinity(tid, {self._cpu})
        self._began(task)

    def _appeared(self, tid: int) -> T | None:
        """A thread or child, pinned as its maker was before it; None if it has been killed already."""
        try:
            task = self._tasks[tid] = self._task(tid)
        except OSError:
            return None
        first = self._tasks.get(self._tids[0])
        task.affinity = first.affinity if first else (self._cpus if self._cpu >= 0 else None)
        return task

    def batches(self, interrupted: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Records as they come, up to the end; when `interrupted` says so the session detaches from all tasks."""
        while True:
            if interrupted() and not self._stopping:
                self.stop()
            for _ in self._work:  # which goes on where it was left, should nobody have wanted more
                yield self._taken()
            if not self._tasks:
                break
            try:
                tid, status = os.waitpid(-1, WALL | os.WNOHANG)
            except ChildProcessError:
                break
            if tid:
                self._work = iter(self._happened(tid, status))
            elif not self._out:
                if select.select([self._waker], [], [], self._patience())[0]:
                    os.read(self._waker, 4096)
                else:
                    self._quiet()
            if self._out and (not tid or len(self._out) > ENOUGH):
                yield self._taken()
        if self._out:
            yield self._taken()

    def _taken(self) -> bytes:
        records = bytes(self._out)
        self._out.clear()
        return records

    def stop(self) -> None:
        """Asks to detach."""
        self._stopping = True
        for tid in self._tasks:
            attempt(INTERRUPT, tid)

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

    def _unpin(self, task: T) -> None:
        """Only if it still is as we set it: what the task has chosen itself stays."""
        if task.affinity and os.sched_getaffinity(task.tid) == {self._cpu}:
            os.sched_setaffinity(task.tid, task.affinity)

    def _write(
        self,
        task: Task,
        kind: int,
        times: tuple[int, int],
        facts: tuple[int, int, int, int],
        args: Sequence[int],
        data: bytes = b"",
    ) -> None:  # fmt: skip
        """A record: `facts` are number, flags, instruction pointer and result."""
        body = BODY.pack(task.pid, task.tid, *facts, *args) + data
        self._out += HEAD.pack(HEAD.size + len(body), kind, *times) + body


def attempt(request: int, tid: int, data: int = 0, *, size: int = 0) -> int | None:
    """A request to a task that may have been killed meanwhile: then None."""
    try:
        return int(ptrace(request, tid, size, data))
    except PtraceError:
        return None
