"""From program headers to mappings: fs/binfmt_elf.c: elf_load, elf_map. What is refused is said in plan/checks.py."""

from __future__ import annotations

from ..elf.image import PAGE, PF_W, ElfImage, Segment
from .steps import INTERP, At, MapFile, MapZero, Step, Zero, prot_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROT_RW, PROT_EXEC = 3, 4
WORD = (1 << 64) - 1


def page_down(address: int) -> int:
    """The start of the page."""
    return address & ~(PAGE - 1)


def page_up(address: int) -> int:
    """The end of the page, or the address itself if it is one."""
    return (address + PAGE - 1) & ~(PAGE - 1)


def returned(image: ElfImage) -> int:
    """What load_elf_interp returns, less the load bias: 0, but for an interpreter that `ends`."""
    return 0 if image.last is None else page_down(image.loads[image.last].vaddr)


def entry(image: ElfImage) -> int:
    """Where the program starts, less the load bias."""
    return image.entry + returned(image) & WORD


def file_pages(load: Segment) -> int:
    """Bytes to map of the file: whole pages, in elf_map's 64-bit arithmetic."""
    return page_up(load.filesz + load.vaddr % PAGE) & WORD if load.filesz else 0


def total(image: ElfImage) -> int:
    """How much the PT_LOAD segments cover, holes included: total_mapping_size, in its 64-bit arithmetic."""
    starts = [page_down(load.vaddr) for load in image.loads]
    ends = [load.vaddr + load.memsz & WORD for load in image.loads]
    return max(ends) - min(starts) & WORD if starts else 0


def span(image: ElfImage) -> tuple[int, int]:
    """Start and end of what the PT_LOAD segments cover, page aligned."""
    loads = image.loads
    if not loads:
        return 0, 0
    return min(page_down(load.vaddr) for load in loads), page_up(max(load.vaddr + load.memsz for load in loads))


def bias_at(image: ElfImage, start: int, aligned: bool) -> int:
    """The load bias of a relocatable image whose first segment goes to `start`, or below it by reason of p_align."""
    first, align = image.loads[0], alignment(image)
    exact = not aligned and align == PAGE and file_pages(first)
    return start - page_down(first.vaddr) if exact else page_down((start & -align) - first.vaddr)


def top_down(limit: int, size: int, taken: Sequence[tuple[int, int]]) -> int:
    """The highest place below the limit where nothing is: how the kernel finds one (mm/mmap.c: vm_unmapped_area)."""
    at = limit - size
    for start, end in sorted(taken, reverse=True):
        if at < end and start < at + size:
            at = start - size
    return at


def alignment(image: ElfImage) -> int:
    """The largest p_align that is a power of two, at least a page (fs/binfmt_elf.c: maximum_alignment)."""
    aligns = [load.align for load in image.loads if load.align & (load.align - 1) == 0]
    return max([PAGE, *aligns])


def _signed(vaddr: int) -> int:
    """Addresses count modulo 2**64: the topmost p_vaddr is right below 0."""
    return vaddr - WORD - 1 if vaddr >> 63 else vaddr


def runs(image: ElfImage) -> list[tuple[int, int]]:
    """The stretches of adjacent pages that the segments cover, as (start, end). Between them nothing is mapped."""
    known: list[tuple[int, int]] | None = image.__dict__.get("_runs")
    if known is None:
        known = image.__dict__["_runs"] = _runs(image)
    return known


def _runs(image: ElfImage) -> list[tuple[int, int]]:
    loads = [(_signed(load.vaddr), load.memsz) for load in image.mapped if load.memsz]
    parts = sorted((page_down(vaddr), page_up(vaddr + size)) for vaddr, size in loads)
    merged: list[tuple[int, int]] = []
    for start, end in parts:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def placed(image: ElfImage, bias: int) -> list[tuple[int, int]]:
    """The runs in memory; p_vaddr plus the load bias counts modulo 2**64."""
    return [(start + bias & WORD, (start + bias & WORD) + end - start) for start, end in runs(image)]


def sweep(image: ElfImage) -> tuple[int, int]:
    """What an interpreter at fixed addresses takes away: all that it spans, holes included, as (start, end).

    load_elf_interp maps the whole span over whatever is there, and then unmaps what is no segment's; not if the first segment
    has no bytes of the file, as that is not mapped this way.
    """
    if image.relocatable or not image.loads or not image.loads[0].filesz:
        return 0, 0
    start = page_down(image.loads[0].vaddr)
    return start, start + page_up(total(image))


def swept(program: ElfImage, interpreter: ElfImage) -> list[tuple[int, int]]:
    """What of a program at fixed addresses is lost to its interpreter's `sweep`."""
    low, high = sweep(interpreter)
    parts = [(max(start, low), min(end, high)) for start, end in runs(program)]
    return [(start, end) for start, end in parts if start < end]


def steps(image: ElfImage, base: str, under: Sequence[tuple[int, int]] = ()) -> list[Step]:
    """The segments in file order: a later one replaces an earlier one, and what is `under` it; nothing else may be there."""
    result: list[Step] = []
    there = [*under]
    whole = page_up(total(image)) if image.relocatable or base == INTERP else WORD
    for load in image.mapped:
        for step in _segment(load, base, whole):
            if isinstance(step, (MapFile, MapZero)):
                start = _signed(step.at.offset)
                end = start + step.size
                over = any(start < high and low < end for low, high in there)
                there.append((start, end))
                result.append(step.replace(over=True) if over else step)
            else:
                result.append(step)
        whole = WORD
    return result


def _segment(load: Segment, base: str, whole: int) -> list[Step]:
    """elf_load: file part, rest of its last page, then anonymous pages, which are writable whatever p_flags say.

    `whole` is what is mapped of the file at first, for the whole image: if addresses wrap around it is less than one segment.
    """
    result: list[Step] = []
    file_end = load.vaddr + load.filesz
    prot = prot_of(load.flags)
    if load.filesz:
        start = page_down(load.vaddr)
        size = min(page_up(file_end) - start, whole)
        result.append(MapFile(At(base, start), size, prot, base, page_down(load.offset), load.index))
    else:
        file_end = page_down(load.vaddr)
    if load.memsz > load.filesz:
        if load.filesz and file_end % PAGE and load.flags & PF_W:
            result.append(Zero(At(base, file_end), page_up(file_end) - file_end, load.index))
        start, end = page_up(file_end), page_up(load.vaddr + load.memsz)
        if end > start:
            result.append(MapZero(At(base, start), end - start, PROT_RW | prot & PROT_EXEC, load.index))
    return result


def code_and_data(image: ElfImage) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and end of code and data as load_elf_binary sums them up, less the load bias.

    The kernel's prctl wants code to have a size; an image without an executable segment gets one byte.
    """
    code = [load for load in image.loads if prot_of(load.flags) & PROT_EXEC]
    start_code = min((load.vaddr for load in code), default=page_down(image.entry))
    end_code = max((load.vaddr + load.filesz for load in code), default=0)
    start_data = max((load.vaddr for load in image.loads), default=start_code)
    end_data = max((load.vaddr + load.filesz for load in image.loads), default=start_code)
    return (start_code, max(end_code, start_code + 1)), (start_data, max(end_data, start_data))
