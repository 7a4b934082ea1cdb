"""A running process, held for a moment."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from types import TracebackType

from ptrace import PtraceError
from ptrace.binding.func import ptrace, ptrace_detach

from ..errors import SessionError
from ..proc import maps

SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h


class Held:
    """All threads of a running process, stopped while the `with` block lasts; no signal is sent, and none is lost."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._signals: dict[int, int] = {}  # by thread: the signal that it was about to take

    def __enter__(self) -> Held:
        try:
            while new := [tid for tid in self._threads() if tid not in self._signals]:
                for tid in new:
                    self._stop(tid)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def _threads(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        except FileNotFoundError:
            raise SessionError(f"no process {self.pid}") from None

    def _stop(self, tid: int) -> None:
        try:
            ptrace(SEIZE, tid)
            ptrace(INTERRUPT, tid)
        except PtraceError as error:
            self._signals[tid] = 0  # it has ended, or
            if error.errno == errno.EPERM and os.path.exists(f"/proc/{self.pid}/task/{tid}"):
                raise SessionError(f"process {self.pid} can't be stopped: {maps.way_out(self.pid)}") from None
            return
        _, status = os.waitpid(tid, WALL)
        taken = os.WIFSTOPPED(status) and not status >> 16  # else it is the stop that was asked for, or the end
        self._signals[tid] = os.WSTOPSIG(status) if taken else 0

    def _release(self) -> None:
        for tid, number in self._signals.items():
            with suppress(PtraceError):
                ptrace_detach(tid, number)
        self._signals.clear()
