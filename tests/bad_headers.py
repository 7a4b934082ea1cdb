"""Files that are not ELF, or whose ELF header is odd."""

from __future__ import annotations

import struct
from dataclasses import replace

from elfwriter import (
    CODE_OFFSET,
    EHDR_SIZE,
    EM_386,
    EM_AARCH64,
    EM_ARM,
    EM_RISCV,
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_NONE,
    ET_REL,
    IDENT,
    PAGE,
    PHDR_SIZE,
    PT_LOAD,
    PT_NULL,
    RW,
    RX,
    TASK_SIZE,
    TEXT_BASE,
    ElfFile,
    R,
    Segment,
    exit_code,
    exit_program,
    program,
    write_out,
)

MIB = 1 << 20


GOOD = exit_program().encode()

RAW: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x7f",
    "one newline": b"\n",
    "only zeros, 4096": bytes(4096),
    "text without #!": b"echo hello\n",
    "#! and newline": b"#!\n",
    "#! alone": b"#!",
    "# alone": b"#",
    "#! and spaces": b"#!" + b" " * 10,
    "#! and spaces and newline": b"#!   \t  \n",
    "#! and 300 spaces": b"#!" + b" " * 300,
    "space before #!": b" #!/bin/true\n",
    "byte-order mark before #!": b"\xef\xbb\xbf#!/bin/true\n",
    "magic only": GOOD[:4],
    "wrong magic, first byte": b"\x7e" + GOOD[1:],
    "wrong magic, last byte": b"\x7fELG" + GOOD[4:],
    **{
        f"cut at {size}": GOOD[:size]
        for size in (5, 15, 16, 17, 20, 24, 32, 40, 54, 56, 57, 58, 63, 64, 65, 64 + 8, 64 + 55, 64 + 56)
    },
    "cut inside the code page": GOOD[:-6],
    "cut before the code page": GOOD[:CODE_OFFSET],
    "cut one byte into the code page": GOOD[: CODE_OFFSET + 1],
}

# A real 32-bit program, which exits with 42; many a kernel runs it, by its compatibility code.
PROGRAM_32 = (
    IDENT[:4] + b"\x01" + IDENT[5:]
    + struct.pack("<HHIIIIIHHHHHH", ET_EXEC, EM_386, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<8I", PT_LOAD, 0, 0x8048000, 0x8048000, 0x60, 0x60, RX, PAGE)
    + b"\xbb\x2a\0\0\0\xb8\x01\0\0\0\xcd\x80"  # mov ebx, 42; mov eax, 1; int 0x80
)  # fmt: skip
RAW["32-bit program"] = PROGRAM_32


def with_ident(index: int, value: int) -> ElfFile:
    return replace(exit_program(), ident=IDENT[:index] + bytes([value]) + IDENT[index + 1 :])


def many_segments(count: int, phnum: int | None = None) -> ElfFile:
    """A good program with PT_NULLs up to `count`, the table after the code."""
    good = exit_program()
    padded = good.with_segments(*[Segment(PT_NULL)] * (count - 1))
    return replace(padded, phoff=2 * PAGE, table_offset=2 * PAGE, phnum=phnum)


HEADER: dict[str, ElfFile] = {
    "good ET_EXEC": exit_program(),
    "good ET_DYN": exit_program(type=ET_DYN),
    "good, with output": program(write_out(b"hello\n") + exit_code(7)),
    "EI_CLASS 32": with_ident(4, 1),
    "EI_CLASS 0": with_ident(4, 0),
    "EI_DATA big-endian": with_ident(5, 2),
    "EI_VERSION 0": with_ident(6, 0),
    "EI_OSABI 255": with_ident(7, 255),
    "EI_ABIVERSION 9": with_ident(8, 9),
    "EI_PAD garbage": replace(exit_program(), ident=IDENT[:8] + b"\xff" * 8),
    "e_version 0": replace(exit_program(), version=0),
    "e_version 2": replace(exit_program(), version=2),
    "e_flags garbage": replace(exit_program(), flags=0xFFFFFFFF),
    "e_ehsize 0": replace(exit_program(), ehsize=0),
    "section headers beyond the end": replace(exit_program(), shoff=1 << 40, shnum=9, shentsize=64, shstrndx=8),
    "e_machine i386": replace(exit_program(), machine=EM_386),
    "e_machine arm": replace(exit_program(), machine=EM_ARM),
    "e_machine aarch64": replace(exit_program(), machine=EM_AARCH64),
    "e_machine riscv": replace(exit_program(), machine=EM_RISCV),
    "e_machine 0": replace(exit_program(), machine=0),
    "e_type NONE": replace(exit_program(), type=ET_NONE),
    "e_type REL": replace(exit_program(), type=ET_REL),
    "e_type CORE": replace(exit_program(), type=ET_CORE),
    "e_type 0xfe00": replace(exit_program(), type=0xFE00),
    "e_phentsize 0": replace(exit_program(), phentsize=0),
    "e_phentsize 32": replace(exit_program(), phentsize=32),
    "e_phentsize 57": replace(exit_program(), phentsize=57),
    "e_phentsize 64": replace(exit_program(), phentsize=64),
    "e_phnum 0": replace(exit_program(), phnum=0),
    "e_phnum 2 of 1, the rest zeros": replace(exit_program(), phnum=2),
    "e_phnum 1170": many_segments(1170),
    "e_phnum 1171": many_segments(1171),
    "e_phnum 65535": many_segments(1170, phnum=65535),
    "e_phnum 1170, table cut by one byte": replace(many_segments(1170), size=2 * PAGE + 1170 * PHDR_SIZE - 1),
    "e_phoff 0": replace(exit_program(), phoff=0),
    "e_phoff odd": replace(exit_program(), phoff=EHDR_SIZE + 1, table_offset=EHDR_SIZE + 1),
    "e_phoff outside of every segment": replace(exit_program(), phoff=3 * PAGE, table_offset=3 * PAGE),
    "e_phoff at the end": replace(exit_program(), phoff=len(GOOD)),
    "e_phoff beyond the end": replace(exit_program(), phoff=1 * MIB),
    "e_phoff 2^62": replace(exit_program(), phoff=1 << 62),
    "e_phoff 2^63-1": replace(exit_program(), phoff=(1 << 63) - 1),
    "e_phoff 2^63": replace(exit_program(), phoff=1 << 63),
    "e_phoff -1": replace(exit_program(), phoff=-1),
    "e_entry 0": replace(exit_program(), entry=0),
    "e_entry outside of every segment": replace(exit_program(), entry=TEXT_BASE + 16 * PAGE),
    "e_entry in a data segment": program(exit_code(), flags=RW),
    "e_entry in a read-only segment": program(exit_code(), flags=R),
    "e_entry TASK_SIZE - 1": replace(exit_program(), entry=TASK_SIZE - 1),
    "e_entry TASK_SIZE": replace(exit_program(), entry=TASK_SIZE),
    "e_entry non-canonical": replace(exit_program(), entry=1 << 47),
    "e_entry high half": replace(exit_program(), entry=0xFFFF_8000_0000_0000),
    "e_entry -1": replace(exit_program(), entry=-1),
    "e_entry -4096": replace(exit_program(), entry=-4096),
    "ET_DYN, e_entry non-canonical": replace(exit_program(type=ET_DYN), entry=1 << 47),
    "ET_DYN, e_entry wraps the bias": replace(exit_program(type=ET_DYN), entry=-0x10000),
    "ET_DYN, e_entry 0": replace(exit_program(type=ET_DYN), entry=0),
}
