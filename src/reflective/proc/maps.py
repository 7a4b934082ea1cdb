"""/proc/PID/maps as values."""

from __future__ import annotations

import os

from ..errors import SessionError
from ..values import Value

PROTECTIONS = ((b"r", 1), (b"w", 2), (b"x", 4))  # PROT_READ, PROT_WRITE, PROT_EXEC


class Mapping(Value):
    """A line of maps: [start, end) with PROT_* bits. `device` is as st_dev; `path` may be a name in brackets, or empty."""

    start: int
    end: int
    prot: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: str

    @property
    def file(self) -> bool:
        """True if a file is behind it."""
        return self.inode != 0


def read(pid: int) -> tuple[Mapping, ...]:
    """The address space of a process. Raises SessionError if it is not there, or not ours to look at."""
    return parse(content(pid, "maps"))


def parse(text: bytes) -> tuple[Mapping, ...]:
    """From the file's content."""
    return tuple(mapping(line) for line in text.splitlines())


def mapping(line: bytes) -> Mapping:
    """From one line. A newline in a path is written \\012 there (fs/proc/task_mmu.c: show_map_vma)."""
    place, flags, offset, device, inode, *path = line.split(None, 5)
    start, end = place.split(b"-")
    major, minor = device.split(b":")
    return Mapping(
        int(start, 16),
        int(end, 16),
        sum(bit for letter, bit in PROTECTIONS if letter in flags),
        flags.endswith(b"s"),
        int(offset, 16),
        os.makedev(int(major, 16), int(minor, 16)),
        int(inode),
        os.fsdecode(path[0]).replace("\\012", "\n") if path else "",
    )


def content(pid: int, name: str) -> bytes:
    """A file of /proc/PID. Raises SessionError that says why not, and what to do."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise unreadable(pid, name, error) from None


def unreadable(pid: int, name: str, error: OSError) -> SessionError:
    """What an error of opening or reading a file of /proc/PID means."""
    if isinstance(error, PermissionError):
        return SessionError(f"process {pid}: /proc/{pid}/{name} may not be read; {way_out(pid)}")
    if isinstance(error, (FileNotFoundError, ProcessLookupError)):
        return SessionError(f"no process {pid}")
    return SessionError(f"process {pid}: /proc/{pid}/{name}: {error.strerror}")


def check_space(pid: int, space: tuple[Mapping, ...]) -> tuple[Mapping, ...]:
    """The same space, if there is one. Raises SessionError for a zombie and a thread of the kernel."""
    if space:
        return space
    state, parent = content(pid, "stat").rpartition(b")")[2].split()[:2]
    if state not in (b"Z", b"X"):
        raise SessionError(f"process {pid} is a thread of the kernel: it has no address space of its own")
    others = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    if others:
        raise SessionError(f"process {pid}: its first thread has ended, others have not: give the number of one, {others[0]}")
    raise SessionError(f"process {pid} has ended (a zombie): its parent, {int(parent)}, has not waited for it yet")


def way_out(pid: int) -> str:
    """What to do about a process that may not be looked at: kernel/ptrace.c: __ptrace_may_access."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return "be root"
    if owner != os.geteuid():
        return f"it belongs to user {owner}: be that user, or root (CAP_SYS_PTRACE)"
    return "it is not dumpable, or has capabilities that this process has not: be root (CAP_SYS_PTRACE)"


def at(space: tuple[Mapping, ...], address: int) -> Mapping | None:
    """The mapping that an address is in."""
    return next((one for one in space if one.start <= address < one.end), None)
