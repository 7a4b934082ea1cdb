"""What the kernel reads of an ELF file, and no more: the header, the program headers, the interpreter's path.

Section headers are never looked at: a stripped or section-less file loads. Checks are those of fs/binfmt_elf.c:
load_elf_binary and load_elf_phdrs, in their order, so that a file that is refused is refused for the kernel's reason.
"""

from __future__ import annotations

import errno
import os
from struct import Struct

from ..errors import LoadError, load_error
from ..values import Value

PT_LOAD, PT_INTERP, PT_GNU_STACK, PT_GNU_RELRO, PT_TLS = 1, 3, 0x6474E551, 0x6474E552, 7
PF_X, PF_W, PF_R = 1, 2, 4
ET_EXEC, ET_DYN = 2, 3
EM_X86_64 = 62
PAGE = 4096
PATH_MAX = 4096

MAGIC = b"\x7fELF"
HEADER = Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
PROGRAM_HEADER = Struct("<IIQQQQQQ")  # Elf64_Phdr
BUFFER = 256  # include/uapi/linux/binfmts.h: BINPRM_BUF_SIZE, what the kernel reads before it knows the format

_TYPES = {0: "ET_NONE", 1: "ET_REL, an object file", 4: "ET_CORE, a core dump"}


class Segment(Value):
    """A program header: where `filesz` bytes at `offset` go in memory, and `memsz` bytes in all. Sizes in bytes."""

    index: int
    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


class FileIdentity(Value):
    """Which file was read, to notice when another one lies there later (times in ns)."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """From the result of fstat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class File(Value):
    """A file that was looked at."""

    path: str
    identity: FileIdentity


class ElfImage(Value):
    """The header facts of one x86-64 ELF file. `last`: see `mapped`."""

    path: str
    identity: FileIdentity
    type: int
    entry: int
    phoff: int
    phnum: int
    segments: tuple[Segment, ...]
    interpreter: str | None
    last: int | None = None

    def of_type(self, kind: int) -> list[Segment]:
        """The program headers of one type, in file order."""
        return [segment for segment in self.segments if segment.type == kind]

    @property
    def loads(self) -> list[Segment]:
        """The PT_LOAD program headers, in file order, which is the order in which the kernel maps them."""
        known: list[Segment] | None = self.__dict__.get("_loads")
        if known is None:
            known = self.__dict__["_loads"] = self.of_type(PT_LOAD)
        return known

    @property
    def mapped(self) -> list[Segment]:
        """Those that are mapped: all, unless one ends an interpreter (plan/checks.py: ends), loads[last]."""
        return self.loads[: self.last]

    @property
    def executable_stack(self) -> bool:
        """True if the last PT_GNU_STACK asks for it; x86-64 has it off when there is none."""
        return any(segment.flags & PF_X for segment in self.of_type(PT_GNU_STACK)[-1:])

    @property
    def relocatable(self) -> bool:
        """True for ET_DYN: it goes wherever the loader puts it."""
        return self.type == ET_DYN

    @property
    def program_headers_at(self) -> int:
        """Virtual address of the program headers: in the last PT_LOAD whose file part holds e_phoff; 0 if none does."""
        at = 0
        for load in self.loads:
            if load.offset <= self.phoff < load.offset + load.filesz:
                at = self.phoff - load.offset + load.vaddr
        return at


def read(fd: int, path: str, buffer: bytes | None = None, *, as_interpreter: bool = False) -> ElfImage:
    """The image in an open file.

    `buffer` is its first 256 bytes if they have been read already. Raises LoadError: ENOEXEC for what the kernel's ELF loader
    does not take, ELIBBAD for the same in an interpreter, EIO where a read comes up short, what a read gives if it fails.
    """
    bad = errno.ELIBBAD if as_interpreter else errno.ENOEXEC
    start = read_at(fd, BUFFER, 0, path) if buffer is None else buffer
    if as_interpreter and len(start) < HEADER.size:
        raise load_error(errno.EIO, f"the interpreter has {len(start)} bytes, its ELF header needs {HEADER.size}", path)
    seen, start = start[:4], start.ljust(HEADER.size, b"\0")
    ident, kind, machine, _version, entry, phoff, _, _, _, phentsize, phnum, *_ = HEADER.unpack_from(start)
    if ident[:4] != MAGIC:
        found = f"it begins with {seen!r}, not {MAGIC!r}" if seen else "it is empty"
        raise load_error(bad, f"not an ELF file: {found}", path)
    if not as_interpreter:  # else fs/binfmt_elf.c: load_elf_interp looks at it, after the program's segments
        check_type(kind, path, errno.ENOEXEC)
    if machine != EM_X86_64:
        raise _wrong_machine(bad, machine, start, path)
    segments = _program_headers(fd, path, bad, phoff, phentsize, phnum)
    interpreter = None if as_interpreter else _interpreter(fd, path, segments)
    return ElfImage(path, FileIdentity.of(os.fstat(fd)), kind, entry, phoff, phnum, segments, interpreter)


def read_at(fd: int, size: int, offset: int, path: str) -> bytes:
    """Up to `size` bytes of the file. Raises LoadError: EINVAL beyond what an offset can be, or what reading gives."""
    try:
        if offset + size >= 1 << 63:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.pread(fd, size, offset)
    except OSError as error:
        raise load_error(error.errno or errno.EIO, f"can't read at offset {offset:#x}: {error.strerror}", path) from None


def check_type(kind: int, path: str, number: int) -> None:
    """Refuses what is no program, with the errno `number`."""
    if kind not in (ET_EXEC, ET_DYN):
        raise load_error(number, f"e_type at offset 16 is {kind} ({_TYPES.get(kind, 'unknown')}), not ET_EXEC or ET_DYN", path)


def _wrong_machine(bad: int, machine: int, start: bytes, path: str) -> LoadError:
    from . import machines  # only for this error

    name, hint = machines.describe(machine, start[4], start[5])
    return load_error(bad, f"e_machine at offset 18 is {machine} ({name}), not {EM_X86_64} (x86-64)", path, hint)


def _program_headers(fd: int, path: str, bad: int, phoff: int, phentsize: int, phnum: int) -> tuple[Segment, ...]:
    """fs/binfmt_elf.c: load_elf_phdrs."""
    size = PROGRAM_HEADER.size
    if phentsize != size:
        raise load_error(bad, f"e_phentsize at offset 54 is {phentsize}, not {size}", path)
    if not 0 < phnum * size <= 65536:
        raise load_error(bad, f"e_phnum at offset 56 is {phnum}: 1 to {65536 // size} program headers are possible", path)
    try:
        table = read_at(fd, phnum * size, phoff, path)
    except LoadError:  # whatever the reason
        table = b""
    if len(table) < phnum * size:
        raise load_error(bad, f"e_phoff at offset 32 is {phoff:#x}: the file ends before {phnum} program headers there", path)
    rows = enumerate(PROGRAM_HEADER.iter_unpack(table))
    return tuple(
        Segment(i, kind, flags, offset, vaddr, filesz, memsz, align)
        for i, (kind, flags, offset, vaddr, _paddr, filesz, memsz, align) in rows
    )


def _interpreter(fd: int, path: str, segments: tuple[Segment, ...]) -> str | None:
    """The path in the first PT_INTERP; the kernel looks at no other."""
    header = next((segment for segment in segments if segment.type == PT_INTERP), None)
    if header is None:
        return None
    where = f"PT_INTERP (program header {header.index})"
    if not 2 <= header.filesz <= PATH_MAX:
        raise load_error(errno.ENOEXEC, f"{where}: p_filesz is {header.filesz}, not 2 to {PATH_MAX}", path)
    text = read_at(fd, header.filesz, header.offset, path)
    if len(text) < header.filesz:
        raise load_error(errno.EIO, f"{where}: the file ends before its {header.filesz} bytes at {header.offset:#x}", path)
    if text[-1]:
        raise load_error(errno.ENOEXEC, f"{where}: the path does not end in a NUL byte", path)
    return os.fsdecode(text.partition(b"\0")[0])
