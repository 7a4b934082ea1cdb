"""Who made a call: its return addresses, found with each object's call frame information on a copy of the stack."""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..elf import symbols, unwind
from ..elf.unwind import RETURN, RSP
from ..errors import LoadError

# struct user_regs_struct (sys/user.h) to DWARF's numbers: rbx, rbp, rsp, r12 to r15 are what a caller still has
USER = {5: 3, 4: 6, 19: 7, 3: 12, 2: 13, 1: 14, 0: 15}
RIP = 16
FRAMES_MOST = 256  # as strace
Place = tuple[str, int]  # file, offset in it


def frames(registers: bytes, stack: bytes, place: Callable[[int], Place | None]) -> tuple[str, ...]:
    """The frames from the innermost out, as strace writes them; `place` says what is mapped at an address.

    The symbol is one that contains the address; strace takes the last one before it, which is another function's wherever
    local symbols have been stripped.
    """
    if len(registers) < 27 * 8:
        return ()
    user = struct.unpack_from("<27Q", registers)
    known = {number: user[at] for at, number in USER.items()} | {RETURN: user[RIP]}
    bottom, found = known[RSP], list[str]()

    def read(address: int) -> int | None:
        at = address - bottom
        return int.from_bytes(stack[at : at + 8], "little") if 0 <= at <= len(stack) - 8 else None

    while len(found) < FRAMES_MOST:
        address = known[RETURN]
        where = place(address)
        if where is None:
            break
        path, offset = where
        rules = unwind.of(path)
        found.append(_text(path, offset, rules, bool(found)))
        link = rules.link(offset) if rules else None
        rule = rules.rules(link - bool(found[1:])) if rules and link is not None else None
        before = rule.caller(known, read) if rule else None
        if before is None or not before[RETURN] or before[RSP] <= known[RSP]:
            break
        known = before
    return tuple(found)


def _text(path: str, offset: int, rules: unwind.Frames | None, returns: bool) -> str:
    link = rules.link(offset) if rules else None
    try:
        symbol = symbols.of(path).at(link - returns) if link is not None else None
    except LoadError:
        symbol = None
    name = f"{symbol.name}+{link - symbol.value:#x}" if symbol and link is not None else ""
    return f"{path}({name}) [{offset:#x}]"
