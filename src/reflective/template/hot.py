"""The pages that a program touches, learned from starts, and how clones come to have them from the beginning.

A fork copies the page table of a file's mapping only if the mapping has, or has had, pages of its own (mm/memory.c:
vma_needs_copy): otherwise the clone finds all of the file's pages again, one page fault for each 16. So each mapping is given
one, which is dropped again, and the template maps those pages that starts were seen to touch. No others, for every entry costs
both the fork and the exit. Clones that wait write to those pages that will be written to.

perf tells which: a page fault for each, but only the first within 16 pages, the others are mapped along. Once that first one
is in the template, the next start shows the second. It takes some starts until there are none that are new.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ..proc.maps import Mapping

Call: TypeAlias = tuple[int, int, int]  # of madvise: start, size, advice

PAGE = 4096
STARTS = 12  # that are looked at, at most
MADV_DONTNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 4, 22, 23
MOST = 1200  # calls: csrc/template/template.h
LARGE = 6 << 20  # bytes
PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61  # /proc/PID/pagemap


class Hot:
    """What is known of a template's program. `space` is what clones have of the template's address space, before any start."""

    def __init__(self, pid: int, space: Iterable[Mapping]) -> None:
        mappings = [one for one in space if not one.shared and (one.file or one.prot & 2)]
        self._own = _pages_of_its_own(pid, mappings)
        self._writable = [one for one in mappings if one.prot & 2]
        self._constant = [one for one in mappings if not one.prot & 2]
        self._touched: set[int] = set()
        self._starts = 0
        self.learning = True

    def learn(self, touched: set[int]) -> tuple[list[int], list[Call]]:
        """From a start's page faults: pages that the template shall have its own copies of, and what it then does.

        When there is nothing new, all is learned.
        """
        new = {page for page in touched - self._touched if any(page in one for one in map(_range, self._constant))}
        self._touched |= touched
        self._starts += 1
        self.learning = bool(new) and self._starts < STARTS
        mappings = [one for one in self._constant if not new.isdisjoint(_range(one))]
        calls = [call for one in mappings for call in self._map(one)]
        return ([one.start for one in mappings if self._whole(one)], calls) if len(calls) <= MOST else ([], [])

    def _map(self, one: Mapping) -> Iterator[Call]:
        """The touched pages of a file's mapping, and if all of its pages are the file's no others."""
        runs = list(_runs(self._touched.intersection(_range(one))))
        if self._whole(one):
            yield one.start, PAGE, MADV_DONTNEED
        for start, end in runs:
            yield start, end - start, MADV_POPULATE_READ
        if self._whole(one):
            edges = [one.start, *(edge for run in runs for edge in run), one.end]
            gaps = zip(edges[::2], edges[1::2], strict=True)
            yield from ((start, end - start, MADV_DONTNEED) for start, end in gaps if end > start)

    def _whole(self, one: Mapping) -> bool:
        """Whether all of its pages are the file's."""
        return self._own.isdisjoint(_range(one))

    def ahead(self) -> list[Call]:
        """What waiting clones do. Before anything is known: they own what the dynamic linker wrote to, and map all files."""
        pages = self._touched or self._own
        calls = [
            (start, end - start, MADV_POPULATE_WRITE)
            for one in self._writable
            for start, end in _runs(pages.intersection(_range(one)))
        ]
        if not self._touched and sum(one.end - one.start for one in self._constant) <= LARGE:
            calls += [(one.start, one.end - one.start, MADV_POPULATE_READ) for one in self._constant]
        return calls[:MOST]


def _range(one: Mapping) -> range:
    return range(one.start, one.end, PAGE)


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring pages, as [start, end)."""
    start = end = 0
    for page in sorted(pages):
        if page != end:
            if start:
                yield start, end
            start = page
        end = page + PAGE
    if start:
        yield start, end


def _pages_of_its_own(pid: int, mappings: Iterable[Mapping]) -> set[int]:
    """Pages that are not those of a file (any more): the dynamic linker has written to them."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        found = set()
        for one in mappings:
            count = (one.end - one.start) // PAGE
            entries = struct.unpack(f"<{count}Q", os.pread(file.fileno(), 8 * count, one.start // PAGE * 8))
            found |= {
                one.start + PAGE * number
                for number, entry in enumerate(entries)
                if entry & SWAPPED or (entry & PRESENT and not entry & OF_FILE)
            }
        return found
