"""The files that a zygote is made of (csrc/zygote/zygote.h): a shape for each size of what lies at the top of the mmap area,
and one file of bodies. What is written there is never changed, so forked children may go on using it; they write to files of
their own. Threads need no lock: each of them gets places of its own.
"""

from __future__ import annotations

import os
from struct import Struct

from ..elf.image import PAGE
from ._core import ffi, lib
from .run import above_stdio

EINVAL, E2BIG, EFBIG = 22, 7, 27
RLIMIT_FSIZE = 1
MFD_EXEC = 0x10  # Linux 6.3; where it is not known a memfd can be executed anyway
CODE_AT = 256  # csrc/zygote/zygote.h: ZYGOTE_CODE
EHDR, PHDR = Struct("<16sHHIQQQIHHHHHH"), Struct("<IIQQQQQQ")
ET_EXEC, ET_DYN, EM_X86_64, PT_LOAD, PT_GNU_STACK = 2, 3, 62, 1, 0x6474E551
PF_R, PF_W, PF_X = 4, 2, 1
SHAPES = 16  # kept; those of dynamic programs differ only if their interpreters do
PLACE, PLACES = 1 << 16, 64  # bytes for one body, of which few are written, and bodies in a file


class Memfd:
    """A file in memory that can be executed; close-on-exec, and none of the standard streams. Closed with its last user."""

    def __init__(self, name: str, size: int) -> None:
        """Of `size` zero bytes, which take no memory. Raises OSError, also (EFBIG) beyond RLIMIT_FSIZE."""
        _check_size(size)
        try:
            fd = os.memfd_create(name, os.MFD_CLOEXEC | MFD_EXEC)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self.fd = above_stdio(fd)
        status = os.fstat(self.fd)
        self.device, self.inode = status.st_dev, status.st_ino
        os.ftruncate(self.fd, size)

    def is_open(self) -> bool:
        """True unless somebody has closed it; another file may have its number then."""
        try:
            status = os.fstat(self.fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def write(self, content: bytes, at: int) -> None:
        """Writes all of it, within the size. Raises OSError as above."""
        _check_size(at + len(content))
        os.pwrite(self.fd, content, at)

    def __del__(self) -> None:
        if "inode" in self.__dict__ and self.is_open():
            os.close(self.fd)


class Bodies(Memfd):
    """A file of bodies, which only this process writes."""

    def __init__(self) -> None:
        super().__init__("reflective: bodies", PLACES * PLACE)
        self.owner, self.places = os.getpid(), iter(range(0, PLACES * PLACE, PLACE))

    def place(self) -> int | None:
        """Where the next goes; None: nowhere, or this process may not write here."""
        return next(self.places, None) if self.owner == os.getpid() and self.is_open() else None


_shapes: dict[tuple[int, int, bool], Memfd] = {}
_bodies: Bodies | None = None


def shape(start: int, size: int, executable_stack: bool) -> Memfd:
    """The file to be executed. Its segment has `size` bytes, at the top of the mmap area or, unless it is 0, at `start`."""
    key = start, size, executable_stack
    made = _shapes.get(key)
    if made is None or not made.is_open():
        made = Memfd("reflective", size)
        made.write(_page(*key), 0)
        if len(_shapes) >= SHAPES:
            _shapes.clear()
        _shapes[key] = made
    return made


def body(orders: bytes) -> tuple[Memfd, int, int]:
    """A file with the zygote's page and its orders behind it, and their offset and size there. Raises OSError, also E2BIG."""
    global _bodies
    content = _page(0, PAGE, False).ljust(PAGE, b"\0") + orders
    if len(content) > PLACE:
        raise OSError(E2BIG, os.strerror(E2BIG))
    file = _bodies
    at = file.place() if file else None
    if file is None or at is None:
        file = _bodies = Bodies()
        at = next(file.places)
    file.write(content, at)
    return file, at, len(content) + PAGE - 1 & -PAGE


def _check_size(size: int) -> None:
    """Beyond RLIMIT_FSIZE a file does not grow, but a signal is sent."""
    if size > lib.refl_limit(RLIMIT_FSIZE):
        raise OSError(EFBIG, os.strerror(EFBIG))


def _page(start: int, size: int, executable_stack: bool) -> bytes:
    """An ELF header and the zygote's code."""
    code = ffi.new("uint8_t[]", lib.refl_zygote_code(ffi.NULL))
    lib.refl_zygote_code(code)
    kind, ident = ET_EXEC if start else ET_DYN, b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = EHDR.pack(ident, kind, EM_X86_64, 1, start + CODE_AT, EHDR.size, 0, 0, EHDR.size, PHDR.size, 2, 0, 0, 0)
    load = PHDR.pack(PT_LOAD, PF_R | PF_X, 0, start, start, size, size, PAGE)
    stack = PHDR.pack(PT_GNU_STACK, PF_R | PF_W | (PF_X if executable_stack else 0), 0, 0, 0, 0, 0, 16)
    return (header + load + stack).ljust(CODE_AT, b"\0") + bytes(ffi.buffer(code))
