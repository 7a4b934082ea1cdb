"""The very instruction that wrote a slot: found from the address behind it, and who called."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from struct import Struct

from ...elf.relocations import COPY, IRELATIVE
from ...errors import SessionError
from ...proc.loaded import Loaded
from ...values import Value
from .listing import Entry, Listing, Target, View
from .redirect import Name

Read = Callable[[int, int], bytes]
LONGEST = 15  # bytes of an instruction
BACK = 64  # bytes before an instruction that are disassembled, if no symbol says where its function begins
DEPTH, STACK = 6, 8192  # return addresses, and bytes of the stack that are looked through for them
NEAR_CALL, INDIRECT_CALL = 0xE8, 0xFF
PROT_EXEC = 4
WORD = Struct("<Q")
REPEATED = re.compile(rb"[\xf2\xf3][\x40-\x4f]?[\xa4\xa5\xaa\xab]", re.DOTALL)  # rep movs, rep stos
STARTUP, LAZY, WRITE = "startup", "lazy", "write"


class Instruction(Value):
    """`address` is 0 and `data` what lies before the next instruction if there is no disassembler to say where it begins."""

    address: int
    data: bytes
    text: str


class Written(Value):
    """A write to a slot: by whom, what was there, what is there now.

    `how` is startup or lazy, which are the dynamic linker's, or write. `caller` is where the first call through the slot, the
    one that had it bound, will return to; `stack` has what look like return addresses if somebody else wrote.
    """

    how: str
    tid: int
    t_ns: int
    entry: Entry
    instruction: Instruction
    place: Target | None
    before: int
    before_target: Target | None
    after: int
    after_target: Target | None
    caller: tuple[int, Target] | None
    stack: tuple[tuple[int, Target], ...]


def choose(name: Name, found: Listing, program: Loaded) -> tuple[Entry, int]:
    """The slot to watch, and how many others the symbol has in that object. Raises SessionError if there is none."""
    mine = [one for one in found.entries if one.slot.symbol == name.symbol and name.matches(one.object, program.path)]
    named = [one for one in mine if not name.version or one.slot.version == name.version]
    slots = sorted((one for one in named if one.slot.type not in (COPY, IRELATIVE)), key=lambda one: one.kind != "JUMP_SLOT")
    if not slots:
        raise SessionError(f"{name.object or program.path} has no slot for {name.symbol}: --list shows which it has")
    return slots[0], len(slots) - 1


def linker_of(program: Loaded, view: View, base: int) -> str:
    """The path of the dynamic linker: what lies at AT_BASE, or the program itself."""
    mapping, owner = view.home(base) if base else (None, None)
    return owner.path if owner else mapping.path if mapping else program.path


def instruction(view: View, read: Read, following: int) -> Instruction:
    """The instruction that ends where the next one begins; or the next one itself, which a repeated string instruction is."""
    if REPEATED.match(read(following, 3)):
        for address, size, text in _disassemble(read(following, LONGEST), following)[:1]:
            return Instruction(address, read(address, size), text)
    _, owner = view.home(following - 1)
    table = view.tables.get(owner.path) if owner else None
    symbol = table.at(following - 1 - owner.bias) if owner and table else None
    # Read from the wrong byte on, code is soon in step again: without a symbol it is begun some instructions before.
    starts = [symbol.value + owner.bias] if owner and symbol else range(following - BACK, following)
    for start in starts:
        code = read(start, following - start)
        for address, size, text in _disassemble(code, start):
            if address + size == following:
                return Instruction(address, code[address - start :], text)
    return Instruction(0, read(following - LONGEST, LONGEST), "")


def _disassemble(code: bytes, start: int) -> list[tuple[int, int, str]]:
    try:
        from capstone import CS_ARCH_X86, CS_MODE_64, CS_OPT_SYNTAX_ATT, Cs
    except ImportError:  # the extra "disasm"
        return []
    machine = Cs(CS_ARCH_X86, CS_MODE_64)
    machine.syntax = CS_OPT_SYNTAX_ATT
    return [(address, size, f"{name} {words}".strip()) for address, size, name, words in machine.disasm_lite(code, start)]


def caller(entry: Entry, view: View, read: Read, stack: int) -> tuple[int, Target] | None:
    """Who called through an unresolved slot: its PLT entry has pushed the relocation's index, PLT0 the object's link_map.

    Below them (glibc, sysdeps/x86_64/dl-trampoline.h) lies the address that the call returns to.
    """
    words = _words(read(stack, STACK))
    for link_map, index, address in zip(words, words[1:], words[2:], strict=False):
        if index == entry.slot.index and int.from_bytes(read(link_map, 8), "little") == entry.bias:
            found = _return(view, read, address)
            if found:
                return found
    return None


def on_stack(view: View, read: Read, stack: int) -> tuple[tuple[int, Target], ...]:
    """Words on the stack that point behind a call instruction, the innermost first.

    Not an unwinder: a word that was left there by an earlier call looks the same.
    """
    found = (_return(view, read, address) for address in _words(read(stack, STACK)))
    return tuple(islice((one for one in found if one), DEPTH))


def _words(data: bytes) -> list[int]:
    return [word for (word,) in WORD.iter_unpack(data[: len(data) & -8])]


def _return(view: View, read: Read, address: int) -> tuple[int, Target] | None:
    """A return address, and whose it is."""
    mapping, owner = view.home(address)
    if not (mapping and mapping.prot & PROT_EXEC and owner and _after_call(read(address - 7, 7))):
        return None
    target = view.target(address - 1)  # the call may have been its function's last instruction
    return (address, target.replace(offset=target.offset + 1)) if target else None


def _after_call(code: bytes) -> bool:
    """call rel32, or call *r/m64 in one of its lengths (opcode FF /2)."""
    if len(code) < 7:
        return False
    return code[2] == NEAR_CALL or any(
        code[7 - size] == INDIRECT_CALL and code[8 - size] >> 3 & 7 == 2 for size in (2, 3, 6, 7)
    )


def how(entry: Entry, started: bool, before: int, place: Target | None, linker: str) -> str:
    """Who wrote: the linker before the program's entry, the linker at a first call, or somebody else.

    A linker that is the C library too, as musl's, writes on the program's behalf as well: what is bound late was unresolved.
    """
    if place is None or place.object != linker:
        return WRITE
    if not started:
        return STARTUP
    return LAZY if entry.slot.stub and before == entry.slot.stub + entry.bias else WRITE
