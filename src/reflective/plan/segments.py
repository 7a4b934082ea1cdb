"""From program headers to mappings: fs/binfmt_elf.c: elf_load, elf_map and the checks around them.

What the kernel refuses only past its point of no return (and then kills the process) is refused here beforehand, with the
errno that it would have had.
"""

from __future__ import annotations

import errno

from ..elf.image import PAGE, PF_W, ElfImage, Segment, check_type
from ..errors import LoadError, load_error
from ..values import Value
from .steps import At, MapFile, MapZero, Step, Zero, prot_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROT_RW, PROT_EXEC = 3, 4
WORD = (1 << 64) - 1
FILE_MAX = (1 << 63) - 1  # include/linux/fs.h: MAX_LFS_FILESIZE
MAX_ERRNO = 4095
STACK_ZONE = 17 << 30  # a stack is mapped somewhere in the last part of user space
MMAP_TOP = 0x7E00_0000_0000  # where the mmap area may well end


def page_down(address: int) -> int:
    """The start of the page."""
    return address & ~(PAGE - 1)


def page_up(address: int) -> int:
    """The end of the page, or the address itself if it is one."""
    return (address + PAGE - 1) & ~(PAGE - 1)


class Space(Value):
    """What a check needs to know of an address space: its end, below which address mapping is forbidden, and how many bytes of
    private writable memory may be had at once."""

    end: int
    least: int = 0
    most: int = WORD


def may_lie_low(image: ElfImage) -> bool:
    """True if a segment may come to lie in the first MiB, which holds any sensible vm.mmap_min_addr."""
    if not image.relocatable:
        return any(load.vaddr < 1 << 20 for load in image.loads)
    return bool(image.loads) and (not image.loads[0].filesz or alignment(image) > 1 << 40)


def check_program(image: ElfImage, has_interpreter: bool, base: int, space: Space) -> int:
    """Refuses a program whose segments can't be mapped. `base` is where a relocatable one with an interpreter would go.

    Returns a load bias such as a start may have. Raises LoadError.
    """
    if not image.relocatable or not image.loads:
        check(image, 0, space, noreplace=True)
        return 0
    if has_interpreter:
        bias = bias_at(image, base, aligned=True)
        check(image, bias, space, noreplace=True)
        return bias
    start = _likely_start(image, 0, space.end)
    bias = bias_at(image, start, aligned=False)
    check(image, bias, space, attempt=start if alignment(image) > PAGE else None)
    return bias


def check_interpreter(image: ElfImage, beside: int, space: Space) -> int:
    """The same for the interpreter of a program that is loaded with the bias `beside`."""
    bias = 0
    if image.relocatable and image.loads:
        first = page_down(image.loads[0].vaddr)
        bias = _likely_start(image, 0 if beside else first, space.end) - first
    check(image, bias, space, as_interpreter=True)
    return bias


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
        _check_bss(image, load, at, space)
        if at >= space.end:
            raise _bad(errno.EINVAL, image, load, f"{at:#x} is beyond user space ({space.end:#x})")
        _check_size(image, load, bias if as_interpreter else 0, space, errno.ENOMEM if as_interpreter else errno.EINVAL)
        whole, noreplace = 0, False


def _check_file(image: ElfImage, load: Segment, at: int, whole: int, space: Space, noreplace: bool) -> None:
    """elf_map; mm/util.c: vm_mmap; mm/mmap.c: do_mmap. `whole` is mapped at first, and then cut, if it is not 0."""
    shift = load.vaddr % PAGE
    size = page_up(load.filesz + shift) & WORD
    if not load.filesz or not size:
        return
    if whole:
        size = page_up(whole) & WORD
    offset = load.offset - shift & WORD
    if offset % PAGE or offset + size > WORD:
        raise _bad(errno.EINVAL, image, load, f"p_offset {load.offset:#x} does not go with p_vaddr {load.vaddr:#x}")
    if not size:
        raise _bad(errno.EINVAL, image, load, "all segments together are larger than the address space")
    _check_room(image, load, at, size, space)
    if noreplace and at < space.end - STACK_ZONE and at + size >= space.end - PAGE:
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
    if load.filesz and load.flags & PF_W and end % PAGE and page_down(end) >= image.identity.size:
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
    exact = not aligned and align == PAGE and first.filesz
    return start - page_down(first.vaddr) if exact else page_down((start & -align) - first.vaddr)


def _likely_start(image: ElfImage, hint: int, end: int) -> int:
    """Where a relocatable image may go: as the hint says, or in the mmap area. Without bytes of the file it is not placed."""
    size = page_up(total(image))
    hinted = not image.loads[0].filesz or (hint and hint + size <= end)
    return hint if hinted else MMAP_TOP - size


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


def steps(image: ElfImage, base: str, under: Sequence[tuple[int, int]] = ()) -> list[Step]:
    """The segments in file order: a later one replaces an earlier one, and what is `under` it; nothing else may be there."""
    result: list[Step] = []
    there = [*under]
    for load in image.loads:
        for step in _segment(load, base):
            if isinstance(step, (MapFile, MapZero)):
                start = _signed(step.at.offset)
                end = start + step.size
                over = any(start < high and low < end for low, high in there)
                there.append((start, end))
                result.append(step.replace(over=True) if over else step)
            else:
                result.append(step)
    return result


def _segment(load: Segment, base: str) -> list[Step]:
    """elf_load: file part, rest of its last page, then anonymous pages, which are writable whatever p_flags say."""
    result: list[Step] = []
    file_end = load.vaddr + load.filesz
    prot = prot_of(load.flags)
    if load.filesz:
        start = page_down(load.vaddr)
        result.append(MapFile(At(base, start), page_up(file_end) - start, prot, base, page_down(load.offset), load.index))
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
