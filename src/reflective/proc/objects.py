"""The ELF files behind an address space."""

from __future__ import annotations

import os

from ..elf.image import MAGIC, ElfImage, read
from ..errors import LoadError
from .maps import Mapping


def where(pid: int, mapping: Mapping) -> tuple[str, str] | None:
    """Path and root (what goes before it) by which the mapped file opens: as the process sees it, or, if another lies there by
    now, through map_files, which takes privilege (man 5 proc_pid_map_files). None if there is no way."""
    for path, root in ((mapping.path, f"/proc/{pid}/root"), (f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", "")):
        try:
            if path.startswith("/") and os.stat(root + path).st_ino == mapping.inode:
                return path, root
        except OSError:
            continue
    return None


def images(pid: int, space: tuple[Mapping, ...]) -> dict[int, ElfImage]:
    """The headers of every mapped file that is an x86-64 ELF file, by inode."""
    found: dict[int, ElfImage] = {}
    tried: set[int] = set()
    for mapping in space:
        if not mapping.file or mapping.inode in tried:
            continue
        tried.add(mapping.inode)
        place = where(pid, mapping)
        if place is None:
            continue
        try:
            fd = os.open(place[1] + place[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            found[mapping.inode] = read(fd, mapping.path, as_interpreter=True)
        except LoadError:
            pass  # not an ELF file, or a 32-bit one
        finally:
            os.close(fd)
    return found


def narrow(pid: int) -> bool:
    """True for a 32-bit program (EI_CLASS of its file)."""
    try:
        with open(f"/proc/{pid}/exe", "rb", buffering=0) as file:
            return file.read(5) == MAGIC + b"\1"
    except OSError:
        return False


def memory(pid: int, mapping: Mapping) -> bytes:
    """What a process has there: the vdso's image, say. Empty if it may not be read."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            file.seek(mapping.start)
            return file.read(mapping.end - mapping.start)
    except OSError:
        return b""


def executable(pid: int) -> str:
    """The path of the program that a process runs; "" if it may not be known."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
