"""Write x86-64 ELF files, valid and broken, byte by byte.

A description (`ElfFile` with its `Segment`s) turns into bytes with `encode()`. Nothing is checked or repaired:
every field can hold any number, taken modulo its width, so that one test can break exactly one thing:

    exit_program(42).encode()                                   # a program that ends with status 42
    replace(exit_program(42), machine=EM_AARCH64).encode()      # the same, for another machine
    exit_program(42).with_interp(b"/lib/ld.so").encode()        # with a dynamic linker

No section headers are written; no kernel looks at them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

PAGE = 0x1000
TASK_SIZE = 0x7FFF_FFFF_F000  # the end of user space with four-level page tables

ET_NONE, ET_REL, ET_EXEC, ET_DYN, ET_CORE = range(5)
EM_386, EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 3, 40, 62, 183, 243

PT_NULL, PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_SHLIB, PT_PHDR, PT_TLS = range(8)
PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_PROPERTY = 0x6474E551, 0x6474E552, 0x6474E553
PT_LOPROC = 0x70000000

PF_X, PF_W, PF_R = 1, 2, 4
R, RW, RX, RWX = PF_R, PF_R | PF_W, PF_R | PF_X, PF_R | PF_W | PF_X

EHDR_SIZE, PHDR_SIZE = 64, 56
CODE_OFFSET = PAGE  # where the constructors below put the code in the file
TEXT_BASE = 0x400000  # where they put an ET_EXEC; an ET_DYN starts at 0
INTERP_OFFSET = 0x800  # where `with_interp` puts the path: after the program headers, before the code

IDENT = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)  # class 64, little-endian, version 1, System V


def wrapped(value: int, bits: int) -> int:
    """`value` as an unsigned number of so many bits; negative numbers count from the top."""
    return value & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header. The default is a readable and executable PT_LOAD."""

    type: int = PT_LOAD
    flags: int = RX
    offset: int = 0
    vaddr: int = 0
    paddr: int | None = None  # None: the same as vaddr
    filesz: int = 0
    memsz: int | None = None  # None: the same as filesz
    align: int = PAGE

    def encode(self) -> bytes:
        paddr = self.vaddr if self.paddr is None else self.paddr
        memsz = self.filesz if self.memsz is None else self.memsz
        wide = (self.offset, self.vaddr, paddr, self.filesz, memsz, self.align)
        return struct.pack("<II6Q", wrapped(self.type, 32), wrapped(self.flags, 32), *(wrapped(n, 64) for n in wide))


@dataclass(frozen=True, slots=True)
class ElfFile:
    """A whole file: the ELF header, the program headers, and bytes at file offsets."""

    segments: tuple[Segment, ...] = ()
    payloads: tuple[tuple[int, bytes], ...] = ()  # (file offset, bytes), written in order, after the headers
    type: int = ET_EXEC
    entry: int = 0
    machine: int = EM_X86_64
    version: int = 1
    ident: bytes = IDENT
    flags: int = 0
    ehsize: int = EHDR_SIZE
    phoff: int = EHDR_SIZE  # what the header says; the table is written at `table_offset`
    phentsize: int = PHDR_SIZE
    phnum: int | None = None  # None: as many as there are segments
    shoff: int = 0
    shentsize: int = 0
    shnum: int = 0
    shstrndx: int = 0
    table_offset: int = EHDR_SIZE
    size: int | None = None  # cut or zero-filled to this many bytes; None: as long as the contents

    def header(self) -> bytes:
        phnum = len(self.segments) if self.phnum is None else self.phnum
        return self.ident + struct.pack(
            "<HHIQQQIHHHHHH",
            wrapped(self.type, 16), wrapped(self.machine, 16), wrapped(self.version, 32),
            wrapped(self.entry, 64), wrapped(self.phoff, 64), wrapped(self.shoff, 64),
            wrapped(self.flags, 32), wrapped(self.ehsize, 16), wrapped(self.phentsize, 16), wrapped(phnum, 16),
            wrapped(self.shentsize, 16), wrapped(self.shnum, 16), wrapped(self.shstrndx, 16),
        )  # fmt: skip

    def encode(self) -> bytes:
        table = b"".join(segment.encode() for segment in self.segments)
        image = bytearray()
        for offset, data in ((0, self.header()), (self.table_offset, table), *self.payloads):
            if len(image) < offset + len(data):
                image.extend(bytes(offset + len(data) - len(image)))
            image[offset : offset + len(data)] = data
        if self.size is None:
            return bytes(image)
        return bytes(image[: self.size]).ljust(self.size, b"\0")

    def write(self, path: Path, mode: int = 0o755) -> Path:
        path.write_bytes(self.encode())
        path.chmod(mode)
        return path

    # Each of these gives a copy with one thing changed.

    def with_segments(self, *segments: Segment, first: bool = False) -> Self:
        """With more program headers, after those there are, or before them."""
        return replace(self, segments=segments + self.segments if first else self.segments + segments)

    def with_segment(self, index: int, **changes: int | None) -> Self:
        """With fields of one program header changed."""
        changed = replace(self.segments[index], **changes)  # type: ignore[arg-type]
        return replace(self, segments=(*self.segments[:index], changed, *self.segments[index + 1 :]))

    def with_payload(self, offset: int, data: bytes) -> Self:
        return replace(self, payloads=(*self.payloads, (offset, data)))

    def with_interp(self, path: bytes, *, filesz: int | None = None, offset: int = INTERP_OFFSET) -> Self:
        """With a PT_INTERP in front; `path` gets the final NUL, and counts it, unless `filesz` is given."""
        data = path if filesz is not None else path + b"\0"
        interp = Segment(PT_INTERP, R, offset, self.segments[0].vaddr + offset if self.segments else 0, align=1,
                         filesz=len(data) if filesz is None else filesz)  # fmt: skip
        return self.with_segments(interp, first=True).with_payload(offset, data)

    def with_stack(self, flags: int) -> Self:
        """With a PT_GNU_STACK of these flags."""
        return self.with_segments(Segment(PT_GNU_STACK, flags, align=16))


# Programs: the header page, then code, in one PT_LOAD that maps the file from its first byte.


def program(code: bytes, *, type: int = ET_EXEC, base: int | None = None, flags: int = RX) -> ElfFile:
    """A program of one segment that runs `code`, at `code_address(type, base)`."""
    start = default_base(type) if base is None else base
    return ElfFile(
        type=type,
        entry=start + CODE_OFFSET,
        segments=(Segment(PT_LOAD, flags, 0, start, filesz=CODE_OFFSET + len(code)),),
        payloads=((CODE_OFFSET, code),),
    )


def exit_program(status: int = 42, *, type: int = ET_EXEC, base: int | None = None) -> ElfFile:
    """A program that does nothing but exit(status)."""
    return program(exit_code(status), type=type, base=base)


def default_base(type: int) -> int:
    return 0 if type == ET_DYN else TEXT_BASE


def code_address(type: int = ET_EXEC, base: int | None = None) -> int:
    return (default_base(type) if base is None else base) + CODE_OFFSET


# Machine code. A piece that names an address is given its own, `here`, both as in the file: the code is
# position-independent. Pieces can be joined, and all but `exit_code` and those that say so fall through.


def exit_code(status: int = 42) -> bytes:
    """exit(status). 12 bytes."""
    return b"\xbf" + struct.pack("<I", status) + b"\xb8\x3c\0\0\0" + b"\x0f\x05"  # mov edi; mov eax, 60; syscall


def load_address(target: int, here: int) -> bytes:
    """rdi = target. 7 bytes."""
    return b"\x48\x8d\x3d" + struct.pack("<i", target - (here + 7))  # lea rdi, [rip + distance]


def read_byte(target: int, here: int) -> bytes:
    """Read one byte at `target`; a fault kills the program. 9 bytes."""
    return load_address(target, here) + b"\x8a\x07"  # mov al, [rdi]


def write_byte(target: int, here: int) -> bytes:
    """Write a 1 at `target`; a fault kills the program. 10 bytes."""
    return load_address(target, here) + b"\xc6\x07\x01"  # mov byte [rdi], 1


def write_out(message: bytes) -> bytes:
    """write(1, message). The message lies in the code, jumped over."""
    skip = b"\xe9" + struct.pack("<i", len(message))  # jmp over the message
    back = -(len(message) + 7)
    return (
        skip + message
        + b"\x48\x8d\x35" + struct.pack("<i", back)  # lea rsi, [rip - ...]
        + b"\xba" + struct.pack("<I", len(message))  # mov edx, length
        + b"\xbf\x01\0\0\0\xb8\x01\0\0\0\x0f\x05"  # mov edi, 1; mov eax, 1; syscall
    )  # fmt: skip


def require_zero(target: int, length: int, here: int, status: int = 1) -> bytes:
    """exit(status) unless all bytes of target … target+length are zero."""
    scan = b"\xb9" + struct.pack("<I", length) + b"\x31\xc0\xf3\xae"  # mov ecx; xor eax, eax; repe scasb
    leave = exit_code(status)
    return load_address(target, here) + scan + b"\x74" + bytes([len(leave)]) + leave  # je over the exit


def require_byte(target: int, value: int, here: int, status: int = 1) -> bytes:
    """exit(status) unless the byte at `target` is `value`."""
    leave = exit_code(status)
    return load_address(target, here) + b"\x80\x3f" + bytes([value]) + b"\x74" + bytes([len(leave)]) + leave


def require_aligned(target: int, align: int, here: int, status: int = 1) -> bytes:
    """exit(status) unless `target` was loaded at a multiple of `align`, a power of two."""
    leave = exit_code(status)
    test = b"\x48\xb8" + struct.pack("<Q", align - 1) + b"\x48\x85\xc7"  # mov rax, align - 1; test rdi, rax
    return load_address(target, here) + test + b"\x74" + bytes([len(leave)]) + leave


def run_on_stack() -> bytes:
    """Call a `ret` that lies on the stack: a fault unless the stack is executable."""
    return b"\x6a\xc3" + b"\xff\xd4" + b"\x58"  # push 0xc3; call rsp; pop rax


def exit_personality() -> bytes:
    """exit(personality >> 16 & 0xff): READ_IMPLIES_EXEC is 0x40, ADDR_NO_RANDOMIZE 0x04. Does not fall through."""
    return (
        b"\xbf\xff\xff\xff\xff\xb8\x87\0\0\0\x0f\x05"  # personality(0xffffffff)
        + b"\xc1\xe8\x10\x0f\xb6\xf8\xb8\x3c\0\0\0\x0f\x05"  # shr eax, 16; movzx edi, al; exit
    )
