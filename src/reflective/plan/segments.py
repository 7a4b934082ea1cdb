"""From program headers to mappings: fs/binfmt_elf.c: elf_load, elf_map and the checks around them.

What the kernel refuses only past its point of no return (and then kills the process) is refused here beforehand, with the
errno that it would have had.
"""

from __future__ import annotations

import errno

from ..elf.image import PAGE, PF_W, ElfImage, Segment, check_type
from ..errors import LoadError, load_error
from ..values import Value
from .steps import INTERP, At, MapFile, MapZero, Step, Zero, prot_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROT_RW, PROT_EXEC = 3, 4
WORD = (1 << 64) - 1
FILE_MAX = (1 << 63) - 1  # include/linux/fs.h: MAX_LFS_FILESIZE
MAX_ERRNO = 4095
VDSO_ROOM = 6 * PAGE
FLOOR = 65536  # the least vm.mmap_min_addr of kernels with a security module: nothing is placed lower unless asked for


def page_down(address: int) -> int:
    """The start of the page."""
    return address & ~(PAGE - 1)


def page_up(address: int) -> int:
    """The end of the page, or the address itself if it is one."""
    return (address + PAGE - 1) & ~(PAGE - 1)


class Space(Value):
    """What a check needs to know of an address space: its end, below which address mapping is forbidden, how many bytes of
    private writable memory may be had at once; and where a start may well have its mmap base (and, if that leaves no room, at
    the highest), a PIE, and the initial stack."""

    end: int
    least: int = 0
    most: int = WORD
    tops: tuple[int, ...] = (0x7F7C_0000_0000, 0x7FFB_FF60_0000)
    base: int = 0x5600_0000_0000
    stack: tuple[int, int] = (0x7FFD_FFFD_E000, 0x7FFD_FFFF_F000)


def may_lie_low(image: ElfImage) -> bool:
    """True if a segment may come to lie in the first MiB, which holds any sensible vm.mmap_min_addr."""
    if not image.relocatable:
        return any(load.vaddr < 1 << 20 for load in image.loads)
    if not image.loads:
        return False
    first = image.loads[0]
    return not first.filesz or alignment(image) >= 1 << 32 or any(load.vaddr < first.vaddr for load in image.loads)


def may_lie_high(image: ElfImage) -> bool:
    """True if a segment may come near the stack, or the mmap area, wherever they are."""
    return any((load.vaddr | load.align) >> 45 or (load.memsz | load.filesz) >> 27 for load in image.loads)


def check_program(image: ElfImage, has_interpreter: bool, space: Space) -> int:
    """Refuses a program whose segments can't be mapped.

    Returns a load bias such as a start may have. Raises LoadError.
    """
    if not image.relocatable or not image.loads:
        check(image, 0, space, noreplace=True)
        return 0
    if has_interpreter:
        bias = bias_at(image, space.base, aligned=True)
        check(image, bias, space, noreplace=True)
        return bias
    start = _likely_start(image, 0, space, [space.stack])
    bias = bias_at(image, start, aligned=False)
    check(image, bias, space, attempt=start if alignment(image) > PAGE else None)
    return bias


def check_interpreter(image: ElfImage, program: ElfImage, beside: int, space: Space) -> int:
    """The same for the interpreter of a program that is loaded with the bias `beside`."""
    bias = 0
    if image.relocatable and image.loads:
        first = page_down(image.loads[0].vaddr)
        bias = _likely_start(image, 0 if beside else first, space, [*placed(program, beside), space.stack]) - first
    check(image, bias, space, as_interpreter=True)
    return bias


def rest_refused(taken: list[tuple[int, int]], swept: tuple[int, int], space: Space, path: str) -> LoadError | None:
    """The refusal of a program over whose initial stack something was laid, or which leaves no room for the vdso.

    `taken` are the segments, `swept` is what was mapped for a moment (see `sweep`). fs/binfmt_elf.c: create_elf_tables finds
    no stack, after arch_setup_additional_pages (ENOMEM, EFAULT), and both after the check of the entry.
    """
    low, high = space.stack
    if any(start < high and low < end for start, end in (*taken, swept)):
        if top_down(space.end, VDSO_ROOM, taken) < FLOOR:
            return load_error(errno.ENOMEM, "its segments leave no room for the vdso", path)
        return load_error(errno.EFAULT, f"its segments lie over the initial stack, at {low:#x}", path)
    return None


def check(
    image: ElfImage,
    bias: int,
    space: Space,
    *,
    as_interpreter: bool = False,
    noreplace: bool = False,
    attempt: int | None = None,
) -> None:
    """Refuses PT_LOAD segments that can't be mapped: what load_elf_binary and load_elf_interp check, in their order.

    `attempt`: the first is mapped there before, to find a place; `noreplace`: it is mapped so. Raises LoadError.
    """
    if as_interpreter:
        check_type(image.type, image.path, errno.EPERM)
    whole = total(image) if as_interpreter or image.relocatable else 0
    if not whole and (as_interpreter or (image.relocatable and image.loads)):
        raise load_error(errno.EINVAL, "the PT_LOAD program headers have no size", image.path)
    if attempt is not None:
        _check_file(image, image.loads[0], attempt & WORD, whole, space, noreplace=False)
        _check_bss(image, image.loads[0], attempt & WORD, space)
        noreplace = True
    for load in image.loads:
        at = page_down(load.vaddr + bias & WORD)
        _check_file(image, load, at, whole, space, noreplace)
        if not load.filesz or at < space.end:
            _check_bss(image, load, at, space)
        if at >= space.end:
            raise _bad(errno.EINVAL, image, load, f"{at:#x} is beyond user space ({space.end:#x})")
        _check_size(image, load, bias if as_interpreter else 0, space, errno.ENOMEM if as_interpreter else errno.EINVAL)
        whole, noreplace = 0, False


def _file_pages(load: Segment) -> int:
    """Bytes to map of the file: whole pages, in elf_map's 64-bit arithmetic."""
    return page_up(load.filesz + load.vaddr % PAGE) & WORD if load.filesz else 0


def _check_file(image: ElfImage, load: Segment, at: int, whole: int, space: Space, noreplace: bool) -> None:
    """elf_map; mm/util.c: vm_mmap; mm/mmap.c: do_mmap. `whole` is mapped at first, and then cut, if it is not 0."""
    shift, size = load.vaddr % PAGE, _file_pages(load)
    if not size:
        return
    if whole:
        size = page_up(whole) & WORD
    offset = load.offset - shift & WORD
    if offset % PAGE or offset + size > WORD:
        raise _bad(errno.EINVAL, image, load, f"p_offset {load.offset:#x} does not go with p_vaddr {load.vaddr:#x}")
    if not size:
        raise _bad(errno.EINVAL, image, load, "all segments together are larger than the address space")
    _check_room(image, load, at, size, space)
    if noreplace and at < space.stack[1] and space.stack[0] < at + size:
        raise _bad(errno.EEXIST, image, load, f"{size:#x} bytes at {at:#x} leave no room for a stack")
    if size > FILE_MAX or offset // PAGE > (FILE_MAX - size) // PAGE:
        raise _bad(errno.EOVERFLOW, image, load, f"p_offset {load.offset:#x} is beyond any file")
    if load.flags & PF_W:
        _check_memory(image, load, size, space)


def _check_bss(image: ElfImage, load: Segment, at: int, space: Space) -> None:
    """elf_load: padzero, which minds a fault if the segment is writable (there is no such page of the file); vm_brk_flags."""
    if load.memsz <= load.filesz:
        return
    shift, end = load.vaddr % PAGE, load.offset + load.filesz
    absent = page_down(end) >= image.identity.size
    if not _file_pages(load):  # nothing was mapped; unless the stack happens to be there
        absent = not space.stack[0] <= (at + shift + load.filesz & WORD) < space.stack[1]
    if load.filesz and load.flags & PF_W and (shift + load.filesz) % PAGE and absent:
        raise _bad(errno.EFAULT, image, load, f"the file ends before offset {end:#x}, in whose page bss begins")
    start = page_up(at + shift + load.filesz) & WORD if load.filesz else at
    size = page_up(at + shift + load.memsz) - start & WORD
    if size:
        _check_room(image, load, start, size, space)
        _check_memory(image, load, size, space)


def _check_room(image: ElfImage, load: Segment, start: int, size: int, space: Space) -> None:
    """mm/mmap.c: __get_unmapped_area; security/commoncap.c: cap_mmap_addr."""
    if size > space.end or start > space.end - size:
        raise _bad(errno.ENOMEM, image, load, f"{size:#x} bytes at {start:#x} reach beyond user space ({space.end:#x})")
    if start < space.least:
        raise _bad(errno.EPERM, image, load, f"{start:#x} is below vm.mmap_min_addr ({space.least:#x})")


def _check_memory(image: ElfImage, load: Segment, size: int, space: Space) -> None:
    """mm/util.c: __vm_enough_memory."""
    if size > space.most:
        raise _bad(errno.ENOMEM, image, load, f"{size:#x} writable bytes are more than there is memory ({space.most:#x})")


def _check_size(image: ElfImage, load: Segment, bias: int, space: Space, number: int) -> None:
    """The check that follows each elf_load; of a program's p_vaddr as in the file, of an interpreter's address in memory."""
    if load.filesz > load.memsz:
        raise _bad(number, image, load, f"p_filesz {load.filesz:#x} exceeds p_memsz {load.memsz:#x}")
    vaddr = load.vaddr + bias & WORD
    if vaddr >= space.end or vaddr + load.memsz > space.end:
        raise _bad(number, image, load, f"p_memsz {load.memsz:#x} at {vaddr:#x} is beyond user space ({space.end:#x})")


def entry_depends(image: ElfImage, end: int) -> bool:
    """True if it depends on where a relocatable image lies whether its entry is in user space, which ends at `end`."""
    return image.relocatable and not end <= image.entry <= WORD - end


def check_entry(image: ElfImage, bias: int, task_end: int, *, as_interpreter: bool = False) -> None:
    """Refuses an entry beyond user space. The highest load_elf_binary takes for an errno of load_elf_interp."""
    at = image.entry + bias & WORD
    if at >= task_end:
        number = WORD + 1 - at if as_interpreter and at > WORD - MAX_ERRNO else errno.EINVAL
        raise load_error(number, f"e_entry at offset 24 is {image.entry:#x}: the program would start at {at:#x}", image.path)


def _bad(number: int, image: ElfImage, load: Segment, what: str) -> LoadError:
    return load_error(number, f"PT_LOAD (program header {load.index}): {what}", image.path)


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
    exact = not aligned and align == PAGE and _file_pages(first)
    return start - page_down(first.vaddr) if exact else page_down((start & -align) - first.vaddr)


def _likely_start(image: ElfImage, hint: int, space: Space, taken: list[tuple[int, int]]) -> int:
    """Where a relocatable image may go: as the hint says, or in the mmap area; the end of user space if there is no room.

    Without bytes of the file it is not placed. mm/mmap.c: arch_get_unmapped_area_topdown.
    """
    if not _file_pages(image.loads[0]):
        return hint
    size, hint = page_up(total(image)), max(hint, FLOOR) if hint else 0
    if hint and hint + size <= space.end and all(end <= hint or hint + size <= start for start, end in taken):
        return hint
    for top in space.tops:
        start = top_down(top, size, taken)
        if start >= FLOOR:
            return start
    return space.end


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
    loads = [(_signed(load.vaddr), load.memsz) for load in image.loads if load.memsz]
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
    for load in image.loads:
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
