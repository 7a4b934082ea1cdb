"""The memory that an ELF file becomes: addresses are checked against PT_LOAD, offsets against the size of the file."""

from __future__ import annotations

import errno

from ..errors import LoadError, load_error
from .image import ElfImage, Segment, read_at


class Memory:
    """An open file as the memory that it becomes, at link-time addresses."""

    def __init__(self, fd: int, image: ElfImage) -> None:
        self.fd, self.image, self.path = fd, image, image.path

    def bad(self, reason: str) -> LoadError:
        """The file is broken, ENOEXEC."""
        return load_error(errno.ENOEXEC, reason, self.path)

    def home(self, address: int) -> Segment | None:
        """The PT_LOAD that an address is in: the last, for what is mapped later covers what was mapped before."""
        return next((load for load in reversed(self.image.loads) if load.vaddr <= address < load.vaddr + load.memsz), None)

    def at(self, address: int, size: int, what: str) -> bytes:
        """What the file holds for `size` bytes of memory. Raises LoadError, with `what`, the field that pointed there."""
        load = self.home(address)
        if load is None:
            raise self.bad(f"{what} is {address:#x}, which is in no PT_LOAD")
        if address - load.vaddr + size > load.filesz:
            raise self.bad(f"{what}: {size} bytes at {address:#x} do not fit into PT_LOAD (program header {load.index})")
        return self.content(load.offset + address - load.vaddr, size, what)

    def content(self, offset: int, size: int, what: str) -> bytes:
        """Bytes of the file."""
        if offset + size > self.image.identity.size:
            raise self.bad(f"{what}: the file ends before {size} bytes at offset {offset:#x}")
        data = read_at(self.fd, size, offset, self.path)
        if len(data) < size:
            raise self.bad(f"{what}: the file has become shorter")
        return data
