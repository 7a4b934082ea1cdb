"""/proc/PID/mem: another process's memory, without stopping it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType

from ..errors import SessionError
from .maps import way_out

NEAR = 4096  # words as close as this are read at once


class Memory:
    """Open memory of a process. Raises SessionError if it is not there or not ours (kernel/ptrace.c: __ptrace_may_access)."""

    def __init__(self, pid: int, *, write: bool = False) -> None:
        self.pid = pid
        try:
            self._fd = os.open(f"/proc/{pid}/mem", (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        except PermissionError:
            raise SessionError(f"process {pid}: its memory may not be read; {way_out(pid)}") from None
        except (FileNotFoundError, ProcessLookupError):
            raise SessionError(f"no process {pid}") from None

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at an address; fewer, or none, where no more is mapped, or the process has ended."""
        try:
            return os.pread(self._fd, size, address)
        except (OSError, OverflowError):
            return b""

    def write(self, address: int, data: bytes) -> None:
        """Writes, also to what it has mapped read-only: a copy of the page of its own (FOLL_FORCE). Raises SessionError."""
        try:
            done = os.pwrite(self._fd, data, address)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "no such address"
            raise SessionError(f"process {self.pid}: can't write at {address:#x}: {why}") from None
        if done != len(data):
            raise SessionError(f"process {self.pid}: {done} of {len(data)} bytes written at {address:#x}")

    def words(self, addresses: Iterable[int]) -> dict[int, int]:
        """The 8 bytes at each address, little-endian; what can't be read is left out."""
        found: dict[int, int] = {}
        group: list[int] = []
        for address in [*sorted(set(addresses)), None]:
            if group and (address is None or address - group[-1] > NEAR):
                self._group(group, found)
                group = []
            if address is not None:
                group.append(address)
        return found

    def _group(self, group: list[int], found: dict[int, int]) -> None:
        data = self.read(group[0], group[-1] - group[0] + 8)
        for address in group:
            place = address - group[0]
            word = data[place : place + 8] if place + 8 <= len(data) else self.read(address, 8)
            if len(word) == 8:
                found[address] = int.from_bytes(word, "little")
