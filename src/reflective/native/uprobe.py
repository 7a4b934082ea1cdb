"""Probes in a file's code that stop nobody: defined in tracefs, opened by perf for some processes, read from its rings."""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType

from ..errors import SessionError
from ..values import Value
from ._core import lib

PAGE = mmap.PAGESIZE
RING = 256 * PAGE  # bytes for the records of one CPU, a power of two of pages
HEAD, TAIL = 1024, 1032  # offsetof(struct perf_event_mmap_page, data_head), data_tail
LOST, COMM, EXIT, FORK, SAMPLE, MMAP2 = 2, 3, 4, 7, 9, 10  # PERF_RECORD_*
COMM_EXEC = 1 << 13
HEADER = struct.Struct("<IHH")
LATE = 2_000_000  # ns by which a record may come late to its ring


class Hit(Value):
    """A probe was passed: its name, and the values that it fetched."""

    t_ns: int
    pid: int
    tid: int
    probe: str
    values: tuple[int, ...]


class Mapped(Value):
    """A file was mapped to be executed: `size` bytes at `start`, from `offset` in it."""

    t_ns: int
    pid: int
    start: int
    size: int
    offset: int
    path: str


class Forked(Value):
    """A process has a child."""

    t_ns: int
    pid: int
    child: int


class Execed(Value):
    """A process has become another program: all of its mappings are gone."""

    t_ns: int
    pid: int


class Ended(Value):
    """The first thread of a process has ended."""

    t_ns: int
    pid: int


class Lost(Value):
    """So many records found no room."""

    t_ns: int
    count: int


Record = Hit | Mapped | Forked | Execed | Ended | Lost


class Probes:
    """Probes, by name: an offset in the file, and what to fetch (Documentation/trace/uprobetracer.rst: FETCHARGS).

    Each fetched value is an unsigned 64-bit number. Leaving the `with` block removes them. Raises SessionError if the kernel
    does not let us (root, or CAP_SYS_ADMIN), or has no uprobes.
    """

    def __init__(self, path: str, probes: Mapping[str, tuple[int, Sequence[str]]]) -> None:
        self._group = f"reflective_{os.getpid()}"
        self._names: list[str] = []
        self._rings: list[_Ring] = []
        self._late: list[Record] = []
        self._distinct = True
        self.ids: dict[int, str] = {}
        self._counts: dict[int, int] = {}
        self._root = int(lib.refl_tracefs())
        if self._root < 0:
            raise _refused("tracefs", -self._root)
        try:
            self._define(path, probes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self, pid: int) -> None:
        """From now on, in a process (all of its threads) and what it will start."""
        for task in os.listdir(f"/proc/{pid}/task"):
            for cpu in range(os.cpu_count() or 1):
                self._open(int(task), cpu)

    def records(self, timeout: float, *, last: bool = False) -> list[Record]:
        """What has been recorded since, in the order of time, after waiting at most `timeout` seconds for much to come.

        The `last` time it is all; before that, records of the last moments are kept back, for earlier ones may come yet.
        """
        poll = select.poll()
        for ring in self._rings:
            poll.register(ring.fd, select.POLLIN)
        poll.poll(0 if last else timeout * 1000)
        safe = time.monotonic_ns() - (0 if last else LATE)
        found = [record for ring in self._rings for record in ring.take(self._parse)]
        found = sorted(self._late + found, key=lambda one: one.t_ns)
        self._late = [one for one in found if one.t_ns > safe]
        return [one for one in found if one.t_ns <= safe]

    def _parse(self, kind: int, misc: int, data: bytes) -> Record | None:
        """From a record's bytes: include/uapi/linux/perf_event.h: enum perf_event_type."""
        if kind != SAMPLE:
            return _record(kind, misc, data)
        pid, tid, now = struct.unpack_from("<IIQ", data)
        raw = 16 + 8 * self._distinct + 4  # behind the count and the size
        number = int.from_bytes(data[raw : raw + 2], "little")
        # They begin with 8 bytes that all events have, then the probe's address.
        return Hit(now, pid, tid, self.ids[number], struct.unpack_from(f"<{self._counts[number]}Q", data, raw + 8 + 8))

    def close(self) -> None:
        """Nothing is left, neither here nor in the kernel."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        for name in self._names:
            with suppress(OSError):
                self._write("uprobe_events", f"-:{self._group}/{name}")
        self._names.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _define(self, path: str, probes: Mapping[str, tuple[int, Sequence[str]]]) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for name, (offset, fetched) in probes.items():
                words = " ".join(f"v{at}={what}:x64" for at, what in enumerate(fetched))
                # By descriptor: the path may have a space in it, or be another file by now.
                self._write("uprobe_events", f"p:{self._group}/{name} /proc/{os.getpid()}/fd/{file}:{offset:#x} {words}")
                self._names.append(name)
                number = int(self._read(f"events/{self._group}/{name}/id"))
                self.ids[number], self._counts[number] = name, len(fetched)
        except OSError as error:
            raise _refused("a uprobe", error.errno or errno.EIO) from None
        finally:
            os.close(file)

    def _open(self, tid: int, cpu: int) -> None:
        into = next((ring.fd for ring in self._rings if ring.cpu == cpu and ring.tid == tid), -1)
        for number in self.ids:
            fd = int(lib.refl_perf_open(number, tid, cpu, RING // 8, into, self._distinct))
            if fd == -errno.EINVAL and self._distinct and not self._rings:  # Linux before 6.13
                self._distinct = False
                fd = int(lib.refl_perf_open(number, tid, cpu, RING // 8, into, False))
            if fd == -errno.ESRCH or fd == -errno.ENODEV:
                return  # the thread has ended, or the CPU is offline
            if fd < 0:
                raise _refused("perf_event_open", -fd)
            if into < 0:
                self._rings.append(_Ring(fd, tid, cpu))
                into = fd
            else:
                self._rings[-1].more.append(fd)

    def _write(self, name: str, text: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=self._root)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._root)
        with os.fdopen(fd) as file:
            return file.read()


class _Ring:
    """The records of a task on one CPU."""

    def __init__(self, fd: int, tid: int, cpu: int) -> None:
        self.fd, self.tid, self.cpu = fd, tid, cpu
        self.more: list[int] = []
        try:
            self._memory = mmap.mmap(fd, PAGE + RING, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            os.close(fd)
            raise _refused("a ring of perf's", error.errno or errno.ENOMEM) from None

    def close(self) -> None:
        self._memory.close()
        for fd in (*self.more, self.fd):
            os.close(fd)

    def take(self, parse: Callable[[int, int, bytes], Record | None]) -> Iterator[Record]:
        """All that is there."""
        head, tail = struct.unpack_from("<QQ", self._memory, HEAD)
        begin, end = tail % RING, head % RING
        if head - tail <= end - begin:
            data = self._memory[PAGE + begin : PAGE + end]
        else:
            data = self._memory[PAGE + begin : PAGE + RING] + self._memory[PAGE : PAGE + end]
        struct.pack_into("<Q", self._memory, TAIL, head)
        at = 0
        while at + HEADER.size <= len(data):
            kind, misc, size = HEADER.unpack_from(data, at)
            record = parse(kind, misc, data[at + HEADER.size : at + size])
            if record:
                yield record
            at += size


def _record(kind: int, misc: int, data: bytes) -> Record | None:
    """Those that are no samples: their time comes last."""
    now = int.from_bytes(data[-8:], "little")
    if kind == MMAP2:
        pid, _, start, size, offset = struct.unpack_from("<IIQQQ", data)
        return Mapped(now, pid, start, size, offset, os.fsdecode(data[64:-16].partition(b"\0")[0]))
    if kind == FORK:
        child, parent = struct.unpack_from("<II", data)
        return Forked(now, parent, child) if child != parent else None
    if kind == EXIT:
        pid, _, tid = struct.unpack_from("<III", data)
        return Ended(now, pid) if pid == tid else None
    if kind == COMM and misc & COMM_EXEC:
        return Execed(now, struct.unpack_from("<I", data)[0])
    return Lost(now, struct.unpack_from("<QQ", data)[1]) if kind == LOST else None


def _refused(what: str, number: int) -> SessionError:
    hint = ": be root (CAP_SYS_ADMIN)" if number in (errno.EPERM, errno.EACCES) else ""
    missing = ": this kernel has none (CONFIG_UPROBE_EVENTS)" if number in (errno.ENODEV, errno.ENOENT) else ""
    return SessionError(f"{what} is refused: {os.strerror(number)}{hint}{missing}")
