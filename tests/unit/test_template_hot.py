"""What a template does with the pages that starts were seen to touch."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflective.proc.maps import Mapping, read
from reflective.template.hot import (
    MADV_DONTNEED,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    PAGE,
    Hot,
)

PAGES = 8


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Mapping, Mapping, int]]:
    """Of this process: a file's mapping that can't be written to, one that can, and a page of it that has been."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGES * PAGE))
    with path.open("rb") as file:
        constant = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    memory = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[2 * PAGE] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    space = read(os.getpid())
    yield (
        next(one for one in space if one.path == str(path)),
        next(one for one in space if one.start <= address < one.end),
        address + 2 * PAGE,
    )
    constant.close()


def test_exactly_the_touched_pages(places: tuple[Mapping, Mapping, int]) -> None:
    """Between them nothing stays mapped, not even the page by which the mapping becomes one that a fork copies."""
    text = places[0]
    first, third = text.start + PAGE, text.start + 3 * PAGE
    hot = Hot(os.getpid(), [text])
    own, calls = hot.learn({first})
    assert own == [text.start]
    assert calls == [
        (text.start, PAGE, MADV_DONTNEED),
        (first, PAGE, MADV_POPULATE_READ),
        (text.start, PAGE, MADV_DONTNEED),
        (first + PAGE, text.end - first - PAGE, MADV_DONTNEED),
    ]
    assert hot.learning
    assert [start for start, _, advice in hot.learn({third, 0x1000})[1] if advice == MADV_POPULATE_READ] == [first, third]
    assert hot.learn({first, third}) == ([], [])
    assert not hot.learning


def test_written_pages(places: tuple[Mapping, Mapping, int]) -> None:
    """Never dropped; before anything is known waiting clones own those that have been written to, later those that are."""
    _, data, page = places
    hot = Hot(os.getpid(), [data])
    assert (page, PAGE, MADV_POPULATE_WRITE) in [(start, PAGE, advice) for start, _, advice in hot.ahead()]
    assert hot.learn({page + PAGE}) == ([], [])
    assert hot.ahead() == [(page + PAGE, PAGE, MADV_POPULATE_WRITE)]
