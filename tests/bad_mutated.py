"""What `tools/fuzz verdicts` has found: programs and interpreters that were once judged otherwise than by the kernel."""

from __future__ import annotations

from dataclasses import replace

from bad_interpreters import INTERP, OTHER_BASE
from bad_segments import data, moved, with_data
from elfwriter import ET_DYN, ET_EXEC, PAGE, PT_LOAD, RWX, RX, TASK_SIZE, TEXT_BASE, ElfFile, R, Segment, exit_program

MIB, GIB = 1 << 20, 1 << 30
LOW = 3 << 39  # 1.5 TiB: up to the end of user space there is less than below any mmap base, but not by much


def from_low(segment: Segment) -> ElfFile:
    """A static PIE whose addresses begin at LOW, and one more segment at the other end."""
    return moved(LOW, type=ET_DYN).with_segments(segment).with_payload(2 * PAGE, b"DATA")


# A program without interpreter.
ALONE: dict[str, ElfFile] = {
    "spans all but 1.5 TiB, ET_DYN": from_low(data(vaddr=0x7FFF_F800_0000)),
    "spans all but 1.5 TiB, the last beyond the end, ET_DYN": from_low(data(vaddr=0x7FFF_FFFF_D000, memsz=3 * PAGE)),
    "spans all but 1.5 TiB, in one segment, ET_DYN": moved(LOW, type=ET_DYN).with_segment(0, filesz=0x7E7F_FFFF_EFFF),
    "spans all but a few pages, ET_DYN": with_data(data(vaddr=0x7FFF_FFFF_B000), type=ET_DYN),
    "second p_filesz 1 GiB, p_memsz 4, ET_DYN": with_data(data(vaddr=0x10000, filesz=GIB, memsz=4), type=ET_DYN),
    "p_vaddr -4096 after one at 127 TiB, ET_DYN": moved(0x7EFF_FFFF_F000, type=ET_DYN).with_segments(data(vaddr=-PAGE)),
    "p_filesz rounds to nothing, p_memsz is one more": with_data(
        data(vaddr=0xFFFF_FFFF_FFFF_CBAA, filesz=0xFFFF_FFFF_FFFF_F122, memsz=0xFFFF_FFFF_FFFF_F123)
    ),
    "p_filesz rounds to nothing, with bss": exit_program().with_segments(
        Segment(PT_LOAD, RWX, PAGE, 0x7EFF_FFFF_F008, filesz=-PAGE, memsz=1 - PAGE), first=True
    ),
    "over all of user space": exit_program().with_segments(Segment(PT_LOAD, R, PAGE, PAGE, filesz=TASK_SIZE - PAGE)),
    "2 MiB of a file that begins behind its first page, ET_DYN": exit_program(type=ET_DYN, base=4 * MIB).with_segments(
        Segment(PT_LOAD, R, PAGE, 0, filesz=2 * MIB), first=True
    ),
}

# The program that names a good interpreter.
USER: dict[str, ElfFile] = {
    "p_align 2^63, and a segment near the end, ET_DYN": with_data(data(vaddr=0x7FFF_F800_0000, align=1 << 63), type=ET_DYN),
    "spans more than there is above a PIE's base, ET_DYN": with_data(data(vaddr=0x5555_5555_4000), type=ET_DYN).with_segment(
        0, vaddr=0, filesz=2 * PAGE
    ),
    "spans what only the lowest PIE's base allows, ET_DYN": moved(0x7FFF_F7FF_B000, type=ET_DYN).with_segments(
        data(vaddr=0x5555_5555_4000)
    ),
}

# (program's e_type, interpreter)
INTERPRETER: dict[str, tuple[int, ElfFile]] = {
    "ET_EXEC with a hole where the program is": (
        ET_EXEC,
        exit_program(base=TEXT_BASE - 0x100000).with_segments(Segment(PT_LOAD, R, 0, TEXT_BASE + 0x100000, filesz=64)),
    ),
    "ET_EXEC with a hole where the stack is": (
        ET_EXEC,
        exit_program(base=OTHER_BASE).with_segments(Segment(PT_LOAD, R, 0, TASK_SIZE - PAGE, filesz=64)),
    ),
    "ET_EXEC over the stack": (ET_EXEC, exit_program(base=OTHER_BASE).with_segment(0, filesz=TASK_SIZE - OTHER_BASE)),
    "no bytes of the file in the first segment, low": (
        ET_EXEC,
        INTERP.with_segments(Segment(PT_LOAD, R, 0, 2 * PAGE, memsz=2 * PAGE), first=True),
    ),
    "no bytes of the file in the first segment, and over the program": (
        ET_EXEC,
        exit_program(type=ET_DYN, base=TEXT_BASE).with_segments(Segment(PT_LOAD, R, 0, PAGE, memsz=1), first=True),
    ),
    "descends over the program": (
        ET_EXEC,
        exit_program(type=ET_DYN, base=TEXT_BASE).with_segments(
            Segment(PT_LOAD, R, 0, TEXT_BASE + 16 * MIB, filesz=64), first=True
        ),
    ),
    "p_vaddr 0x1000, moved up by vm.mmap_min_addr, e_entry -4096": (
        ET_EXEC,
        replace(exit_program(type=ET_DYN, base=PAGE), entry=-PAGE),
    ),
    "p_memsz up to the end, in a file that ends before": (
        ET_EXEC,
        INTERP.with_segments(data(vaddr=0x10000, offset=0x5000, memsz=TASK_SIZE - 0x20000)),
    ),
    "p_vaddr above a PIE": (ET_DYN, moved(0x5555_5556_0000, type=ET_DYN).with_segments(data(vaddr=0x10000, offset=0xDE))),
    "p_filesz -1, ET_DYN": (ET_DYN, INTERP.with_segment(0, filesz=-1)),
    "p_filesz and p_memsz -1, ET_DYN": (ET_DYN, INTERP.with_segment(0, filesz=-1, memsz=-1)),
    "2 MiB of bss behind an offset of a page, ET_DYN": (
        ET_DYN,
        INTERP.with_segments(Segment(PT_LOAD, RX, PAGE + 8, 8, filesz=4, memsz=2 * MIB + 4), first=True),
    ),
    "p_vaddr -4096 and 0x10000: spans less than its first segment": (
        ET_DYN,
        replace(exit_program(type=ET_DYN, base=-PAGE), entry=0).with_segments(data(vaddr=0x10000)),
    ),
}
