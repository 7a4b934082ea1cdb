"""Which pages mean the same in two address spaces, and the counting of frames."""

from __future__ import annotations

from reflective.observe.sharing import Pages, Pair, count, pairs, shared, total
from reflective.observe.space import Line
from reflective.proc.maps import Mapping
from reflective.proc.smaps import Usage

PRESENT = 1 << 63


def line(start: int, size: int, **more: int | str) -> Line:
    inode, path, offset = int(more.get("inode", 0)), str(more.get("path", "")), int(more.get("offset", 0))
    mapping = Mapping(start, start + size, 3, False, offset, 1, inode, path)
    return Line(mapping, Usage(), path, int(more.get("segment", -1)), False, "", 0, int(more.get("bias", 0)))


def test_the_same_file_at_another_address() -> None:
    first = [line(0x5000, 0x3000, inode=7, path="/a", segment=1, bias=0x4000)]
    second = [line(0x95000, 0x1000, inode=7, path="/a", segment=1, bias=0x93000, offset=0x1000)]
    assert pairs(first, second) == [Pair(0, 0x6000, 0x95000, 0x1000)]


def test_another_file_of_that_name() -> None:
    assert pairs([line(0x5000, 0x1000, inode=7, path="/a")], [line(0x5000, 0x1000, inode=8, path="/a")]) == []


def test_plain_files_by_offset() -> None:
    first, second = [line(0x5000, 0x4000, inode=7, path="/a")], [line(0x9000, 0x1000, inode=7, path="/a", offset=0x2000)]
    assert pairs(first, second) == [Pair(0, 0x7000, 0x9000, 0x1000)]


def test_anonymous_memory_by_address_and_name() -> None:
    assert pairs([line(0x5000, 0x2000)], [line(0x6000, 0x2000)]) == [Pair(0, 0x6000, 0x6000, 0x1000)]
    assert pairs([line(0x5000, 0x2000, path="[heap]")], [line(0x5000, 0x2000)]) == []


def test_bss_is_compared_with_bss() -> None:
    first = [
        line(0x5000, 0x1000, inode=7, path="/a", segment=1, bias=0x5000),
        line(0x6000, 0x1000, path="/a", segment=1, bias=0x5000),
    ]
    second = [
        line(0x8000, 0x1000, inode=7, path="/a", segment=1, bias=0x8000),
        line(0x9000, 0x1000, path="/a", segment=1, bias=0x8000),
    ]
    assert pairs(first, second) == [Pair(0, 0x5000, 0x8000, 0x1000), Pair(1, 0x6000, 0x9000, 0x1000)]


def test_the_vdso_is_anywhere() -> None:
    assert pairs([line(0x5000, 0x2000, path="[vdso]")], [line(0x9000, 0x2000, path="[vdso]")]) == [
        Pair(0, 0x5000, 0x9000, 0x2000)
    ]


def test_counting() -> None:
    first = [PRESENT | 5, PRESENT | 6, 0, PRESENT | 7, 1 << 62 | 9]
    second = [PRESENT | 5, PRESENT | 8, PRESENT | 1, 0, 1 << 62 | 9]
    found = count(first, second)
    assert (found.here, found.there, found.both, found.same, found.differ) == (3, 3, 2, 1, 1)


def test_a_line_without_counterpart() -> None:
    lines = [line(0x5000, 0x1000), line(0x9000, 0x1000)]
    pages = Pages(1, 1, 1, 1)
    found = shared(lines, [(Pair(0, 0x5000, 0x5000, 0x1000), pages), (Pair(0, 0x5000, 0x5000, 0x1000), pages)])
    assert [one.pages for one in found] == [Pages(2, 2, 2, 2), None]
    assert total(found) == Pages(2, 2, 2, 2)
