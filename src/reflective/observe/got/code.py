"""As much of x86-64 machine code as breakpoints need: how long instructions are, and what the few do that are displaced.

Lengths: Intel SDM volume 2, chapter 2 (instruction format) and appendix A (opcode maps).
"""

from __future__ import annotations

import re

from ...native.got import JUMP_TO, PUSH, RETURN, SET, SKIP, Step

LONGEST_RESOLVER = 1024
PREFIXES = frozenset(b"\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65\xf0")
ENDBR64 = b"\xf3\x0f\x1e\xfa"
R11 = 11
SYS_MPROTECT, SYS_EXECVE, SYS_EXECVEAT = 10, 59, 322

# One-byte opcodes: which have a ModRM byte, and how many bytes of constant follow.
MODRM = {op + low for op in range(0, 0x40, 8) for low in range(4)} | {0x63, 0x69, 0x6B, *range(0x80, 0x90)}
MODRM |= {*range(0xD0, 0xD4), 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF}
BYTE = {op + 4 for op in range(0, 0x40, 8)} | {
    0x6A,
    0x6B,
    *range(0x70, 0x80),
    0x80,
    0x83,
    0xA8,
    *range(0xB0, 0xB8),
    0xC0,
    0xC1,
}
BYTE |= {0xC6, 0xCD, 0xEB, *range(0xE0, 0xE8)}
FULL = {op + 5 for op in range(0, 0x40, 8)} | {0x68, 0x69, 0x81, 0xA9, *range(0xB8, 0xC0), 0xC7, 0xE8, 0xE9}
PLAIN_0F = {0x05, 0x06, 0x08, 0x09, 0x0B, *range(0x30, 0x38), 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)}
BYTE_0F = {0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6}


def length(code: bytes, at: int = 0) -> int:
    """Bytes of the instruction that begins at `at`. Raises ValueError where there is none, or it is cut off."""
    try:
        size = _length(code, at)
    except IndexError:
        raise ValueError(f"an instruction is cut off at {at:#x}") from None
    if at + size > len(code):
        raise ValueError(f"an instruction is cut off at {at:#x}")
    return size


def _length(code: bytes, start: int) -> int:
    at, wide, short = start, False, False
    while code[at] in PREFIXES:
        short |= code[at] == 0x66
        at += 1
    if code[at] & 0xF0 == 0x40:
        wide = bool(code[at] & 8)
        at += 1
    op = code[at]
    if op in (0xC4, 0xC5, 0x62):
        return _vector(code, at) - start
    if op == 0x0F:
        return _two(code, at + 1) - start
    at += 1
    constant = (op in BYTE) + (op in FULL) * (8 if wide and op >= 0xB8 else 2 if short else 4)
    if op in (0xE8, 0xE9) or (op in FULL and op < 0xB8):
        constant = 4 if op in (0xE8, 0xE9) or not short else 2
    if op in (0xF6, 0xF7) and code[at] & 0x30 == 0:
        constant = 1 if op == 0xF6 else 2 if short else 4
    if op == 0xC7:
        constant = 2 if short else 4
    if 0xA0 <= op <= 0xA3:
        constant = 8
    if op in (0xC2, 0xCA):
        constant = 2
    return at + (_modrm(code, at) if op in MODRM else 0) + constant - start


def _two(code: bytes, at: int) -> int:
    op = code[at]
    if op in (0x38, 0x3A):
        return at + 2 + _modrm(code, at + 2) + (op == 0x3A)
    if 0x80 <= op < 0x90:
        return at + 5
    return at + 1 + (0 if op in PLAIN_0F else _modrm(code, at + 1)) + (op in BYTE_0F)


def _vector(code: bytes, at: int) -> int:
    """VEX and EVEX: all have a ModRM byte but vzeroupper and vzeroall."""
    prefix = code[at]
    space = 1 if prefix == 0xC5 else code[at + 1] & (31 if prefix == 0xC4 else 7)
    at += {0xC5: 2, 0xC4: 3, 0x62: 4}[prefix]
    op = code[at]
    if space == 1 and op == 0x77:
        return at + 1
    return at + 1 + _modrm(code, at + 1) + (space == 3 or (space == 1 and op in BYTE_0F))


def _modrm(code: bytes, at: int) -> int:
    """Bytes of ModRM, SIB and displacement."""
    mode, base = code[at] >> 6, code[at] & 7
    if mode == 3:
        return 1
    size = 1
    if base == 4:
        size, base = 2, code[at + 1] & 7
        if mode == 0 and base == 5:
            return size + 4
    elif mode == 0 and base == 5:
        return size + 4
    return size + (0, 1, 4)[mode]


def step(code: bytes) -> Step | None:
    """What the first instruction does, if it is one of those that a breakpoint may displace."""
    if code.startswith(ENDBR64):
        return Step(SKIP, ENDBR64)
    try:
        first = code[: length(code)]
    except ValueError:
        return None
    if first == b"\xc3":
        return Step(RETURN, first)
    if len(first) == 1 and 0x50 <= first[0] < 0x58:
        return Step(PUSH, first, first[0] - 0x50)
    if len(first) == 2 and first[0] == 0x41 and 0x50 <= first[1] < 0x58:
        return Step(PUSH, first, first[1] - 0x50 + 8)
    if len(first) == 5 and 0xB8 <= first[0] < 0xC0:
        return Step(SET, first, first[0] - 0xB8, int.from_bytes(first[1:], "little"))
    jump = first.lstrip(b"\xf2\x3e")  # bnd, notrack
    if len(jump) == 3 and jump[:2] == b"\x41\xff" and 0xE0 <= jump[2] < 0xE8:
        return Step(JUMP_TO, first, jump[2] - 0xE0 + 8)
    if first.lstrip(b"\x66\x2e")[:2] == b"\x0f\x1f" or first.lstrip(b"\x66") == b"\x90":
        return Step(SKIP, first)
    return None


def resolver_jump(code: bytes) -> int | None:
    """Where, in the resolver's code from its entry on, the jump through r11 is that leaves it; None if it has none."""
    at = 0
    while at < min(len(code), LONGEST_RESOLVER):
        found = step(code[at:])
        if found and found.kind == JUMP_TO and found.reg == R11:
            return at
        try:
            at += length(code, at)
        except ValueError:
            return None
    return None


def calls(code: bytes, number: int) -> list[int]:
    """Where a system call is made in glibc's way: `mov $number, %eax` right before `syscall`."""
    pattern = b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x05"
    return [found.start() for found in re.finditer(re.escape(pattern), code, re.DOTALL)]
