"""Where everything goes in one start: the bases that a plan's addresses are relative to.

The rules are the kernel's: arch/x86/mm/mmap.c (mmap_base), fs/binfmt_elf.c (load_elf_binary: the base of a PIE,
randomize_stack_top, brk), arch/x86/kernel/process.c (arch_align_stack, arch_randomize_brk), arch/x86/entry/vdso/vma.c. One
can't be followed: a forked process keeps its parent's mmap base. So the base is drawn below the lowest that the kernel draws,
and what lies between it and the parent's is covered: the kernel then puts libraries under our base, not under the parent's.
"""

from __future__ import annotations

import errno
import os

from ..elf.image import PAGE, ElfImage
from ..errors import LoadError, load_error
from ..values import Value
from .build import ELF_ET_DYN_BASE, LoadPlan
from .checks import FLOOR, check_entry
from .segments import bias_at, page_down, page_up, placed, runs, span, sweep, top_down, total

STACK_TOP = (1 << 47) - PAGE
STACK_RND_BITS = 22  # arch/x86/include/asm/elf.h: __STACK_RND_MASK
STACK_GUARD, STACK_EXPAND = 256 * PAGE, 32 * PAGE
STACK_MAPPED, STACK_ROOM = STACK_EXPAND + PAGE, 8 << 20  # at first, but for long arguments; and as it grows
GAP_MIN, GAP_MAX = 128 << 20, STACK_TOP // 6 * 5
PMD = 2 << 20
FAR = 8 << 40  # an mmap base further away than any randomisation explains: RLIMIT_STACK was another when this process started
UNLIMITED = (1 << 64) - 1
BLOB_LOW, BLOB_BITS, BLOB_ROOM = 0x1000_0000_0000, 34, 1 << 30
ATTEMPTS = 64


class System(Value):
    """The facts of this process and kernel that a layout depends on (collected by native/system.py)."""

    task_end: int  # end of user space
    mmap_top: int  # at or above this process's mmap base, which its children inherit
    vdso: tuple[tuple[int, int], ...]  # vvar … vdso, as adjacent (start, end); () if there is none
    vdso_fixed: bool  # sealed: it stays where it is
    vdso_above_stack: bool  # before Linux 6.? the kernel put it there
    gadget: int  # offset, from the start of vvar, of a system call that leaves the registers clean; 0: none
    randomize: int  # kernel.randomize_va_space
    rnd_bits: int  # vm.mmap_rnd_bits
    brk_range: int  # bytes over which the heap's start is spread
    min_address: int  # the least that PR_SET_MM_MAP takes
    auxv: tuple[tuple[int, int], ...]
    platform: bytes  # the string behind AT_PLATFORM, with its NUL; empty if there is none
    page_zero: bool = False  # page 0 is mapped, and may be sealed (fs/binfmt_elf.c: load_elf_binary)
    huge_devices: frozenset[int] = frozenset()  # st_dev whose file mappings of 2 MiB and more begin on a multiple of that

    @property
    def vdso_start(self) -> int:
        """Where vvar begins."""
        return self.vdso[0][0] if self.vdso else 0

    @property
    def vdso_size(self) -> int:
        """Bytes of vvar and vdso together."""
        return self.vdso[-1][1] - self.vdso[0][0] if self.vdso else 0


class Options(Value):
    """What a caller may want of a layout. `base` is where a PIE's first page goes; `seed` makes everything reproducible."""

    aslr: bool = True
    base: int | None = None
    seed: int | None = None
    hide: bool = True


class Layout(Value):
    """The bases of one start, all absolute addresses; `hide` are (start, size) to cover; `random` the bytes of AT_RANDOM."""

    exe: int
    interp: int
    brk: int
    stack_top: int
    shuffle: int
    vdso: int
    vdso_via: int  # where the vdso stops over if its old and new place overlap, else 0
    blob: int
    hide: tuple[tuple[int, int], ...]
    random: bytes


class Entropy:
    """Random bits, from the kernel or from a seed."""

    def __init__(self, seed: int | None, purpose: str = "") -> None:
        self.pool, self.left = 0, 0
        self.counter = 0
        self.seed, self.purpose = seed, purpose

    def bits(self, count: int) -> int:
        """An integer below 2**count."""
        if count > self.left:
            self.pool, self.left = int.from_bytes(self._refill(), "little"), 1024
        result = self.pool & ((1 << count) - 1)
        self.pool >>= count
        self.left -= count
        return result

    def _refill(self) -> bytes:
        if self.seed is None:
            return os.urandom(128)
        from hashlib import shake_256

        self.counter += 1
        return shake_256(f"{self.seed}:{self.purpose}:{self.counter}".encode()).digest(128)


def draw(plan: LoadPlan, system: System, stack_limit: int, options: Options, attempt: int = 0) -> Layout:
    """Chooses the bases of a start. `stack_limit` is RLIMIT_STACK in bytes; another `attempt` puts the blob elsewhere.

    Raises LoadError: ENOMEM if an image leaves no room for the rest, EEXIST or EFAULT if it must lie where the stack must,
    EINVAL if the entry is beyond user space.
    """
    entropy = Entropy(options.seed)
    randomize = system.randomize if options.aslr else 0
    for _ in range(ATTEMPTS if randomize else 1):
        layout = _draw(plan, system, stack_limit, options, entropy, randomize)
        clash = _clash(plan, system, layout)
        if not clash:
            entered, bias = (plan.interpreter, layout.interp) if plan.interpreter else (plan.executable, layout.exe)
            check_entry(entered, bias, system.task_end, as_interpreter=entered is plan.interpreter)
            blob = _free(layout, plan, system, Entropy(options.seed, f"blob {attempt}"))
            overlap = 0 < abs(layout.vdso - system.vdso_start) < system.vdso_size
            return layout.replace(blob=blob, vdso_via=blob + BLOB_ROOM // 2 if overlap else 0)
    raise _refusal(plan, system, layout, clash)


def check_space(plan: LoadPlan, strings: int, limit: int) -> None:
    """Refuses an image whose span, holes included, is more than RLIMIT_AS leaves. `strings` are the bytes of all strings.

    The kernel maps the whole span and then cuts it (fs/binfmt_elf.c: elf_map), here only the segments are. Raises LoadError.
    """
    used = page_up(strings) + STACK_EXPAND
    for image in (plan.executable, plan.interpreter):
        if image is None:
            continue
        whole = total(image) if image.relocatable or image is plan.interpreter else 0
        if whole and image.loads[0].filesz and used + page_up(whole) > page_down(limit):
            raise load_error(errno.ENOMEM, f"the segments span {whole:#x} bytes, RLIMIT_AS is {limit:#x}", image.path)
        used += sum(end - start for start, end in runs(image))


def _draw(plan: LoadPlan, system: System, stack_limit: int, options: Options, entropy: Entropy, randomize: int) -> Layout:
    stack_top, shuffle = STACK_TOP, 0
    if randomize:
        stack_top = page_up((STACK_TOP - (entropy.bits(STACK_RND_BITS) << 12) - entropy.bits(13)) & ~15)
        shuffle = entropy.bits(13)
    at, hide = _mmap_base(system, stack_limit, randomize, entropy, options)

    exe, interp = _program_base(plan, at, system, options, entropy.bits(system.rnd_bits) if randomize else 0), 0
    taken = placed(plan.executable, exe)
    if plan.interpreter:
        interp = _interpreter_base(plan.interpreter, exe, at, taken, system)
        taken += placed(plan.interpreter, interp)
    vdso = _vdso(system, top_down(at, system.vdso_size, taken), stack_top, entropy, randomize)
    brk = _brk(plan, system, exe, entropy, randomize)
    hide = _without(hide, [*taken, (vdso, vdso + system.vdso_size)])
    return Layout(exe, interp, brk, stack_top, shuffle, vdso, 0, 0, hide, entropy.bits(128).to_bytes(16, "little"))


def _program_base(plan: LoadPlan, limit: int, system: System, options: Options, pages: int) -> int:
    """The load bias of the executable: load_elf_binary. A first segment without bytes of the file is not placed: 0."""
    image = plan.executable
    if options.base is not None and not image.relocatable:
        raise load_error(errno.EINVAL, f"is ET_EXEC: it goes to {span(image)[0]:#x} and no other base", image.path)
    if not image.relocatable or not image.loads:
        return 0
    first = image.loads[0]
    if options.base is not None:
        return page_down(options.base) - page_down(first.vaddr)
    if plan.interpreter:
        return bias_at(image, ELF_ET_DYN_BASE + pages * PAGE, aligned=True)
    return bias_at(image, _map_file(image, limit, [], system) if first.filesz else 0, aligned=False)


def _interpreter_base(image: ElfImage, exe: int, limit: int, taken: list[tuple[int, int]], system: System) -> int:
    """The load bias of the interpreter: load_elf_interp. Beside a fixed program it goes where p_vaddr says if it can."""
    if not image.relocatable:
        return 0
    first = page_down(image.loads[0].vaddr)
    wish = 0 if exe else first
    if not image.loads[0].filesz:
        return wish - first
    wish = max(wish, page_up(system.min_address)) if wish else 0
    size = page_up(total(image))
    behind = wish + size + (PMD if _huge(image, size, system) else 0)
    free = wish and behind <= system.task_end and all(end <= wish or behind <= start for start, end in taken)
    return (wish if free else _map_file(image, limit, taken, system)) - first


def _mmap_base(
    system: System, stack_limit: int, randomize: int, entropy: Entropy, options: Options
) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The address below which images and libraries go, and what must be covered for the kernel to see it so."""
    pad = STACK_GUARD + ((1 << STACK_RND_BITS) - 1 << 12 if randomize else 0)
    gap = min(max(min(stack_limit + pad, UNLIMITED), GAP_MIN), GAP_MAX)
    highest = page_up(STACK_TOP - gap)
    if system.mmap_top - highest > FAR or not options.hide:
        highest = system.mmap_top
    if not options.hide:
        return highest, ()
    if not randomize:
        reach = min(highest, system.mmap_top)
        return highest, ((reach, system.mmap_top - reach),) if system.mmap_top > highest else ()
    lowest = page_down(min(highest - (1 << system.rnd_bits + 12), system.mmap_top))
    base = lowest - (entropy.bits(system.rnd_bits) << 12)
    top = system.mmap_top if options.seed is None else max(highest, system.mmap_top)  # with a seed not even its end is ours
    return base, ((base, top - base),)


def _without(ranges: tuple[tuple[int, int], ...], taken: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The (start, size) ranges less what images at fixed addresses take of them."""
    left = [(start, start + size) for start, size in ranges]
    for low, high in taken:
        left = [part for start, end in left for part in ((start, min(end, low)), (max(start, high), end)) if part[0] < part[1]]
    return tuple((start, end - start) for start, end in left)


def _map_file(image: ElfImage, limit: int, taken: list[tuple[int, int]], system: System) -> int:
    """Where the kernel puts an image in the mmap area: on some file systems huge pages shall fit (mm/huge_memory.c:
    __thp_get_unmapped_area)."""
    size = page_up(total(image))
    place = top_down(limit, size, taken)
    if place < FLOOR:
        place = top_down(max(limit, system.mmap_top), size, taken)  # this may be higher: see _mmap_base
    if place < FLOOR:
        return system.task_end  # nowhere
    if not _huge(image, size, system):
        return place
    at = top_down(limit, size + PMD, taken)
    return at + ((page_down(image.loads[0].offset) - at) % PMD or PMD) if at >= FLOOR else place


def _huge(image: ElfImage, size: int, system: System) -> bool:
    """True if a huge page fits into a mapping of that size: room is then looked for with 2 MiB more than that."""
    offset = page_down(image.loads[0].offset)
    fits = offset + size - (offset + PMD - 1 & -PMD) >= PMD
    return fits and image.identity.device in system.huge_devices


def huge(plan: LoadPlan) -> bool:
    """True if an image that goes to the mmap area is large enough for huge pages: then System.huge_devices matters."""
    image = plan.interpreter or plan.executable
    low, high = span(image)
    return image.relocatable and high - low >= PMD


def _vdso(system: System, free: int, stack_top: int, entropy: Entropy, randomize: int) -> int:
    """The highest free place in the mmap area; on older kernels above the stack, within its 2 MiB (vdso_addr)."""
    if system.vdso_fixed or not system.vdso:
        return system.vdso_start
    if not system.vdso_above_stack:
        return free
    end = min((stack_top + system.vdso_size + PMD - 1) & -PMD, STACK_TOP) - system.vdso_size
    return stack_top + (entropy.bits(64) % ((end - stack_top >> 12) + 1) << 12) if end > stack_top and randomize else stack_top


def _brk(plan: LoadPlan, system: System, exe: int, entropy: Entropy, randomize: int) -> int:
    """The heap's start: a page and up to 1 GiB behind the image; a static PIE's goes where a PIE would be."""
    image = plan.executable
    moved = image.relocatable and not plan.interpreter
    start = page_up(ELF_ET_DYN_BASE if moved else exe + max((load.vaddr + load.memsz for load in image.loads), default=0))
    if randomize == 2:
        start += (0 if moved else PAGE) + (entropy.bits(64) % (system.brk_range >> 12) << 12)
    # behind an image at the very top, or bottom, the kernel has a heap that prctl does not take
    return min(max(start, page_up(system.min_address)), system.task_end - PAGE)


def _taken(plan: LoadPlan, layout: Layout, system: System) -> list[tuple[int, int, str]]:
    """Every stretch that the new program occupies, with its name."""
    ranges = [*_image_ranges(plan.executable, layout.exe, "the executable")]
    if plan.interpreter:
        ranges += _image_ranges(plan.interpreter, layout.interp, "the interpreter")
    ranges.append((layout.stack_top - STACK_MAPPED, layout.stack_top, "the stack"))
    ranges.append((layout.vdso, layout.vdso + system.vdso_size, "the vdso"))
    ranges += [(start, start + size, "the hidden mmap base") for start, size in layout.hide]
    return [item for item in ranges if item[0] < item[1]]


def _image_ranges(image: ElfImage, bias: int, name: str) -> list[tuple[int, int, str]]:
    return [(start, end, name) for start, end in placed(image, bias)]


def _clash(plan: LoadPlan, system: System, layout: Layout) -> str:
    """Which two of them overlap, or what reaches beyond user space; "" if all is well."""
    fixed = plan.interpreter and not plan.executable.relocatable
    images = {"the executable", "the interpreter"} if fixed else None  # one may lie over the other
    at, before = 0, "the end of user space"
    for start, end, name in sorted(_taken(plan, layout, system)):
        if start < at and name != before and {name, before} != images:
            return f"{before} and {name} overlap at {start:#x}"
        if end > at:
            at, before = end, name
    if at > system.task_end:
        return f"{before} reaches beyond user space, to {at:#x}"
    return _no_span(plan, system, layout)


def _no_span(plan: LoadPlan, system: System, layout: Layout) -> str:
    """What a PIE, or an interpreter at fixed addresses, spans must be free for a moment, holes included: where it isn't."""
    spans = [(*sweep(plan.interpreter), "the interpreter")] if plan.interpreter else []
    if plan.interpreter and plan.executable.relocatable and plan.executable.loads and plan.executable.loads[0].filesz:
        start = page_down(plan.executable.loads[0].vaddr + layout.exe)
        spans.append((start, start + page_up(total(plan.executable)), "the executable"))
    for start, end, name in spans:
        if end > system.task_end:
            return f"{name} spans more than user space, to {end:#x}"
        if start < layout.stack_top and layout.stack_top - STACK_MAPPED < end:
            return f"{name} spans the stack"
    return ""


def _refusal(plan: LoadPlan, system: System, layout: Layout, clash: str) -> LoadError:
    """The kernel's errno: EEXIST where the first segment of a program would have to lie over the stack; EFAULT where a later
    one does, or the interpreter, as these are laid over it."""
    image, number = plan.executable, errno.ENOMEM
    if "stack" in clash:
        first = image.loads[0]
        size = total(image) if image.relocatable else first.filesz
        start = page_down(first.vaddr + layout.exe)
        low, high = layout.stack_top - STACK_MAPPED, layout.stack_top
        stuck = first.filesz and start < high and low < page_up(start + size) <= system.task_end
        number = errno.EEXIST if stuck else errno.EFAULT
    return load_error(number, f"no room: {clash}", image.path)


def _free(layout: Layout, plan: LoadPlan, system: System, entropy: Entropy) -> int:
    """A random place that neither space uses: for the loader's own area."""
    taken = [
        *_taken(plan, layout, system),
        (layout.stack_top - STACK_ROOM, layout.stack_top, "the stack's growth"),
        (layout.brk, layout.brk + BLOB_ROOM, "the heap"),
    ]
    taken += [(start, end, "the vdso") for start, end in system.vdso]
    for _ in range(ATTEMPTS):
        start = BLOB_LOW + (entropy.bits(BLOB_BITS) << 12)
        if all(start + BLOB_ROOM <= low or high <= start for low, high, _ in taken):
            return start
    start, room = _largest_gap([(low, high) for low, high, _ in taken], system.task_end)
    if room >= BLOB_ROOM:
        return start + (entropy.bits(64) % ((room - BLOB_ROOM >> 12) + 1) << 12)
    raise load_error(errno.ENOMEM, "no room for the loader beside the program", plan.executable.path)


def _largest_gap(taken: list[tuple[int, int]], end: int) -> tuple[int, int]:
    """Where nothing is: start and size."""
    at, best = FLOOR, (FLOOR, 0)
    for low, high in [*sorted(taken), (end, end)]:
        best = max(best, (at, low - at), key=lambda gap: gap[1])
        at = max(at, high)
    return best
