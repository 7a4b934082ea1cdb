"""Where everything goes: the kernel's ranges, at least its entropy, nothing over anything else.

Every draw has a seed: no test depends on luck.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import pytest

from reflective.elf.image import ET_DYN, ET_EXEC, PAGE, PT_LOAD, ElfImage, FileIdentity, Segment
from reflective.errors import LoadError
from reflective.plan.build import LoadPlan
from reflective.plan.layout import Layout, Options, System, draw
from reflective.plan.segments import page_up, runs, span

GIB, MIB = 1 << 30, 1 << 20
TASK_END = (1 << 47) - PAGE
STACK_LIMIT = 8 * MIB
DRAWS = 10_000
RND_BITS, STACK_BITS = 28, 22  # vm.mmap_rnd_bits; pages of the stack's top
GAP = 16 * GIB + 9 * MIB  # the kernel leaves it to the stack, its guard, and its randomisation
MMAP_TOP = TASK_END - GAP - 123_456 * PAGE  # where this process has its own mmap base
VDSO = (MMAP_TOP - 6 * PAGE, MMAP_TOP - 2 * PAGE, MMAP_TOP)

SYSTEM = System(
    task_end=TASK_END,
    mmap_top=MMAP_TOP,
    vdso=((VDSO[0], VDSO[1]), (VDSO[1], VDSO[2])),
    vdso_fixed=False,
    vdso_above_stack=False,
    gadget=0x1234,
    randomize=2,
    rnd_bits=RND_BITS,
    brk_range=GIB,
    min_address=65536,
    auxv=(),
    platform=b"x86_64\0",
)


def image(kind: int, at: int, size: int, align: int = PAGE, bss: int = 0) -> ElfImage:
    """Text and data, with a hole between them."""
    loads = (
        Segment(0, PT_LOAD, 5, 0, at, size, size, align),
        Segment(1, PT_LOAD, 6, page_up(size), at + page_up(size) + 16 * PAGE, PAGE, PAGE + bss, align),
    )
    return ElfImage("program", FileIdentity(1, 2, 1 << 30, 3), kind, at + 64, 64, 2, loads, None)


LD_SO = image(ET_DYN, 0, 0x36000)


def plan(executable: ElfImage, interpreter: ElfImage | None = None) -> LoadPlan:
    return LoadPlan("program", executable, interpreter, (), (), ())


PLANS = {
    "pie": plan(image(ET_DYN, 0, 0x12345), LD_SO),
    "pie of 2 MiB pages": plan(image(ET_DYN, 0, 0x12345, 2 * MIB), LD_SO),
    "pie with a bss of 4 GiB": plan(image(ET_DYN, 0, 0x12345, bss=4 * GIB), LD_SO),
    "no-pie": plan(image(ET_EXEC, 0x400000, 0x54321), LD_SO),
    "static": plan(image(ET_EXEC, 0x400000, 0x54321)),
    "static-pie": plan(image(ET_DYN, 0, 0x54321)),
    "static-pie of 2 MiB pages": plan(image(ET_DYN, 0, 0x54321, 2 * MIB)),
    "fixed where PIEs go": plan(image(ET_EXEC, 0x5555_5555_4000, 0x54321), LD_SO),
    "fixed below the mmap area": plan(image(ET_EXEC, 0x7000_0000_0000, 0x54321), LD_SO),
    "linked at an address": plan(image(ET_DYN, 0x40000, 0x12345), LD_SO),
}


@lru_cache(maxsize=1)
def layouts(name: str) -> list[Layout]:
    return [draw(PLANS[name], SYSTEM, STACK_LIMIT, Options(seed=seed)) for seed in range(DRAWS)]


def occupied(load: LoadPlan, layout: Layout) -> list[tuple[int, int, str]]:
    """Everything that has a place, sorted."""
    ranges = [(start + layout.exe, end + layout.exe, "executable") for start, end in runs(load.executable)]
    if load.interpreter:
        ranges += [(start + layout.interp, end + layout.interp, "interpreter") for start, end in runs(load.interpreter)]
    ranges += [(start, start + size, "hidden") for start, size in layout.hide]
    ranges.append((layout.stack_top - STACK_LIMIT, layout.stack_top, "stack"))
    ranges.append((layout.vdso, layout.vdso + SYSTEM.vdso_size, "vdso"))
    ranges.append((layout.brk, layout.brk + MIB, "heap"))
    ranges.append((layout.blob, layout.blob + GIB, "the loader"))
    return sorted(ranges)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_nothing_overlaps(name: str) -> None:
    for layout in layouts(name):
        ranges = occupied(PLANS[name], layout)
        for (_, end, one), (start, _, other) in pairwise(ranges):
            assert end <= start, f"{one} and {other}: {layout}"
        assert ranges[0][0] >= SYSTEM.min_address
        assert ranges[-1][1] <= TASK_END
        # the loader's area is in use while the vdso may still be at its old place
        assert layout.blob % PAGE == 0
        assert layout.blob + GIB <= VDSO[0] or layout.blob >= VDSO[2]
        assert (layout.vdso_via != 0) == (0 < abs(layout.vdso - VDSO[0]) < SYSTEM.vdso_size)


Measure = Callable[[Layout], int]


def pages_below(limit: int, measure: Measure) -> Measure:
    return lambda layout: (limit - measure(layout)) // PAGE


def pages_above(start: int, measure: Measure) -> Measure:
    return lambda layout: (measure(layout) - start) // PAGE


ELF_ET_DYN_BASE = TASK_END // 3 * 2
LOWEST = TASK_END - GAP - (1 << RND_BITS + 12)  # the kernel's mmap base goes down to here, ours begins here
LD_SO_SPAN = span(LD_SO)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "measure", "bits", "beyond"),
    [
        ("pie", pages_above(ELF_ET_DYN_BASE, lambda layout: layout.exe), RND_BITS, 0),
        ("pie", pages_below(LOWEST, lambda layout: layout.interp + LD_SO_SPAN), RND_BITS, 1),
        # the stack's top is lowered by up to two pages more: by 13 bits of bytes (arch_align_stack)
        ("pie", pages_below(TASK_END, lambda layout: layout.stack_top), STACK_BITS, 2),
        ("pie", lambda layout: layout.shuffle, 13, 0),
        ("pie", lambda layout: int.from_bytes(layout.random, "little"), 128, 0),
        ("pie", pages_above(0x1000_0000_0000, lambda layout: layout.blob), 34, 0),
        ("pie of 2 MiB pages", lambda layout: (layout.exe - ELF_ET_DYN_BASE) // (2 * MIB) + 1, RND_BITS - 9, 1),
        ("static", pages_above(span(PLANS["static"].executable)[1] + PAGE, lambda layout: layout.brk), 18, 0),
        ("static-pie", pages_above(ELF_ET_DYN_BASE, lambda layout: layout.brk), 18, 1),
        ("static-pie", pages_below(LOWEST, lambda layout: layout.exe + span(PLANS["static-pie"].executable)[1]), RND_BITS, 1),
    ],
    ids=["pie", "interpreter", "stack", "shuffle", "random", "loader", "pie 2 MiB", "heap", "static-pie heap", "static-pie"],
)
def test_ranges_and_entropy(name: str, measure: Measure, bits: int, beyond: int) -> None:
    """In its range, and each bit set in half of the draws: five standard deviations are allowed."""
    drawn = [measure(layout) for layout in layouts(name)]
    assert min(drawn) >= 0
    assert max(drawn) < (1 << bits) + beyond
    for bit in range(bits):
        ones = sum(value >> bit & 1 for value in drawn)
        assert abs(ones - DRAWS / 2) < 5 * (DRAWS / 4) ** 0.5, f"bit {bit}"


@pytest.mark.slow
def test_bases_are_independent() -> None:
    """No two are shifted alike: in their difference, too, each bit is set in half of the draws."""
    drawn = [[layout.exe, layout.interp, layout.stack_top, layout.brk - layout.exe, layout.blob] for layout in layouts("pie")]
    for one in range(5):
        for other in range(one):
            for bit in range(12, 12 + 18):
                ones = sum((bases[one] ^ bases[other]) >> bit & 1 for bases in drawn)
                assert abs(ones - DRAWS / 2) < 5 * (DRAWS / 4) ** 0.5, (one, other, bit)


@pytest.mark.parametrize("name", PLANS)
def test_same_seed_same_layout(name: str) -> None:
    def at(seed: int | None) -> Layout:
        return draw(PLANS[name], SYSTEM, STACK_LIMIT, Options(seed=seed))

    assert at(5) == at(5)
    assert len({at(seed) for seed in range(100)}) == 100
    assert at(None) != at(None)


def test_a_seed_does_not_depend_on_this_process() -> None:
    moved = MMAP_TOP - 77 * PAGE
    elsewhere = SYSTEM.replace(mmap_top=moved, vdso=((moved - 6 * PAGE, moved),))
    for seed in range(100):
        one, other = (draw(PLANS["pie"], system, STACK_LIMIT, Options(seed=seed)) for system in (SYSTEM, elsewhere))
        assert one.replace(vdso_via=0, blob=0) == other.replace(vdso_via=0, blob=0)


@pytest.mark.parametrize("name", ["pie of 2 MiB pages", "static-pie of 2 MiB pages"])
def test_alignment_is_kept(name: str) -> None:
    assert all(draw(PLANS[name], SYSTEM, STACK_LIMIT, Options(seed=seed)).exe % (2 * MIB) == 0 for seed in range(100))


def test_without_aslr_as_setarch_has_it() -> None:
    """The addresses that gdb's users know by heart."""
    top = 0x7FFF_F7FF_F000
    system = SYSTEM.replace(mmap_top=top, vdso=((top - 6 * PAGE, top),))
    layout = draw(PLANS["pie"], system, STACK_LIMIT, Options(aslr=False))
    assert layout.exe == 0x5555_5555_4000
    assert layout.stack_top == 0x7FFF_FFFF_F000
    assert layout.interp == top - LD_SO_SPAN
    assert layout.brk == 0x5555_5555_4000 + span(PLANS["pie"].executable)[1]
    assert (layout.shuffle, layout.hide) == (0, ())
    other = draw(PLANS["pie"], system, STACK_LIMIT, Options(aslr=False))
    assert other.replace(random=b"", blob=0, vdso_via=0) == layout.replace(random=b"", blob=0, vdso_via=0)
    assert other.random != layout.random, "AT_RANDOM is random without ASLR too"


def test_randomize_1_leaves_the_heap_behind_the_program() -> None:
    layout = draw(PLANS["static"], SYSTEM.replace(randomize=1), STACK_LIMIT, Options(seed=1))
    assert layout.brk == span(PLANS["static"].executable)[1]


def test_base_is_where_a_pie_goes() -> None:
    assert draw(PLANS["pie"], SYSTEM, STACK_LIMIT, Options(base=0x1234_5000)).exe == 0x1234_5000
    assert draw(PLANS["linked at an address"], SYSTEM, STACK_LIMIT, Options(base=0x1234_5000)).exe == 0x1234_5000 - 0x40000
    with pytest.raises(LoadError) as refusal:
        draw(PLANS["static"], SYSTEM, STACK_LIMIT, Options(base=0x1234_5000))
    assert refusal.value.errno == errno.EINVAL


def test_a_sealed_vdso_stays() -> None:
    layout = draw(PLANS["pie"], SYSTEM.replace(vdso_fixed=True), STACK_LIMIT, Options(seed=1))
    assert (layout.vdso, layout.vdso_via) == (VDSO[0], 0)


@pytest.mark.parametrize("base", [TASK_END - 2 * MIB, TASK_END - PAGE])
def test_no_room(base: int) -> None:
    """A program where the stack must lie is refused before anything is changed."""
    with pytest.raises(LoadError) as refusal:
        draw(plan(image(ET_EXEC, base, 0x100, bss=GIB)), SYSTEM.replace(randomize=0), STACK_LIMIT, Options())
    assert refusal.value.errno in (errno.ENOMEM, errno.EEXIST, errno.EFAULT)
