"""Mappings of ELF files: which PT_LOAD, which gap, which .bss, whose RELRO a range is. What fits none gets no words."""

from __future__ import annotations

from ...elf.image import PAGE, Segment
from ...plan.steps import prot_of
from .facts import Fact
from .objects import Elf, Loaded, elf_at, protection
from .state import SPAN, File, State

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_FIXED, MAP_ANONYMOUS = 0x10, 0x20


def up(value: int) -> int:
    """To the end of its page."""
    return (value + PAGE - 1) & -PAGE


def elf_of(state: State, fact: Fact) -> Elf | None:
    """The ELF file behind the descriptor of an mmap."""
    file = state.files.get(fact.args[4] & 0xFFFFFFFF)
    if file is None:
        return None
    return file.elf or elf_at(fact.links.get(4, ""), file.identity)


def first(elf: Elf, fact: Fact) -> bool:
    """Does the mmap reserve the whole span of the file, with its first PT_LOAD? In whole pages, or to the last byte."""
    address, size, prot, flags, _, offset = fact.args
    load = elf.image.loads[0]
    start, end = elf.span
    if flags & (MAP_FIXED | MAP_ANONYMOUS) or offset != load.offset & -PAGE or prot != prot_of(load.flags):
        return False
    return up(size) == up(end) - start and address in (0, start)


def aligned(elf: Elf, fact: Fact) -> bool:
    """Is it glibc's reservation for a file aligned to more than a page: span and alignment, without access?"""
    start, end = elf.span
    size, prot, flags = fact.args[1], fact.args[2], fact.args[3]
    return elf.align > PAGE and not flags & MAP_FIXED and prot == 0 and up(size) == up(end - start + elf.align)


def first_aligned(state: State, elf: Elf, fact: Fact) -> bool:
    """Does the mmap put the whole span at an aligned address in what was reserved for that?"""
    address, size, prot, flags, _, offset = fact.args
    load, (start, end) = elf.image.loads[0], elf.span
    own = (load.offset & -PAGE, prot_of(load.flags))
    if not flags & MAP_FIXED or flags & MAP_ANONYMOUS or (offset, prot) != own or up(size) != up(end) - start:
        return False
    return (address - start) % elf.align == 0 and state.area_at(address, SPAN) is not None


def to_align(state: State, fact: Fact) -> File | None:
    """The library for which an anonymous mmap reserves addresses to choose from."""
    if not fact.ok or not fact.args[3] & MAP_ANONYMOUS or fact.object not in _loaders(state):
        return None
    waiting = (file for file in state.files.values() if file.elf is not None and file.loaded is None)
    return next((file for file in waiting if file.elf is not None and aligned(file.elf, fact)), None)


def part_of(loaded: Loaded, fact: Fact) -> Segment | None:
    """The PT_LOAD that a fixed mmap of the file brings in: address, offset, length and protection must be its own."""
    address, size, prot, flags, _, offset = fact.args
    if not flags & MAP_FIXED or flags & MAP_ANONYMOUS:
        return None
    for load in loaded.elf.image.loads:
        start = load.vaddr & -PAGE
        lengths = {up(load.vaddr + load.filesz) - start, up(load.vaddr + load.memsz) - start}
        own = (loaded.base + start, load.offset & -PAGE, prot_of(load.flags))
        if (address, offset, prot) == own and up(size) in lengths:
            return load
    return None


def bss_of(loaded: Loaded, fact: Fact) -> Segment | None:
    """The PT_LOAD whose memory beyond its file part a fixed anonymous mmap supplies."""
    address, size, prot, flags, _, _ = fact.args
    if flags & (MAP_FIXED | MAP_ANONYMOUS) != MAP_FIXED | MAP_ANONYMOUS:
        return None
    for load in loaded.elf.image.loads:
        start, end = loaded.base + up(load.vaddr + load.filesz), loaded.base + up(load.vaddr + load.memsz)
        if load.memsz > load.filesz and (address, up(address + size)) == (start, end) and prot == prot_of(load.flags):
            return load
    return None


def mapped(state: State, fact: Fact) -> str:
    """Words for an mmap that belongs to a library being loaded."""
    if not fact.ok or fact.object not in _loaders(state):
        return ""
    if fact.args[3] & MAP_ANONYMOUS:
        return _bss(state, fact) or _reservation(state, fact)
    file, elf = state.files.get(fact.args[4] & 0xFFFFFFFF), elf_of(state, fact)
    if file is None or elf is None:
        return ""
    name = file.name
    if file.loaded is None:
        return _reserved(state, name, elf, fact)
    load = part_of(file.loaded, fact)
    if load is None:
        return ""
    return f"maps segment {load.index} of {name} ({elf.kind_of(load)}) at +{load.vaddr & -PAGE:#x}"


def _reservation(state: State, fact: Fact) -> str:
    file = to_align(state, fact)
    if file is None or file.elf is None:
        return ""
    start, end = file.elf.span
    more = f"{end - start} bytes and {file.elf.align:#x} more"
    return f"reserves addresses for {file.name} ({more}), to choose a multiple of its alignment"


def _reserved(state: State, name: str, elf: Elf, fact: Fact) -> str:
    load, (start, end) = elf.image.loads[0], elf.span
    if first_aligned(state, elf, fact):
        words = f"maps {name} over its whole span at a multiple of {elf.align:#x}"
    elif first(elf, fact):
        words = f"reserves the whole span of {name} ({end - start} bytes for {len(elf.image.loads)} PT_LOADs)"
    else:
        return ""
    rest = f"; segment {load.index} ({elf.kind_of(load)}) stays, the others follow" if len(elf.image.loads) > 1 else ""
    return words + rest


def _bss(state: State, fact: Fact) -> str:
    for item in _being_loaded(state):
        load = bss_of(item, fact)
        if load is not None:
            more = load.memsz - load.filesz
            return f".bss of {item.name}: segment {load.index} has {more} bytes more in memory than in the file"
    return ""


def _being_loaded(state: State) -> list[Loaded]:
    return [file.loaded for file in state.files.values() if file.loaded]


def _loaders(state: State) -> set[str]:
    """The files whose code loads libraries."""
    return {state.interpreter.path} if state.interpreter else set()


def protected(state: State, fact: Fact) -> str:
    """Words for an mprotect: RELRO, gaps between segments, text relocations."""
    address, size, prot = fact.args[:3]
    if not fact.ok:
        return ""
    for item in (*state.objects, *_being_loaded(state)):
        relro = item.elf.relro
        if relro is not None and prot == PROT_READ:
            start, end = (item.base + relro.vaddr) & -PAGE, (item.base + relro.vaddr + relro.memsz) & -PAGE
            if (address, address + up(size)) == (start, end):
                return _relro(item, start - item.base, end - item.base)
    for item in _being_loaded(state):
        if (address, up(address + size)) in _gaps(item) and prot == 0:
            return f"takes access away from the gap between segments of {item.name}, {size} bytes at +{address - item.base:#x}"
    return _relocations(state, fact)


def _relro(item: Loaded, start: int, end: int) -> str:
    names = [name for name in (".data.rel.ro", ".dynamic", ".got", ".got.plt") if name in item.elf.names_in(start, end)]
    bound = bool(item.elf.dynamic and item.elf.dynamic.bind_now)
    what = ", ".join(names) or "what has been relocated"
    full, plus = "; every function is bound (BIND_NOW)" if bound else "", "+" if item.base else ""
    return f"RELRO: {what} of {item.name} relocated, now read-only: {end - start} bytes at {plus}{start:#x}{full}"


def _gaps(item: Loaded) -> set[tuple[int, int]]:
    """Between the first segment's end and the last one's start: glibc takes access from all of it at once."""
    loads = item.elf.image.loads
    ends = [item.base + up(load.vaddr + load.filesz) for load in loads]
    starts = [item.base + (load.vaddr & -PAGE) for load in loads]
    return {(ends[0], starts[-1]), *zip(ends, starts[1:], strict=False)}


def _relocations(state: State, fact: Fact) -> str:
    address, size, prot = fact.args[:3]
    if fact.object not in _loaders(state):
        return ""
    for item in state.objects:
        if not (item.elf.dynamic and item.elf.dynamic.textrel):
            continue
        for load in item.elf.image.loads:
            if (address, up(address + size)) == item.range_of(load) and not prot_of(load.flags) & PROT_WRITE:
                how = "writable, for text relocations (DT_TEXTREL)" if prot & PROT_WRITE else f"{protection(prot)} again"
                return f"segment {load.index} of {item.name}: {how}"
    return ""


def unmapped(state: State, fact: Fact) -> str:
    """Words for an munmap: the cache, what alignment leaves over, a library that is closed."""
    start, end = fact.args[0], up(fact.args[0] + fact.args[1])
    if not fact.ok:
        return ""
    for area in state.areas:
        if area.role == "cache" and (area.start, area.end) == (start, end):
            return "unmaps ld.so.cache: no more libraries to look for now"
    for item in _being_loaded(state):
        low, high = item.range
        if end == low or start == high:
            return f"gives back what aligning {item.name} to {item.elf.align:#x} left over"
    for item in state.libraries:
        if item.range == (start, end) and fact.object in _loaders(state):
            return f"unloads {item.name}: its whole span"
    return ""
