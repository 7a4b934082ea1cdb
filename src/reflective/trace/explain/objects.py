"""Files as evidence: what the ELF files of a process say, read when a call names them."""

from __future__ import annotations

import bisect
import functools
import os

from ...elf import dynamic, sections, unwind
from ...elf.dynamic import Dynamic
from ...elf.image import PAGE, PT_GNU_RELRO, ElfImage, FileIdentity, Segment, read
from ...elf.sections import Section
from ...errors import LoadError
from ...plan.steps import prot_of
from ...values import Value

GLIBC, MUSL = "glibc", "musl"
MUSL_SAYS = b"musl libc ("  # what its dynamic linker prints without arguments
GLIBC_SAYS = b"GLIBC_TUNABLES"  # an environment variable that it reads at start, in static programs too
NOTABLE = (".text", ".rodata", ".data", ".data.rel.ro", ".got", ".got.plt", ".dynamic", ".tdata", ".bss")


class Elf(Value):
    """One ELF file: what its headers say, and what section headers add if there are any."""

    image: ElfImage
    dynamic: Dynamic | None
    sections: tuple[Section, ...]

    @property
    def span(self) -> tuple[int, int]:
        """From the first PT_LOAD's page to the last one's end in memory, which is not rounded."""
        loads = self.image.loads
        return loads[0].vaddr & -PAGE, max(load.vaddr + load.memsz for load in loads)

    @property
    def align(self) -> int:
        """The largest p_align of its PT_LOADs, at least a page."""
        return max(PAGE, *(load.align for load in self.image.loads))

    @property
    def relro(self) -> Segment | None:
        """PT_GNU_RELRO, if there is one."""
        return next(iter(self.image.of_type(PT_GNU_RELRO)), None)

    def names_in(self, start: int, end: int) -> list[str]:
        """The sections that lie in a range of virtual addresses, from end to end."""
        placed = [section for section in self.sections if section.placed and section.size]
        return [section.name for section in placed if start <= section.address and section.address + section.size <= end]

    def kind_of(self, segment: Segment) -> str:
        """A PT_LOAD in few words: its protection, and the best known of its sections."""
        names = self.names_in(segment.vaddr, segment.vaddr + segment.memsz)
        known = [name for name in NOTABLE if name in names]
        return ", ".join([protection(prot_of(segment.flags)), *known[:2]])


class Loaded(Value):
    """An ELF file in a process: as what it was opened, where the file is, and the bias of its addresses."""

    name: str
    path: str
    elf: Elf
    base: int
    by: str  # the object whose DT_NEEDED named it, "" if none did
    origin: str  # what $ORIGIN is in its paths

    def range_of(self, segment: Segment) -> tuple[int, int]:
        """Whole pages of a segment in memory."""
        start = self.base + segment.vaddr
        return start & -PAGE, (start + segment.memsz + PAGE - 1) & -PAGE

    @property
    def range(self) -> tuple[int, int]:
        """All of its pages."""
        start, end = self.elf.span
        return self.base + start, (self.base + end + PAGE - 1) & -PAGE


def protection(prot: int) -> str:
    """As in /proc/PID/maps: r-x."""
    return "".join(letter if prot & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x")))


def elf_at(path: str, identity: FileIdentity | None = None) -> Elf | None:
    """The ELF file at a path; None if it can't be read, is none, or is not the file meant."""
    try:
        now = FileIdentity.of(os.stat(path))
        return _read(path, now) if path and identity in (None, now) else None
    except (OSError, LoadError):
        return None


@functools.lru_cache(256)
def _read(path: str, identity: FileIdentity) -> Elf:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        image = read(fd, path)
        if not image.loads:
            raise OSError(path)
        return Elf(image, dynamic.read(fd, image), sections.read(fd, image))
    finally:
        os.close(fd)


@functools.lru_cache(64)
def _functions(path: str, identity: FileIdentity) -> tuple[list[int], list[tuple[int, int, str]]]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        elf = _read(path, identity)
        known = sections.functions(fd, elf.image, elf.sections)
    finally:
        os.close(fd)
    return [item[0] for item in known], known


def function_at(elf: Elf, address: int) -> str:
    """The name of the function that an address (without bias) lies in; "" if no symbol says so."""
    try:
        starts, known = _functions(elf.image.path, elf.image.identity)
    except (OSError, LoadError):
        return ""
    at = bisect.bisect_right(starts, address) - 1
    return known[at][2] if at >= 0 and address < known[at][0] + known[at][1] else ""


@functools.lru_cache(64)
def _content(path: str, identity: FileIdentity) -> bytes:
    with open(path, "rb") as file:
        return file.read(16 << 20)


def code_before(elf: Elf, address: int, size: int) -> bytes:
    """The bytes of the file before an address (without bias)."""
    at = dynamic.file_offset(elf.image, address, -1)
    try:
        return _content(elf.image.path, elf.image.identity)[at - size : at] if at >= size else b""
    except OSError:
        return b""


def frames_of(elf: Elf) -> unwind.Frames | None:
    """How to find the callers of the file's functions; None if it does not say."""
    return unwind.of(elf.image.path, elf.image.identity)


def contains(elf: Elf, text: bytes) -> bool:
    """True if the file has these bytes somewhere."""
    try:
        return text in _content(elf.image.path, elf.image.identity)
    except OSError:
        return False


@functools.lru_cache(64)
def _flavour(path: str, identity: FileIdentity) -> str:
    elf, content = _read(path, identity), _content(path, identity)
    if (elf.dynamic is not None and (elf.dynamic.soname or "").startswith("ld-linux")) or GLIBC_SAYS in content:
        return GLIBC
    return MUSL if MUSL_SAYS in content else ""


def is_linker(elf: Elf) -> bool:
    """Is the file itself a dynamic linker? One that was started as a program is."""
    return bool(elf.dynamic and (elf.dynamic.soname or "").startswith("ld-linux")) or contains(elf, MUSL_SAYS)


def flavour(elf: Elf | None) -> str:
    """Whose dynamic linker, or static program, a file is: glibc's is called ld-linux in DT_SONAME, musl's says who it is."""
    try:
        return _flavour(elf.image.path, elf.image.identity) if elf is not None else ""
    except (OSError, LoadError):
        return ""
