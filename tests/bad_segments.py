"""PT_LOAD and PT_GNU_STACK, odd and broken."""

from __future__ import annotations

import struct
from dataclasses import replace

from elfwriter import (
    CODE_OFFSET,
    ET_DYN,
    ET_EXEC,
    PAGE,
    PF_R,
    PF_W,
    PF_X,
    PT_GNU_PROPERTY,
    PT_GNU_STACK,
    PT_LOAD,
    PT_LOPROC,
    PT_NOTE,
    PT_PHDR,
    PT_TLS,
    RW,
    RWX,
    RX,
    TASK_SIZE,
    TEXT_BASE,
    ElfFile,
    R,
    Segment,
    code_address,
    exit_code,
    exit_personality,
    exit_program,
    program,
    read_byte,
    require_aligned,
    require_byte,
    require_zero,
    run_on_stack,
    write_byte,
)

MIB = 1 << 20
GIB = 1 << 30
DATA_BASE = TEXT_BASE + 0x10000  # where the second segment of a test program lies
DATA_OFFSET = 2 * PAGE


def good(**changes: int | None) -> ElfFile:
    """The ET_EXEC program with fields of its only segment changed."""
    return exit_program().with_segment(0, **changes)


def moved(vaddr: int, *, type: int = ET_EXEC) -> ElfFile:
    return exit_program(type=type, base=vaddr)


def with_data(segment: Segment, code: bytes = b"", *, type: int = ET_EXEC, data: bytes = b"DATA") -> ElfFile:
    """A program that runs `code` and exits with 42, and a second segment."""
    return program(code + exit_code(), type=type).with_segments(segment).with_payload(DATA_OFFSET, data)


def data(**fields: int | None) -> Segment:
    """A writable second segment; the fields given replace those of four bytes of data."""
    return replace(Segment(PT_LOAD, RW, DATA_OFFSET, DATA_BASE, filesz=4), **fields)  # type: ignore[arg-type]


HERE = code_address()
BSS = data(memsz=3 * PAGE)
BSS_ONLY = data(filesz=0, memsz=2 * PAGE)

LOAD: dict[str, ElfFile] = {
    # None of them
    "no PT_LOAD, ET_EXEC": replace(exit_program(), segments=(Segment(PT_NOTE),)),
    "no PT_LOAD, ET_DYN": replace(exit_program(type=ET_DYN), segments=(Segment(PT_NOTE),)),
    "no PT_LOAD, ET_EXEC with PT_GNU_STACK only": replace(exit_program(), segments=()).with_stack(RW),
    # Sizes
    "p_filesz > p_memsz": good(memsz=PAGE),
    "p_filesz > p_memsz by one byte": good(memsz=CODE_OFFSET + 11),
    "p_memsz 0, p_filesz > 0": good(memsz=0),
    "p_filesz > p_memsz in the second segment": with_data(data(memsz=3)),
    "zero-size PT_LOAD only": good(filesz=0, memsz=0),
    "zero-size second PT_LOAD": with_data(data(filesz=0, memsz=0)),
    "zero-size second PT_LOAD, unaligned": with_data(data(filesz=0, memsz=0, vaddr=DATA_BASE + 8)),
    "zero-size second PT_LOAD at 0": with_data(data(filesz=0, memsz=0, vaddr=0)),
    "zero-size first PT_LOAD": exit_program().with_segments(Segment(PT_LOAD, R, 0, TEXT_BASE - PAGE), first=True),
    "zero-size first PT_LOAD, ET_DYN": exit_program(type=ET_DYN, base=PAGE).with_segments(
        Segment(PT_LOAD, R, 0, 0), first=True
    ),
    "zero-size first PT_LOAD, unaligned, ET_DYN": exit_program(type=ET_DYN).with_segments(
        Segment(PT_LOAD, R, 0xFF8, PAGE - 8), first=True
    ),
    "zero-size first PT_LOAD, p_align 2 MiB, ET_DYN": exit_program(type=ET_DYN).with_segments(
        Segment(PT_LOAD, R, 0, 0, align=2 * MIB), first=True
    ),
    "writable, and 1 TiB to the second, ET_DYN": with_data(data(vaddr=1 << 40), type=ET_DYN).with_segment(0, flags=RWX),
    "p_filesz 1 TiB, writable": good(filesz=1 << 40, flags=RWX),
    "p_filesz up to TASK_SIZE": good(filesz=TASK_SIZE - TEXT_BASE),
    "zero-size non-canonical second PT_LOAD": with_data(data(filesz=0, memsz=0, vaddr=1 << 47)),
    "p_memsz 2^46": good(memsz=1 << 46),
    "p_memsz TASK_SIZE": good(memsz=TASK_SIZE),
    "p_memsz up to TASK_SIZE": with_data(data(memsz=TASK_SIZE - DATA_BASE)),
    "p_memsz up to TASK_SIZE + 1": with_data(data(memsz=TASK_SIZE - DATA_BASE + 1)),
    "p_memsz 2^63": with_data(data(memsz=1 << 63)),
    "p_memsz -1": with_data(data(memsz=-1)),
    "p_memsz -1, ET_DYN": with_data(data(memsz=-1, vaddr=0x10000), type=ET_DYN),
    "p_memsz 2^47 in the first, ET_DYN": exit_program(type=ET_DYN).with_segment(0, memsz=1 << 47),
    "p_filesz 2^40": good(filesz=1 << 40),
    "p_filesz 2^47": good(filesz=1 << 47),
    "p_filesz 2^63": good(filesz=1 << 63),
    "p_filesz -1": good(filesz=-1),
    "p_filesz one page beyond the end of the file": good(filesz=CODE_OFFSET + PAGE),
    "p_filesz ten pages beyond the end, not touched": good(filesz=CODE_OFFSET + 10 * PAGE),
    "p_filesz beyond the end, touched": program(read_byte(TEXT_BASE + 5 * PAGE, HERE) + exit_code()).with_segment(
        0, filesz=10 * PAGE
    ),
    "p_filesz beyond the end, writable, with bss": with_data(data(filesz=3 * PAGE + 8, memsz=6 * PAGE)),
    "p_filesz beyond the end, read-only, with bss": with_data(data(flags=R, filesz=3 * PAGE + 8, memsz=6 * PAGE)),
    # Addresses
    "p_vaddr 0, ET_EXEC": moved(0),
    "p_vaddr 0x1000, ET_EXEC": moved(PAGE),
    "p_vaddr 0 without bytes from the file": with_data(data(vaddr=0, filesz=0, memsz=PAGE)),
    "p_vaddr 0x10000, ET_EXEC": moved(0x10000),
    "p_vaddr 1 TiB, ET_EXEC": moved(1 << 40),
    "p_vaddr at the kernel's stack top": moved(TASK_SIZE - 2 * PAGE),
    "p_vaddr at the end less one page": moved(TASK_SIZE - PAGE),
    "p_vaddr TASK_SIZE": moved(TASK_SIZE),
    "p_vaddr 2^47": moved(1 << 47),
    "p_vaddr non-canonical": moved(1 << 52),
    "p_vaddr high half": moved(0xFFFF_8000_0000_0000),
    "p_vaddr -4096": moved(-4096),
    "second p_vaddr TASK_SIZE": with_data(data(vaddr=TASK_SIZE)),
    "second p_vaddr non-canonical": with_data(data(vaddr=1 << 52)),
    "second p_vaddr -4096": with_data(data(vaddr=-4096)),
    "second p_vaddr wraps to low memory": with_data(data(vaddr=-PAGE, memsz=2 * PAGE)),
    "second p_vaddr non-canonical, ET_DYN": with_data(data(vaddr=1 << 47), type=ET_DYN),
    "second p_vaddr 64 TiB, ET_DYN": with_data(data(vaddr=1 << 46), type=ET_DYN),
    "first p_vaddr 0x10000, ET_DYN": moved(0x10000, type=ET_DYN),
    "first p_vaddr 1 TiB, ET_DYN": moved(1 << 40, type=ET_DYN),
    "first p_vaddr non-canonical, ET_DYN": moved(1 << 47, type=ET_DYN),
    "first p_vaddr -0x10000, ET_DYN": moved(-0x10000, type=ET_DYN),
    # Offsets
    "p_offset not congruent, first": good(offset=8),
    "p_offset not congruent, second": with_data(data(vaddr=DATA_BASE + 8)),
    "p_offset not congruent, zero-size": with_data(data(vaddr=DATA_BASE + 8, filesz=0, memsz=0)),
    "p_offset not congruent, bss only": with_data(data(vaddr=DATA_BASE + 8, filesz=0, memsz=PAGE)),
    "p_offset less than the page part of p_vaddr": with_data(data(offset=0, vaddr=DATA_BASE + 8)),
    "p_offset and p_vaddr unaligned, congruent": with_data(
        data(offset=DATA_OFFSET + 1, vaddr=DATA_BASE + 1, filesz=3),
        require_byte(DATA_BASE, ord("D"), HERE),
    ),
    "p_offset at the end of the file, not touched": with_data(data(offset=3 * PAGE)),
    "p_offset beyond the end, not touched": with_data(data(offset=16 * PAGE)),
    "p_offset beyond the end, touched": with_data(data(offset=16 * PAGE), read_byte(DATA_BASE, HERE)),
    "p_offset beyond the end, writable, with bss": with_data(data(offset=16 * PAGE, memsz=PAGE)),
    "p_offset beyond the end, read-only, with bss": with_data(data(flags=R, offset=16 * PAGE, memsz=PAGE)),
    "p_offset beyond the end, whole page, with bss": with_data(data(offset=16 * PAGE, filesz=PAGE, memsz=2 * PAGE)),
    "p_offset beyond the end, the code": good(offset=16 * PAGE),
    "p_offset 2^43": with_data(data(offset=1 << 43)),
    "p_offset 2^44": with_data(data(offset=1 << 44)),
    "p_offset 2^62": with_data(data(offset=1 << 62)),
    "p_offset 2^63 - 4096": with_data(data(offset=(1 << 63) - PAGE)),
    "p_offset 2^63": with_data(data(offset=1 << 63)),
    "p_offset -4096": with_data(data(offset=-PAGE)),
    "p_offset 2^63, bss only": with_data(data(offset=1 << 63, filesz=0, memsz=PAGE)),
    # Alignment
    **{
        f"p_align {align:#x}, {kind}": exit_program(type=type).with_segment(0, align=align)
        for kind, type in (("ET_EXEC", ET_EXEC), ("ET_DYN", ET_DYN))
        for align in (0, 1, 3, 0x800, 0x1001, 0x3000, 0x10000, 2 * MIB, GIB, 1 << 40, 1 << 46, 1 << 47, 1 << 63)
    },
    "p_align 2 MiB, ET_DYN, p_vaddr 0x1000": moved(PAGE, type=ET_DYN).with_segment(0, align=2 * MIB),
    **{
        f"loaded at a multiple of its p_align, {align:#x}": program(
            require_aligned(0, align, code_address(ET_DYN)) + exit_code(), type=ET_DYN
        ).with_segment(0, align=align)
        for align in (0x10000, 2 * MIB, GIB, 4 * GIB, 1 << 44)
    },
    "p_align -1, ET_DYN": exit_program(type=ET_DYN).with_segment(0, align=-1),
    "p_align 2 MiB in the second segment, ET_DYN": with_data(data(vaddr=0x10000, align=2 * MIB), type=ET_DYN),
    # Order
    "descending p_vaddr, ET_EXEC": with_data(data(vaddr=TEXT_BASE - 0x10000)),
    "descending p_vaddr, ET_EXEC, read": with_data(
        data(vaddr=TEXT_BASE - 0x10000), require_byte(TEXT_BASE - 0x10000, ord("D"), HERE)
    ),
    "descending p_vaddr, ET_DYN": moved(0x10000, type=ET_DYN).with_segments(Segment(PT_LOAD, RW, 0, 0, filesz=64)),
    "overlapping: the second replaces the first": with_data(data(vaddr=TEXT_BASE), require_byte(TEXT_BASE, ord("D"), HERE)),
    "overlapping: the second replaces the code": with_data(data(vaddr=TEXT_BASE + PAGE)),
    "overlapping: the same segment twice": exit_program().with_segments(exit_program().segments[0]),
    "overlapping: bss over the code": with_data(data(vaddr=TEXT_BASE - PAGE, filesz=4, memsz=3 * PAGE)),
    "overlapping: bss over the header page": with_data(
        data(vaddr=TEXT_BASE - PAGE, filesz=4, memsz=2 * PAGE), require_zero(TEXT_BASE, PAGE, HERE)
    ),
    "overlapping: bss only, over the header page": with_data(
        data(vaddr=TEXT_BASE, filesz=0, memsz=PAGE), require_zero(TEXT_BASE, PAGE, HERE)
    ),
    "overlapping: bss of the first under the second": program(require_byte(DATA_BASE, ord("D"), HERE) + exit_code(), flags=RWX)
    .with_segment(0, memsz=0x20000)
    .with_segments(data())
    .with_payload(DATA_OFFSET, b"DATA"),
    "two segments in one page, of two pages of the file": with_data(
        data(offset=DATA_OFFSET + 0x100, vaddr=TEXT_BASE + PAGE + 0x100, flags=RX)
    ),
    "two segments in one page, of one page of the file": with_data(
        data(offset=CODE_OFFSET + 0x100, vaddr=TEXT_BASE + PAGE + 0x100, flags=RX)
    ),
    "two segments in one page, the second with bss": with_data(
        data(offset=CODE_OFFSET + 0x100, vaddr=TEXT_BASE + PAGE + 0x100, flags=RWX, memsz=PAGE)
    ),
    # bss
    "bss is zero to its end": with_data(BSS, require_zero(DATA_BASE + 4, 3 * PAGE - 4, HERE)),
    "bss is zero beyond its end, in the page": with_data(
        data(memsz=8), require_zero(DATA_BASE + 8, PAGE - 8, HERE), data=b"DATA" + b"\xaa" * (PAGE - 4)
    ),
    "file bytes beyond p_filesz stay, without bss": with_data(
        data(), require_byte(DATA_BASE + 4, 0xAA, HERE), data=b"DATA" + b"\xaa" * (PAGE - 4)
    ),
    "bss one byte beyond the page": with_data(
        data(memsz=PAGE + 1), write_byte(DATA_BASE + 2 * PAGE - 1, HERE), data=b"DATA" + b"\xaa" * PAGE
    ),
    "write beyond the last page of bss": with_data(BSS, write_byte(DATA_BASE + 3 * PAGE, HERE)),
    "bss only": with_data(BSS_ONLY, require_zero(DATA_BASE, 2 * PAGE, HERE) + write_byte(DATA_BASE, HERE)),
    "bss only, unaligned": with_data(
        data(filesz=0, vaddr=DATA_BASE + 8, offset=DATA_OFFSET + 8, memsz=PAGE), write_byte(DATA_BASE, HERE)
    ),
    "bss only, as the first segment, ET_EXEC": exit_program().with_segments(
        Segment(PT_LOAD, RW, 0, TEXT_BASE - 2 * PAGE, memsz=PAGE), first=True
    ),
    "bss only, as the first segment, ET_DYN": moved(0x10000, type=ET_DYN).with_segments(
        Segment(PT_LOAD, RW, 0, 0, memsz=PAGE), first=True
    ),
    "bss only, as the only segment, ET_DYN": exit_program(type=ET_DYN).with_segment(0, filesz=0, memsz=PAGE),
    "bss in a read-only segment, within the page": with_data(data(flags=R, memsz=8)),
    "bss in a read-only segment keeps the file's bytes": with_data(
        data(flags=R, memsz=8), require_byte(DATA_BASE + 4, 0xAA, HERE), data=b"DATA" + b"\xaa" * (PAGE - 4)
    ),
    "bss in a read-only segment, pages of it": with_data(data(flags=R, memsz=3 * PAGE)),
    "bss in a read-only segment is writable": with_data(data(flags=R, memsz=3 * PAGE), write_byte(DATA_BASE + PAGE, HERE)),
    "bss only, in a read-only segment, is writable": with_data(replace(BSS_ONLY, flags=R), write_byte(DATA_BASE, HERE)),
    "bss only, in a segment without rights, is writable": with_data(replace(BSS_ONLY, flags=0), write_byte(DATA_BASE, HERE)),
    "bss in the code segment": good(memsz=3 * PAGE),
    "bss in the code segment, written": program(write_byte(TEXT_BASE + 2 * PAGE, HERE) + exit_code()).with_segment(
        0, memsz=4 * PAGE
    ),
    "bss larger than memory": with_data(data(memsz=1 << 45)),
    "bss into the stack": with_data(data(memsz=TASK_SIZE - DATA_BASE - PAGE)),
    # Permissions
    "no rights on a segment": with_data(data(flags=0)),
    "no rights on a segment, read": with_data(data(flags=0), read_byte(DATA_BASE, HERE)),
    "write-only segment, read": with_data(data(flags=PF_W), read_byte(DATA_BASE, HERE)),
    "execute-only segment, read": program(read_byte(TEXT_BASE, HERE) + exit_code(), flags=PF_X),
    "write to the code": program(write_byte(TEXT_BASE, HERE) + exit_code()),
    "write to the code, RWX": program(write_byte(TEXT_BASE, HERE) + exit_code(), flags=RWX),
    "write to read-only data": with_data(data(flags=R), write_byte(DATA_BASE, HERE)),
    "unknown p_flags": with_data(data(flags=RW | 0xFFF0_0000)),
    "p_paddr garbage": good(paddr=-1),
    # Other headers
    "unknown p_type": exit_program().with_segments(Segment(0x12345678, 0xFF, -1, -1, filesz=-1, memsz=-1, align=-1)),
    "PT_LOPROC": exit_program().with_segments(Segment(PT_LOPROC, -1, -1, -1, filesz=-1)),
    "PT_PHDR that lies": exit_program().with_segments(Segment(PT_PHDR, R, 0x99, 0x99, filesz=1), first=True),
    "two PT_PHDR": exit_program().with_segments(*[Segment(PT_PHDR, R, 64, TEXT_BASE + 64, filesz=56)] * 2),
    "PT_TLS garbage": exit_program().with_segments(Segment(PT_TLS, R, -1, -1, filesz=-1, memsz=-1)),
    "PT_NOTE garbage": exit_program().with_segments(Segment(PT_NOTE, R, -1, -1, filesz=-1)),
    "PT_GNU_PROPERTY beyond the end": exit_program().with_segments(Segment(PT_GNU_PROPERTY, R, MIB, MIB, filesz=64, align=8)),
    "PT_GNU_PROPERTY huge": exit_program().with_segments(Segment(PT_GNU_PROPERTY, R, -8, -8, filesz=-1, align=8)),
    "PT_GNU_PROPERTY garbage": exit_program()
    .with_segments(Segment(PT_GNU_PROPERTY, R, 0x800, TEXT_BASE + 0x800, filesz=64, align=8))
    .with_payload(0x800, b"\xff" * 64),
    "PT_GNU_PROPERTY, wrong alignment": exit_program()
    .with_segments(Segment(PT_GNU_PROPERTY, R, 0x801, TEXT_BASE + 0x801, filesz=32, align=3))
    .with_payload(0x801, struct.pack("<III4sIII", 4, 16, 5, b"GNU\0", 0xC0000002, 4, 3)),
}

STACK_CODE = run_on_stack() + exit_code()

STACK: dict[str, ElfFile] = {
    **{
        f"{name}: code on the stack": replace(program(STACK_CODE), segments=program(STACK_CODE).segments + stacks)
        for name, stacks in (
            ("no PT_GNU_STACK", ()),
            ("PT_GNU_STACK RW", (Segment(PT_GNU_STACK, RW),)),
            ("PT_GNU_STACK RWX", (Segment(PT_GNU_STACK, RWX),)),
            ("PT_GNU_STACK X only", (Segment(PT_GNU_STACK, PF_X),)),
            ("PT_GNU_STACK R only", (Segment(PT_GNU_STACK, PF_R),)),
            ("PT_GNU_STACK none", (Segment(PT_GNU_STACK, 0),)),
            ("PT_GNU_STACK RWX, then RW", (Segment(PT_GNU_STACK, RWX), Segment(PT_GNU_STACK, RW))),
            ("PT_GNU_STACK RW, then RWX", (Segment(PT_GNU_STACK, RW), Segment(PT_GNU_STACK, RWX))),
        )
    },
    "PT_GNU_STACK R only: the stack is writable": program(b"\x50\x58" + exit_code()).with_stack(R),
    "no PT_GNU_STACK: personality": program(exit_personality()),
    "PT_GNU_STACK RW: personality": program(exit_personality()).with_stack(RW),
    "PT_GNU_STACK RWX: personality": program(exit_personality()).with_stack(RWX),
    "PT_GNU_STACK of 1 GiB": exit_program().with_segments(Segment(PT_GNU_STACK, RW, memsz=GIB)),
    "PT_GNU_STACK garbage": exit_program().with_segments(Segment(PT_GNU_STACK, RW, -1, -1, filesz=-1, memsz=-1, align=-1)),
}
