"""A dynamic linker as a template needs to know it: is its start code that can be cut in two, and where are its variables?"""

from __future__ import annotations

import os
import re
from struct import Struct

from ..values import Value
from .image import PT_GNU_RELRO, ElfImage, Segment

DYNAMIC, SYMBOL = Struct("<qQ"), Struct("<IBBHQQ")
DT_NULL, DT_STRTAB, DT_SYMTAB, DT_RPATH, DT_RUNPATH = 0, 5, 6, 15, 29
PT_DYNAMIC = 2

# sysdeps/x86_64/dl-machine.h: RTLD_START, as in glibc 2.36: every byte from the entry on, but for what differs from build to
# build. `call _dl_start` may be made ahead: what comes after it takes argc and argv from the stack, the entry from %rax.
START = re.compile(
    rb"\x48\x89\xe7\xe8....\x49\x89\xc4\x48\x8b\x14\x24\x48\x89\xd6\x49\x89\xe5\x48\x83\xe4\xf0\x48\x8b\x3d...."
    rb"\x49\x8d\x4c\xd5\x10\x49\x8d\x55\x08\x31\xed\xe8....\x48\x8d\x15....\x4c\x89\xec\x41\xff\xe4",
    re.DOTALL,
)
CALL_END, RESUME = 8, 11  # behind `call _dl_start`; behind `mov %rax,%r12`, which follows it
VARIABLES = ("_dl_argv", "__libc_stack_end", "_rtld_global_ro")


class Linker(Value):
    """Virtual addresses in glibc's ld.so: its _dl_start, where to go on behind the call; (address, size) of each of VARIABLES,
    and the (start, end) of what is read-only once it has relocated itself, in which they lie."""

    dl_start: int
    resume: int
    variables: tuple[tuple[int, int], ...]
    relro: tuple[int, int]


def linker(image: ElfImage) -> Linker | None:
    """The facts, from the file; None if its start is not the code that is known here. Raises OSError if it can't be read."""
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = _bytes(fd, image, image.entry, 64)
        if not START.match(start):
            return None
        found = _symbols(fd, image)
    finally:
        os.close(fd)
    relro = [(segment.vaddr, segment.vaddr + segment.memsz) for segment in image.of_type(PT_GNU_RELRO)]
    if len(relro) != 1 or not all(name in found and relro[0][0] <= found[name][0] < relro[0][1] for name in VARIABLES):
        return None
    distance = int.from_bytes(start[CALL_END - 4 : CALL_END], "little", signed=True)
    variables = tuple(found[name] for name in VARIABLES)
    return Linker(image.entry + CALL_END + distance, image.entry + RESUME, variables, relro[0])


def search_paths(image: ElfImage) -> list[str]:
    """What the file's DT_RPATH and DT_RUNPATH say, as they stand there. Raises OSError if the file can't be read."""
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = _dynamic(fd, image)
        strings = dict(entries).get(DT_STRTAB, 0)
        offsets = [value for tag, value in entries if tag in (DT_RPATH, DT_RUNPATH)]
        texts = [_bytes(fd, image, strings + offset, 4096).partition(b"\0")[0] for offset in offsets]
    finally:
        os.close(fd)
    return [part for text in texts for part in os.fsdecode(text).split(":") if part]


def _bytes(fd: int, image: ElfImage, address: int, size: int) -> bytes:
    """What the file puts at a virtual address, as far as the segment goes."""
    for load in image.loads:
        if load.vaddr <= address < load.vaddr + load.filesz:
            return os.pread(fd, min(size, load.vaddr + load.filesz - address), address - load.vaddr + load.offset)
    return b""


def _dynamic(fd: int, image: ElfImage) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    segments: list[Segment] = image.of_type(PT_DYNAMIC)
    for segment in segments[:1]:
        raw = os.pread(fd, segment.filesz, segment.offset)
        for tag, value in DYNAMIC.iter_unpack(raw[: len(raw) // DYNAMIC.size * DYNAMIC.size]):
            if tag == DT_NULL:
                break
            found.append((tag, value))
    return found


def _symbols(fd: int, image: ElfImage) -> dict[str, tuple[int, int]]:
    """Address and size of each dynamic symbol. The table ends where the strings begin, as every linker lays it out."""
    entries = dict(_dynamic(fd, image))
    table, strings = entries.get(DT_SYMTAB, 0), entries.get(DT_STRTAB, 0)
    names = _bytes(fd, image, strings, 1 << 16)
    raw = _bytes(fd, image, table, max(0, min(strings - table, 1 << 20)))
    found = {}
    for name, _info, _other, section, value, size in SYMBOL.iter_unpack(raw[: len(raw) // SYMBOL.size * SYMBOL.size]):
        if section:
            found[names[name : names.find(b"\0", name)].decode("latin-1")] = value, size
    return found
