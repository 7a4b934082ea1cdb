"""What is known of a process at one moment: a value; following a call gives the next one (follow.py)."""

from __future__ import annotations

import os
import struct

from ...elf.image import FileIdentity
from ...plan.build import LoadPlan
from ...proc import maps
from ...proc.maps import Mapping
from ...values import Value
from .objects import Elf, Loaded, elf_at, flavour, is_linker

AT_PHDR, AT_BASE, AT_ENTRY, AT_SECURE = 3, 7, 9, 23
CACHE, PRELOAD, LIBRARY, MUSL_PATHS, DATA = "ld.so.cache", "ld.so.preload", "library", "musl's path file", "data"
TLS, STACK, ARENA, RESERVED, SPAN = "tls", "stack", "arena", "reserved", "span"


class File(Value):
    """An open descriptor that matters: as what it was opened, and in which role."""

    path: str
    role: str
    name: str = ""  # of a library: what was looked for
    by: str = ""  # and the object whose DT_NEEDED named it
    elf: Elf | None = None  # what is behind it
    loaded: Loaded | None = None  # since its first segment is mapped
    identity: FileIdentity | None = None  # as fstat has said
    position: int = 0
    mapped: bool = False


class Area(Value):
    """A mapping that matters: [start, end), and what it is for."""

    start: int
    end: int
    role: str
    name: str = ""

    def holds(self, address: int) -> bool:
        """True if the address lies in it."""
        return self.start <= address < self.end


class Search(Value):
    """How far the search for a library has come: the name, and the place in its list of directories."""

    name: str
    place: int
    directory: str  # where it was not found


class State(Value):
    """One process. Dictionaries in it are never changed, only replaced."""

    executable: Loaded | None = None
    interpreter: Loaded | None = None
    libraries: tuple[Loaded, ...] = ()
    environ: dict[str, str] = {}  # noqa: RUF012 (LD_* alone)
    secure: bool = False
    files: dict[int, File] = {}  # noqa: RUF012
    areas: tuple[Area, ...] = ()
    heap: tuple[int, int] = (0, 0)  # as brk has said, (0, 0) before
    last: Area | None = None  # what the call before has mapped
    tcb: dict[int, int] = {}  # noqa: RUF012 (by thread: FS)
    search: Search | None = None
    random: bool = False  # malloc has drawn its tcache key
    buffered: frozenset[int] = frozenset()  # descriptors that stdio has asked about
    entered: bool = False  # its last call but one has been made
    plan: LoadPlan | None = None  # while reflective's own loader is at work

    @property
    def objects(self) -> tuple[Loaded, ...]:
        """Every ELF file in memory, in the order in which they came, the dynamic linker last."""
        first = (self.executable,) if self.executable else ()
        return (*first, *self.libraries, *((self.interpreter,) if self.interpreter else ()))

    @property
    def flavour(self) -> str:
        """Whose C library it is: "glibc", "musl", or "" if nothing says so."""
        which = self.interpreter or self.executable
        return flavour(which.elf) if which else ""

    @property
    def libc(self) -> str:
        """The file that is the C library, "" if that is not known."""
        if self.interpreter is None:
            return self.executable.path if self.executable else ""
        if self.flavour == "musl":
            return self.interpreter.path
        return next((o.path for o in self.libraries if o.elf.dynamic and o.elf.dynamic.soname == "libc.so.6"), "")

    def file(self, path: str) -> Loaded | None:
        """The loaded object that is this file."""
        return next((item for item in self.objects if item.path == path), None)

    def object_at(self, address: int) -> Loaded | None:
        """The object whose span an address lies in."""
        return next((item for item in self.objects if item.range[0] <= address < item.range[1]), None)

    def area_at(self, address: int, role: str) -> Area | None:
        """A mapping of one role that holds the address."""
        return next((area for area in self.areas if area.role == role and area.holds(address)), None)


def begin(space: bytes, auxv: bytes, environ: bytes) -> State:
    """What is known of a new program, or of one that was attached to: from its files in /proc."""
    known = dict(struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]))
    pairs = (item.partition(b"=") for item in environ.split(b"\0"))
    names = {os.fsdecode(name): os.fsdecode(value) for name, _, value in reversed(list(pairs)) if name.startswith(b"LD_")}
    mappings = maps.parse(space)
    executable = _object_with(mappings, known.get(AT_ENTRY, 0))
    interpreter = _object_with(mappings, known.get(AT_BASE, 0)) if known.get(AT_BASE) else None
    if executable is not None and interpreter is None and is_linker(executable.elf):
        executable, interpreter = None, executable  # started as a program: it loads another
    others = _libraries(mappings, {item.path for item in (executable, interpreter) if item})
    heap = tuple(Area(item.start, item.end, ARENA) for item in mappings if item.path == "[heap]")  # attached to: not the first
    return State(executable, interpreter, others, names, bool(known.get(AT_SECURE)), areas=heap)


def _object_with(mappings: tuple[Mapping, ...], address: int) -> Loaded | None:
    here = maps.at(mappings, address)
    if here is None or not here.file:
        return None
    return _placed(here.path, [item for item in mappings if item.path == here.path])


def _placed(path: str, mappings: list[Mapping]) -> Loaded | None:
    """A file that lies in memory as its PT_LOADs say; None if any mapping of it contradicts them."""
    elf = elf_at(path)
    if elf is None:
        return None
    first, bias = elf.image.loads[0], 0
    if elf.image.relocatable:
        bias = mappings[0].start - (first.vaddr & -4096)
    for item in mappings:
        if not any(_fits(item, load.vaddr + bias, load.offset, load.memsz) for load in elf.image.loads):
            return None
    return Loaded(os.path.basename(path), path, elf, bias, "", os.path.dirname(path))


def _fits(item: Mapping, start: int, offset: int, size: int) -> bool:
    end = (start + size + 4095) & -4096
    return start & -4096 <= item.start < item.end <= end and item.start - (start & -4096) == item.offset - (offset & -4096)


def _libraries(mappings: tuple[Mapping, ...], known: set[str]) -> tuple[Loaded, ...]:
    """What an attached process has loaded already, in the order of its maps."""
    by_path: dict[str, list[Mapping]] = {}
    for item in mappings:
        if item.file and item.path not in known:
            by_path.setdefault(item.path, []).append(item)
    found = (_placed(path, items) for path, items in by_path.items() if any(item.prot & 4 for item in items))
    return tuple(item for item in found if item is not None)
