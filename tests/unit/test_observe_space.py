"""Explaining and comparing address spaces, on values made here."""

from __future__ import annotations

from reflective.elf.image import PT_GNU_RELRO, PT_LOAD, ElfImage, FileIdentity, Segment
from reflective.observe.space import changes, lines
from reflective.proc import smaps

IMAGE = ElfImage(
    "/x", FileIdentity(1, 7, 0, 0), 3, 0, 64, 3,
    (
        Segment(0, PT_LOAD, 5, 0, 0, 0x1800, 0x1800, 4096),
        Segment(1, PT_LOAD, 6, 0x1E00, 0x2E00, 0x300, 0x2300, 4096),
        Segment(2, PT_GNU_RELRO, 4, 0x1E00, 0x2E00, 0x200, 0x200, 1),
    ),
    None,
)  # fmt: skip
TEXT = b"""\
10000-12000 r-xp 00000000 00:01 7 /x
Rss:                   8 kB
Pss:                   4 kB
Shared_Clean:          8 kB
VmFlags: rd ex mr mw me
12000-13000 %s 00001000 00:01 7 /x
Rss:                   4 kB
13000-14000 rw-p 00002000 00:01 7 /x
14000-16000 rw-p 00000000 00:00 0
20000-21000 rw-p 00000000 00:00 0 [heap]
"""


def test_lines() -> None:
    found = lines(smaps.parse(TEXT % b"r--p"), {7: IMAGE})
    assert [(line.object, line.segment, line.relro, line.what.rpartition(", ")[2]) for line in found] == [
        ("/x", 0, False, "segment 0 (r-x)"),
        ("/x", 1, True, "RELRO: read-only since it was relocated".rpartition(", ")[2]),
        ("/x", 1, False, "segment 1 (rw-)"),
        ("/x", 1, False, "bss"),
        ("[heap]", -1, False, ""),
    ]
    assert [line.gap for line in found] == [0x10000, 0, 0, 0, 0xA000]
    usage = found[0].usage
    assert (usage.rss, usage.pss, usage.shared) == (8192, 4096, 8192)


def test_unknown_file() -> None:
    found = lines(smaps.parse(TEXT % b"r--p"), {})
    assert [(line.segment, line.what) for line in found] == [(-1, "file")] * 3 + [(-1, "anonymous"), (-1, "")]


def test_changes() -> None:
    before, after = TEXT % b"rw-p", (TEXT % b"r--p").replace(b"20000-21000", b"20000-22000")
    found = changes(*(lines(smaps.parse(text), {7: IMAGE}) for text in (before, after)))
    assert [(change.sign, change.line.mapping.start, change.words) for change in found] == [
        ("~", 0x12000, "rw- → r--"),
        ("-", 0x20000, ""),
        ("+", 0x20000, ""),
    ]
    assert changes(lines(smaps.parse(before), {}), lines(smaps.parse(before), {})) == ()
