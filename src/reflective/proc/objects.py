"""The ELF files behind an address space."""

from __future__ import annotations

import os

from ..elf.image import ElfImage, read
from ..errors import LoadError
from .maps import Mapping


def images(pid: int, space: tuple[Mapping, ...]) -> dict[int, ElfImage]:
    """The headers of every mapped file that is an x86-64 ELF file, by inode; files that have been replaced are left out."""
    found: dict[int, ElfImage] = {}
    for mapping in space:
        if mapping.inode in found or not mapping.path.startswith("/"):
            continue
        try:
            fd = os.open(f"/proc/{pid}/root{mapping.path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_ino == mapping.inode:
                found[mapping.inode] = read(fd, mapping.path, as_interpreter=True)
        except LoadError:
            pass  # not an ELF file, or a 32-bit one
        finally:
            os.close(fd)
    return found
