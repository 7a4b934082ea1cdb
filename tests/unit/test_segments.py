"""From program headers to mappings, against a page-by-page model of what fs/binfmt_elf.c: elf_load leaves in memory."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from reflective.elf.image import ET_DYN, ET_EXEC, PAGE, PT_LOAD, ElfImage, FileIdentity, Segment, read
from reflective.errors import LoadError
from reflective.plan import checks, segments
from reflective.plan.steps import MapFile, MapZero, Zero

R, W, X = 4, 2, 1
TASK_END = (1 << 47) - PAGE
BASE = 0x400000


def load(offset: int, vaddr: int, filesz: int, memsz: int | None = None, flags: int = R | W, align: int = PAGE) -> Segment:
    return Segment(0, PT_LOAD, flags, offset, vaddr, filesz, filesz if memsz is None else memsz, align)


def image(*loads: Segment, kind: int = ET_EXEC, size: int = 1 << 20, entry: int = BASE) -> ElfImage:
    numbered = tuple(segment.replace(index=index) for index, segment in enumerate(loads))
    return ElfImage("program", FileIdentity(1, 2, size, 3), kind, entry, 64, len(loads), numbered, None)


def check(found: ElfImage) -> None:
    """A relocatable one 4 MiB above its own addresses."""
    checks.check(found, 0 if found.type == ET_EXEC else BASE, checks.Space(TASK_END, 65536))


def refusal(*loads: Segment, kind: int = ET_EXEC, size: int = 1 << 20) -> int:
    with pytest.raises(LoadError) as error:
        check(image(*loads, kind=kind, size=size))
    assert "PT_LOAD" in error.value.reason
    return error.value.errno or 0


Page = tuple[str, int, int]  # "file" or "zero"; the file's offset of its first byte, or 0; where zeros begin within it


def pages(found: ElfImage) -> dict[int, Page]:
    """What lies at each page once the steps have been carried out in order."""
    memory: dict[int, Page] = {}
    for step in segments.steps(found, "exe"):
        if isinstance(step, (MapFile, MapZero)):
            assert step.at.offset % PAGE == step.size % PAGE == 0
            assert step.size > 0
            for at in range(step.at.offset, step.at.offset + step.size, PAGE):
                file_at = step.offset + at - step.at.offset if isinstance(step, MapFile) else 0
                memory[at] = ("file", file_at, PAGE) if isinstance(step, MapFile) else ("zero", 0, 0)
        elif isinstance(step, Zero):
            page = segments.page_down(step.at.offset)
            kind, file_at, _ = memory[page]
            assert kind == "file", "only a file's page is cleared"
            assert step.at.offset + step.size == page + PAGE, "to the end of the page: ld.so uses it"
            memory[page] = (kind, file_at, step.at.offset - page)
    return memory


def expected(found: ElfImage) -> dict[int, Page]:
    """The same from the definition: segment by segment, page by page, the later one wins."""
    memory: dict[int, Page] = {}
    for part in (part for part in found.loads if part.memsz):
        file_end = part.vaddr + part.filesz
        for at in range(segments.page_down(part.vaddr), segments.page_up(part.vaddr + part.memsz), PAGE):
            if part.filesz and at < file_end:
                cleared = file_end - at if at + PAGE > file_end and part.memsz > part.filesz and part.flags & W else PAGE
                memory[at] = ("file", part.offset - part.vaddr + at, cleared)
            else:
                memory[at] = ("zero", 0, 0)
    return memory


@pytest.mark.parametrize(
    "parts",
    [
        (load(0, BASE, 100),),
        (load(0, BASE, PAGE),),
        (load(0, BASE, PAGE, 3 * PAGE),),
        (load(0x123, BASE + 0x123, 100, 0x5000),),
        (load(0x123, BASE + 0x123, PAGE - 0x123, 0x5000),),
        (load(0, BASE, 0, 0x2345),),
        (load(0, BASE + 0x10, 0, 0x10),),
        (load(0, BASE, 100, 0x3000, R | X),),
        (load(0, BASE, 0x1800, flags=R | X), load(0x1800, BASE + 0x2800, 0x200, 0x4000)),
        (load(0x1000, BASE + 0x1000, 0x1000), load(0, BASE, 0x1000)),
        (load(0, BASE, 0x3000), load(0x1000, BASE + 0x1000, 0x1000, flags=R)),
        (load(0, BASE, 0, 0),),
    ],
)
def test_memory_is_as_defined(parts: tuple[Segment, ...]) -> None:
    assert pages(image(*parts)) == expected(image(*parts))


def test_memory_of_random_images() -> None:
    chance = random.Random(20_261_121)
    for _ in range(3000):
        parts, at = [], BASE
        for _ in range(chance.randint(1, 5)):
            at += chance.randrange(0, 4 * PAGE)
            filesz = chance.choice((0, 1, PAGE - 1, PAGE, chance.randrange(5 * PAGE)))
            memsz = filesz + chance.choice((0, 1, PAGE, chance.randrange(5 * PAGE)))
            offset = chance.randrange(16) * PAGE + at % PAGE
            parts.append(load(offset, at, filesz, memsz, chance.choice((R, R | W, R | X, R | W | X))))
            at += memsz
        found = image(*parts)
        check(found)
        assert pages(found) == expected(found), found


def test_bss_is_writable_and_executable_only_if_asked() -> None:
    for flags, prot in ((R, 3), (0, 3), (R | W, 3), (R | X, 7), (X, 7)):
        (zeroes,) = (step for step in segments.steps(image(load(0, BASE, 0, PAGE, flags)), "exe") if isinstance(step, MapZero))
        assert zeroes.prot == prot


def test_over_marks_what_replaces_another_segment() -> None:
    parts = image(load(0, BASE, 0x3000), load(0x1000, BASE + 0x1000, 0x1000), load(0x5000, BASE + 0x5000, 0x1000))
    assert [step.over for step in segments.steps(parts, "exe") if isinstance(step, MapFile)] == [False, True, False]


def test_runs_merge_neighbours() -> None:
    parts = image(load(0, 0x1000, 0x1000), load(0, 0x2000, 0x10), load(0, 0x8000, 0, 0x1001), load(0, 0x5000, 0, 0))
    assert segments.runs(parts) == [(0x1000, 0x3000), (0x8000, 0xA000)]
    assert segments.span(parts) == (0x1000, 0xA000)
    assert segments.total(parts) == 0x8001


def test_alignment_is_the_largest_power_of_two() -> None:
    assert segments.alignment(image(load(0, 0, 1, align=0), load(0, 0, 1, align=16))) == PAGE
    assert segments.alignment(image(load(0, 0, 1, align=2 << 20), load(0, 0, 1, align=3 << 20))) == 2 << 20


def test_code_and_data_as_the_kernel_sums_them_up() -> None:
    parts = image(
        load(0, BASE, 0x500, flags=R), load(0, BASE + 0x1000, 0x600, flags=R | X), load(0, BASE + 0x3000, 0x200, 0x900)
    )
    assert segments.code_and_data(parts) == ((BASE + 0x1000, BASE + 0x1600), (BASE + 0x3000, BASE + 0x3200))


@pytest.mark.parametrize("kind", [ET_EXEC, ET_DYN])
def test_refusals(kind: int) -> None:
    assert refusal(load(0, BASE, 0x200, 0x100), kind=kind) == errno.EINVAL  # more in the file than in memory
    assert refusal(load(0x10, BASE, 0x200), kind=kind) == errno.EINVAL  # offset and address differ within a page
    assert refusal(load(0, BASE, 0x200, 0x2000), kind=kind, size=0) == errno.EFAULT  # the page to clear is not in the file


def test_segments_beyond_user_space() -> None:
    assert refusal(load(0, BASE, 0x10, TASK_END)) == errno.ENOMEM
    assert refusal(load(0, TASK_END, 0x10)) == errno.ENOMEM


def test_real_programs_are_accepted() -> None:
    for path in ("/bin/sh", "/usr/bin/env", "/proc/self/exe", "/lib64/ld-linux-x86-64.so.2"):
        if Path(path).exists():
            fd = os.open(path, os.O_RDONLY)
            found = read(fd, path)
            os.close(fd)
            check(found)
            assert pages(found) == expected(found)
