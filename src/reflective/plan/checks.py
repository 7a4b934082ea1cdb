"""What the kernel refuses of program headers: the checks in and around fs/binfmt_elf.c: elf_load and elf_map.

What it refuses only past its point of no return (and then kills the process) is refused here beforehand, with the errno that
it would have had.
"""

from __future__ import annotations

import errno

from ..elf.image import PAGE, PF_W, ElfImage, Segment, check_type
from ..errors import LoadError, load_error
from ..values import Value
from .segments import WORD, alignment, bias_at, entry, file_pages, page_down, page_up, placed, top_down, total

FILE_MAX = (1 << 63) - 1  # include/linux/fs.h: MAX_LFS_FILESIZE
MAX_ERRNO = 4095
VDSO_ROOM = 6 * PAGE
FLOOR = 65536  # the least vm.mmap_min_addr of kernels with a security module: nothing is placed lower unless asked for


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


def check_interpreter(image: ElfImage, program: ElfImage, beside: int, space: Space) -> tuple[ElfImage, int]:
    """The same for the interpreter of a program that is loaded with the bias `beside`; and the image as it is then loaded."""
    bias = 0
    if image.relocatable and image.loads:
        first = page_down(image.loads[0].vaddr)
        bias = _likely_start(image, 0 if beside else first, space, [*placed(program, beside), space.stack]) - first
    image = image.replace(last=ends(image, bias, space))
    check(image, bias, space, as_interpreter=True)
    return image, bias


def ends(image: ElfImage, bias: int, space: Space) -> int | None:
    """Which PT_LOAD ends an interpreter: beyond user space, with nothing to be mapped, as p_filesz is 0 or wraps to it.

    load_elf_interp returns its address instead of an errno. Taken for the load bias, it is AT_BASE; and if e_entry brings it
    back to user space the program starts there, with the segments before this one.
    """
    for index, load in enumerate(image.loads):
        at = page_down(load.vaddr + bias & WORD)
        if at >= space.end:
            nothing = not file_pages(load) and (load.filesz or not load.memsz)
            return index if nothing and at + image.entry & WORD < space.end else None
    return None


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
    for load in image.mapped:
        at = page_down(load.vaddr + bias & WORD)
        _check_file(image, load, at, whole, space, noreplace)
        if not load.filesz or at < space.end:
            _check_bss(image, load, at, space)
        if at >= space.end:
            raise _bad(errno.EINVAL, image, load, f"{at:#x} is beyond user space ({space.end:#x})")
        _check_size(image, load, bias if as_interpreter else 0, space, errno.ENOMEM if as_interpreter else errno.EINVAL)
        whole, noreplace = 0, False


def _check_file(image: ElfImage, load: Segment, at: int, whole: int, space: Space, noreplace: bool) -> None:
    """elf_map; mm/util.c: vm_mmap; mm/mmap.c: do_mmap. `whole` is mapped at first, and then cut, if it is not 0."""
    shift, size = load.vaddr % PAGE, file_pages(load)
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
    if not file_pages(load):  # nothing was mapped; unless the stack happens to be there
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
    return image.relocatable and not end <= entry(image) <= WORD - end


def check_entry(image: ElfImage, bias: int, task_end: int, *, as_interpreter: bool = False) -> None:
    """Refuses an entry beyond user space. The highest load_elf_binary takes for an errno of load_elf_interp."""
    at = entry(image) + bias & WORD
    if at >= task_end:
        number = WORD + 1 - at if as_interpreter and at > WORD - MAX_ERRNO else errno.EINVAL
        raise load_error(number, f"e_entry at offset 24 is {image.entry:#x}: the program would start at {at:#x}", image.path)


def _bad(number: int, image: ElfImage, load: Segment, what: str) -> LoadError:
    return load_error(number, f"PT_LOAD (program header {load.index}): {what}", image.path)


def _likely_start(image: ElfImage, hint: int, space: Space, taken: list[tuple[int, int]]) -> int:
    """Where a relocatable image may go: as the hint says, or in the mmap area; the end of user space if there is no room.

    Without bytes of the file it is not placed. mm/mmap.c: arch_get_unmapped_area_topdown.
    """
    if not file_pages(image.loads[0]):
        return hint
    size, hint = page_up(total(image)), max(hint, FLOOR) if hint else 0
    if hint and hint + size <= space.end and all(end <= hint or hint + size <= start for start, end in taken):
        return hint
    for top in space.tops:
        start = top_down(top, size, taken)
        if start >= FLOOR:
            return start
    return space.end
