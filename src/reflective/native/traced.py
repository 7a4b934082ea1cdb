"""Children that are traced by this thread: started to be looked at (csrc/host/traced.c)."""

from __future__ import annotations

import os

from ..errors import load_error
from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


EPERM, ECANCELED = 1, 125


class Command:
    """A program with its arguments and environment, as C has them: made once, started many times."""

    def __init__(self, path: str, argv: tuple[bytes, ...], envp: tuple[bytes, ...]) -> None:
        self.path = path
        self._name = os.fsencode(path)
        self._alive: list[object] = []
        self._argv, self._envp = self._vector(argv), self._vector(envp)

    def _vector(self, strings: tuple[bytes, ...]) -> Any:
        items = [ffi.new("char[]", string) for string in strings]
        self._alive += items
        return ffi.new("char *[]", [*items, ffi.NULL])

    def start(self) -> int:
        """A child that becomes the program by execve and stops, traced, before its first instruction, for waitpid to see.

        Raises LoadError, and then no child is left.
        """
        pid = lib.refl_exec_traced(self._name, self._argv, self._envp)
        if pid == -ECANCELED:
            raise load_error(EPERM, "ptrace(PTRACE_TRACEME): Operation not permitted", self.path)
        if pid < 0:
            raise load_error(-pid, os.strerror(-pid), self.path)
        return pid


def run_to(pid: int, address: int) -> int:
    """Lets a stopped, traced child run to an address. 0 if it is there, its wait status if it ended before; raises OSError."""
    result = lib.refl_run_to(pid, address)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
