"""The initial stack, from the bytes that a program finds: what create_elf_tables (fs/binfmt_elf.c) put there, item by item."""

from __future__ import annotations

import os
from struct import Struct

from ..errors import SessionError
from ..plan.stack import AT_BASE, AT_ENTRY, AT_EXECFN, AT_PHDR, AT_PLATFORM, AT_RANDOM, AT_SYSINFO_EHDR, NAMES
from ..proc.maps import Mapping, at
from ..values import Value

WORD, PAIR = 8, Struct("<QQ")
RANDOM_SIZE = 16
POINTERS = (AT_PHDR, AT_BASE, AT_ENTRY, AT_RANDOM, AT_EXECFN, AT_PLATFORM, AT_SYSINFO_EHDR, 24)
MEANINGS = {
    0: "the end of the vector",
    3: "the executable's program headers",
    4: "bytes of one program header",
    5: "number of program headers",
    6: "bytes of a page",
    7: "where the interpreter was loaded; 0: there is none",
    8: "flags: none are defined",
    9: "the executable's entry, to which the interpreter jumps",
    11: "user",
    12: "effective user",
    13: "group",
    14: "effective group",
    15: "name of the architecture",
    16: "processor features (CPUID 1, EDX)",
    17: "clock ticks a second in times()",
    23: "1: run with another's privilege, LD_PRELOAD and the like are ignored",
    24: "name of the real architecture",
    25: "16 random bytes: stack canary and pointer guard come from them",
    26: "more features: bit 0 ring 3 MONITOR, bit 1 FSGSBASE",
    27: "bytes of struct rseq that the kernel uses",
    28: "alignment of struct rseq",
    31: "the path that was executed",
    33: "the vdso's ELF header",
    51: "least bytes of a signal stack",
}


class Item(Value):
    """A piece of the stack. `value` is the word there (-1: a string), `text` what it says, `target` where it points."""

    address: int
    size: int
    kind: str
    name: str
    value: int
    text: str
    target: str = ""


def items(memory: bytes, base: int, space: tuple[Mapping, ...]) -> tuple[Item, ...]:
    """All pieces from the stack pointer, `base`, to the end of `memory`, lowest first. Raises SessionError if it is none."""
    words = _Words(memory, base)
    argc = words.at(base)
    found = [Item(base, WORD, "argc", "argc", argc, str(argc))]
    address = _vector(words, base + WORD, "argv", found)
    address = _vector(words, address, "envp", found)
    strings = {item.value: item.kind for item in found[1:] if item.value}
    vector, address = _auxv(words, address, space)
    found += vector
    known = {item.name: item.value for item in vector}
    found += [_string(words, place, "environment" if kind == "envp" else "argument") for place, kind in strings.items()]
    found += [
        _string(words, known[name], kind)
        for name, kind in (("AT_EXECFN", "path"), ("AT_PLATFORM", "platform"))
        if known.get(name)
    ]
    if known.get("AT_RANDOM"):
        place = known["AT_RANDOM"]
        found.append(Item(place, RANDOM_SIZE, "random", "", -1, words.part(place, RANDOM_SIZE).hex(" ")))
    return tuple(_with_gaps(sorted(found, key=lambda item: item.address), words))


class _Words:
    def __init__(self, memory: bytes, base: int) -> None:
        self.memory, self.base = memory, base

    def part(self, address: int, size: int) -> bytes:
        offset = address - self.base
        if not 0 <= offset <= len(self.memory) - size:
            raise SessionError(f"no initial stack: it points to {address:#x}, outside of itself")
        return self.memory[offset : offset + size]

    def at(self, address: int) -> int:
        return int.from_bytes(self.part(address, WORD), "little")

    def string(self, address: int) -> bytes:
        rest = self.part(address, self.base + len(self.memory) - address)
        return rest.partition(b"\0")[0]


def _vector(words: _Words, address: int, kind: str, found: list[Item]) -> int:
    """The pointers of argv or envp and their NULL; returns the address behind it."""
    index = 0
    while True:
        value = words.at(address)
        text = os.fsdecode(words.string(value)) if value else "NULL: the end"
        found.append(Item(address, WORD, kind, f"{kind}[{index}]", value, text))
        address, index = address + WORD, index + 1
        if not value:
            return address


def _auxv(words: _Words, address: int, space: tuple[Mapping, ...]) -> tuple[list[Item], int]:
    found = []
    while True:
        kind, value = PAIR.unpack(words.part(address, PAIR.size))
        name = "AT_NULL" if kind == 0 else NAMES.get(kind, f"type {kind}")
        target = _target(space, value) if kind in POINTERS and value else ""
        found.append(Item(address, PAIR.size, "auxv", name, value, MEANINGS.get(kind, ""), target))
        address += PAIR.size
        if kind == 0:
            return found, address


def _target(space: tuple[Mapping, ...], address: int) -> str:
    """Where an address is, in words: the object and the offset in its file."""
    mapping = at(space, address)
    if mapping is None:
        return "nowhere"
    if mapping.file:
        return f"{mapping.path} at offset {mapping.offset + address - mapping.start:#x}"
    return mapping.path or "anonymous memory"


def _string(words: _Words, address: int, kind: str) -> Item:
    text = words.string(address)
    return Item(address, len(text) + 1, kind, "", -1, os.fsdecode(text))


def _with_gaps(found: list[Item], words: _Words) -> list[Item]:
    """With what lies between: alignment, what arch_align_stack left out, and the 8 zero bytes at the top."""
    result, end = [], words.base
    for item in found:
        if item.address > end:
            result.append(Item(end, item.address - end, "unused", "", -1, _filling(words.part(end, item.address - end))))
        result.append(item)
        end = max(end, item.address + item.size)
    top = words.base + len(words.memory)
    return [*result, Item(end, top - end, "unused", "", -1, _filling(words.part(end, top - end)))] if end < top else result


def _filling(gap: bytes) -> str:
    return "zeros" if not any(gap) else "not only zeros"
