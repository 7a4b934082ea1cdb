"""Interpreters, and programs that name one, odd and broken."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from bad_headers import PROGRAM_32
from bad_segments import STACK_CODE
from elfwriter import (
    CODE_OFFSET,
    EM_386,
    EM_AARCH64,
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_NONE,
    ET_REL,
    IDENT,
    INTERP_OFFSET,
    PAGE,
    PT_GNU_PROPERTY,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    RW,
    RWX,
    TASK_SIZE,
    ElfFile,
    R,
    Segment,
    code_address,
    exit_code,
    exit_program,
    program,
    require_zero,
)

MIB = 1 << 20
PATH_MAX = 4096
DATA_OFFSET = 2 * PAGE

Contents = ElfFile | bytes


OTHER_BASE = 0x10_0000_0000
INTERP = exit_program(42, type=ET_DYN)
# exit(AT_BASE >> 40): over argv and envp to auxv, whose type 7 it is.
TELL_BASE = bytes.fromhex(
    "488d742408 48ad 4885c0 75f9 48ad 4885c0 75f9 48ad 4892 48ad 83fa07 75f5 48c1e828 97 b83c000000 0f05"
)


def ended_by(last: Segment, *, entry: int = code_address(ET_EXEC, OTHER_BASE)) -> ElfFile:
    """An interpreter of which load_elf_interp maps nothing from `last` on, and takes its address for the load bias.

    The first segment is bss, lest the whole span be mapped.
    """
    bss, absurd = Segment(PT_LOAD, R, 0, OTHER_BASE - PAGE, memsz=PAGE), Segment(PT_LOAD, R, 0, OTHER_BASE, filesz=2, memsz=1)
    start = program(TELL_BASE, base=OTHER_BASE).with_segments(bss, first=True)
    return replace(start.with_segments(last, absurd), entry=entry - last.vaddr)


def user_of(path: bytes, *, type: int = ET_EXEC, **options: int) -> ElfFile:
    """A program that exits with 1 where its interpreter should have exited with 42."""
    return exit_program(1, type=type).with_interp(path, **options)


# The file that is the interpreter of a good program.
INTERPRETER: dict[str, Contents] = {
    "good ET_DYN": INTERP,
    "ET_EXEC elsewhere": exit_program(42, base=OTHER_BASE),
    "ET_EXEC in the program's place": exit_program(42),
    "empty": b"",
    "text": b"hello\n",
    "script": b"#!/bin/sh\nexit 42\n",
    "cut at 63": INTERP.encode()[:63],
    "cut at 64": INTERP.encode()[:64],
    "cut at 64 + 55": INTERP.encode()[:119],
    "cut before the code": INTERP.encode()[:CODE_OFFSET],
    "64 zeros": bytes(64),
    "wrong magic": b"\x7fELG" + INTERP.encode()[4:],
    "aarch64": replace(INTERP, machine=EM_AARCH64),
    "i386": replace(INTERP, machine=EM_386),
    "32-bit program": PROGRAM_32,
    "EI_CLASS 32": replace(INTERP, ident=IDENT[:4] + b"\x01" + IDENT[5:]),
    "ET_REL": replace(INTERP, type=ET_REL),
    "ET_NONE": replace(INTERP, type=ET_NONE),
    "ET_CORE": replace(INTERP, type=ET_CORE),
    "e_phentsize 57": replace(INTERP, phentsize=57),
    "e_phnum 0": replace(INTERP, phnum=0),
    "e_phnum 1171": replace(INTERP, phnum=1171),
    "e_phoff beyond the end": replace(INTERP, phoff=MIB),
    "e_phoff -1": replace(INTERP, phoff=-1),
    "no PT_LOAD": replace(INTERP, segments=(Segment(PT_NOTE),)),
    "no PT_LOAD, ET_EXEC": replace(exit_program(), segments=(Segment(PT_NOTE),)),
    "its own PT_INTERP": INTERP.with_interp(b"/nonexistent"),
    "p_filesz > p_memsz": INTERP.with_segment(0, memsz=PAGE),
    "p_memsz 2^47": INTERP.with_segment(0, memsz=1 << 47),
    "p_memsz -1": INTERP.with_segment(0, memsz=-1),
    "zero-size PT_LOAD": INTERP.with_segment(0, filesz=0, memsz=0),
    "p_offset not congruent": INTERP.with_segment(0, offset=8),
    "p_vaddr 0x10000": exit_program(42, type=ET_DYN, base=0x10000),
    "p_vaddr 1 TiB": exit_program(42, type=ET_DYN, base=1 << 40),
    "p_vaddr non-canonical": exit_program(42, type=ET_DYN, base=1 << 47),
    "p_vaddr at the end of user space": exit_program(42, type=ET_DYN, base=TASK_SIZE - 2 * PAGE),
    "p_vaddr wraps to the second's": INTERP.with_segments(
        Segment(PT_LOAD, R, DATA_OFFSET, -PAGE, filesz=PAGE, memsz=PAGE + 4), first=True
    ),
    "second p_vaddr non-canonical": INTERP.with_segments(Segment(PT_LOAD, RW, 0, 1 << 47, filesz=16)),
    "empty, beyond user space, e_entry wraps": ended_by(Segment(PT_LOAD, R, 0, 1 << 47)),
    "empty, beyond user space, at the top": ended_by(Segment(PT_LOAD, R, 0, -PAGE)),
    "empty, beyond user space, e_entry nowhere": ended_by(Segment(PT_LOAD, R, 0, 1 << 47), entry=PAGE),
    "empty, beyond user space, e_entry too": ended_by(Segment(PT_LOAD, R, 0, 1 << 47), entry=1 << 48),
    "p_filesz -1, beyond user space, e_entry wraps": ended_by(Segment(PT_LOAD, R, 0, 1 << 48, filesz=-1)),
    "p_filesz -1, p_memsz 0, beyond user space, e_entry wraps": ended_by(Segment(PT_LOAD, R, 0, 1 << 48, filesz=-1, memsz=0)),
    "bss only, beyond user space, e_entry wraps": ended_by(Segment(PT_LOAD, R, 0, 1 << 48, memsz=1)),
    "empty, beyond user space, e_entry wraps, ET_DYN": replace(
        ended_by(Segment(PT_LOAD, R, 0, 1 << 47)), type=ET_DYN, entry=2 * PAGE - (1 << 47)
    ),
    "p_vaddr 0, ET_EXEC": exit_program(42, base=0),
    "p_vaddr TASK_SIZE, ET_EXEC": exit_program(42, base=TASK_SIZE),
    "descending p_vaddr": exit_program(42, type=ET_DYN, base=0x10000).with_segments(Segment(PT_LOAD, R, 0, 0, filesz=64)),
    "p_align 2 MiB": INTERP.with_segment(0, align=2 * MIB),
    "p_align 3": INTERP.with_segment(0, align=3),
    "p_align 2^46": INTERP.with_segment(0, align=1 << 46),
    "bss only, as the only segment": INTERP.with_segment(0, filesz=0, memsz=PAGE),
    "bss in a read-only segment": INTERP.with_segments(
        Segment(PT_LOAD, R, DATA_OFFSET, 0x10000, filesz=4, memsz=8)
    ).with_payload(DATA_OFFSET, b"DATA"),
    "bss, writable, beyond the end of the file": INTERP.with_segments(
        Segment(PT_LOAD, RW, 16 * PAGE, 0x10000, filesz=4, memsz=8)
    ),
    "bss is zero": program(require_zero(0x10004, 3 * PAGE - 4, code_address(ET_DYN)) + exit_code(), type=ET_DYN)
    .with_segments(Segment(PT_LOAD, RW, DATA_OFFSET, 0x10000, filesz=4, memsz=3 * PAGE))
    .with_payload(DATA_OFFSET, b"DATA" + b"\xaa" * 16),
    "PT_GNU_STACK RWX is not asked": program(STACK_CODE, type=ET_DYN).with_stack(RWX),
    "PT_GNU_PROPERTY garbage": INTERP.with_segments(Segment(PT_GNU_PROPERTY, R, -1, -1, filesz=-1)),
    "e_entry outside": replace(INTERP, entry=MIB),
    "e_entry non-canonical": replace(INTERP, entry=1 << 47),
    "e_entry -1": replace(INTERP, entry=-1),
    "e_entry wraps": replace(INTERP, entry=-0x10000),
}

# The program that names the interpreter `path`, which is good.
USER: dict[str, Callable[[bytes], ElfFile]] = {
    "good ET_EXEC": lambda path: user_of(path),
    "good ET_DYN": lambda path: user_of(path, type=ET_DYN),
    "missing file": lambda path: user_of(path + b".missing"),
    "missing directory": lambda path: user_of(b"/nonexistent/ld.so"),
    "a file as directory": lambda path: user_of(path + b"/ld.so"),
    "empty path": lambda path: user_of(b""),
    "empty path of two NULs": lambda path: user_of(b"\0"),
    "no NUL": lambda path: user_of(path, filesz=len(path)),
    "p_filesz 0": lambda path: user_of(path, filesz=0),
    "p_filesz 1": lambda path: user_of(path, filesz=1),
    "p_filesz 2": lambda path: user_of(b"/\0", filesz=2),
    "NUL before the end": lambda path: user_of(path + b"\0garbage"),
    "p_filesz PATH_MAX": lambda path: user_of(path + b"\0" * 5000, filesz=PATH_MAX, offset=2 * PAGE),
    "p_filesz PATH_MAX + 1": lambda path: user_of(path + b"\0" * 5000, filesz=PATH_MAX + 1, offset=2 * PAGE),
    "path of PATH_MAX - 1": lambda path: user_of(path.rjust(PATH_MAX - 1, b"/"), offset=2 * PAGE),
    "path of PATH_MAX": lambda path: user_of(path.rjust(PATH_MAX, b"/"), offset=2 * PAGE),
    "name too long": lambda path: user_of(b"/" + b"x" * 300),
    "p_filesz -1": lambda path: user_of(path, filesz=-1),
    "p_memsz 0": lambda path: user_of(path).with_segment(0, memsz=0),
    "p_offset beyond the end": lambda path: user_of(path).with_segment(0, offset=MIB),
    "p_offset 2^63": lambda path: user_of(path).with_segment(0, offset=1 << 63),
    "p_offset -1": lambda path: user_of(path).with_segment(0, offset=-1),
    "cut inside the path": lambda path: replace(user_of(path, offset=2 * PAGE), size=2 * PAGE + len(path) - 1),
    "p_vaddr garbage": lambda path: user_of(path).with_segment(0, vaddr=-1, paddr=-1),
    "path outside of every segment": lambda path: user_of(path, offset=5 * PAGE),
    "the directory itself": lambda path: user_of(os.path.dirname(path)),
    "itself": lambda path: user_of(os.path.dirname(path) + b"/program"),
    "relative path": lambda path: user_of(os.path.basename(path)),
    "relative path, missing": lambda path: user_of(b"missing"),
    "trailing slash": lambda path: user_of(path + b"/"),
    "trailing space": lambda path: user_of(path + b" "),
    "device": lambda path: user_of(b"/dev/null"),
    "two, the first good": lambda path: user_of(b"/nonexistent").with_interp(path, offset=INTERP_OFFSET + 0x100),
    "two, the first missing": lambda path: user_of(path).with_interp(b"/nonexistent", offset=INTERP_OFFSET + 0x100),
    "two, the second broken": lambda path: user_of(path).with_segments(Segment(PT_INTERP, R, -1, filesz=-1)),
    "after the PT_LOADs": lambda path: replace(user_of(path), segments=tuple(reversed(user_of(path).segments))),
    "program without PT_LOAD, ET_EXEC": lambda path: replace(user_of(path), segments=user_of(path).segments[:1]),
    "program without PT_LOAD, ET_DYN": lambda path: replace(user_of(path, type=ET_DYN), segments=user_of(path).segments[:1]),
    "program's entry non-canonical": lambda path: replace(user_of(path), entry=1 << 47),
    "program's entry outside": lambda path: replace(user_of(path), entry=MIB),
    "program of another machine": lambda path: replace(user_of(path), machine=EM_AARCH64),
    "program p_filesz > p_memsz": lambda path: user_of(path).with_segment(1, memsz=1),
    "program p_align 2 MiB, ET_DYN": lambda path: user_of(path, type=ET_DYN).with_segment(1, align=2 * MIB),
    "program p_align 3, ET_DYN": lambda path: user_of(path, type=ET_DYN).with_segment(1, align=3),
    "program p_align 2^46, ET_DYN": lambda path: user_of(path, type=ET_DYN).with_segment(1, align=1 << 46),
    "program p_align 2^47, ET_DYN": lambda path: user_of(path, type=ET_DYN).with_segment(1, align=1 << 47),
    "program p_vaddr 1 TiB, ET_DYN": lambda path: exit_program(1, type=ET_DYN, base=1 << 40).with_interp(path),
    "program p_vaddr -0x10000, ET_DYN": lambda path: exit_program(1, type=ET_DYN, base=-0x10000).with_interp(path),
    "program p_vaddr 2^46, ET_DYN": lambda path: exit_program(1, type=ET_DYN, base=1 << 46).with_interp(path),
    "program p_memsz 2^46, ET_DYN": lambda path: user_of(path, type=ET_DYN).with_segment(1, memsz=1 << 46),
}
