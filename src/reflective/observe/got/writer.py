"""Who wrote a guarded slot: the instruction before the one at which the task has stopped, and on whose behalf."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...elf import unwind
from ...elf.symbols import Symbols
from ...elf.unwind import RETURN, RSP
from ...proc.loaded import VDSO
from ...values import Value
from . import code
from .events import Frame
from .listing import Target, View
from .process import Process
from .verify import Instruction, instruction

# struct user_regs_struct (sys/user.h) to DWARF's numbers: rbx, rbp, rsp, r12 to r15 are what a caller still has
SAVED = {5: 3, 4: 6, 19: RSP, 3: 12, 2: 13, 1: 14, 0: 15}
RIP = 16
FRAMES_MOST = 16


class Writer(Value):
    """The storing instruction: its address (None: it is not known), where that lies, its text or bytes; and its callers."""

    address: int | None
    object: str
    symbol: str
    offset: int
    instruction: str
    stack: tuple[Frame, ...]


UNKNOWN = Writer(None, "", "", 0, "", ())


def writer(process: Process, registers: bytes) -> Writer:
    """What has written, while the task still stands behind the store with these registers (struct user_regs_struct)."""
    user = struct.unpack_from("<27Q", registers)
    following, tables = user[RIP], dict[str, Symbols]()
    for one in process.objects:
        table = process.tables.get(one.path)
        if table is not None:
            tables[one.path] = table
    view = View([one.there for one in process.objects], process.space, tables)
    found = instruction(view, process.memory.read, following)
    if not found.address:
        found = _measured(view, process, following)
    place = view.target(found.address or following - 1) or Target("", "", following)
    text = found.text or found.data.hex(" ")
    return Writer(found.address or None, place.object, place.symbol, place.offset, text, tuple(_callers(process, user)))


def _callers(process: Process, user: tuple[int, ...]) -> Iterator[Frame]:
    """The return addresses, the innermost first, by the call frame information of each object: as far as that goes."""
    known = {number: user[at] for at, number in SAVED.items()} | {RETURN: user[RIP]}

    def read(address: int) -> int | None:
        data = process.memory.read(address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    for depth in range(FRAMES_MOST):
        home = process.home(known[RETURN])
        frames = unwind.of(home.there.file) if home else None
        rule = frames.rules(known[RETURN] - home.bias - bool(depth)) if frames and home else None
        before = rule.caller(known, read) if rule else None
        if before is None or not before[RETURN] or before[RSP] <= known[RSP]:
            return
        known = before
        path, symbol, offset = process.target(known[RETURN] - 1)  # the call may have been its function's last instruction
        yield Frame(known[RETURN], path, symbol, offset + 1)


def _measured(view: View, process: Process, following: int) -> Instruction:
    """Without a disassembler: from the beginning of its function, instruction by instruction."""
    _, owner = view.home(following - 1)
    table = view.tables.get(owner.path) if owner else None
    symbol = table.at(following - 1 - owner.bias) if owner and table else None
    at = symbol.value + owner.bias if owner and symbol else following
    data = process.memory.read(at, following - at)
    begin = at
    while at < following:
        try:
            size = code.length(data, at - begin)
        except ValueError:
            break
        if at + size == following:
            return Instruction(at, data[at - begin :], "")
        at += size
    return Instruction(0, b"", "")


def linkers_own(process: Process, one: Writer) -> bool:
    """True if the dynamic linker has written, or the vdso's or a static program's own start-up code."""
    linker = process.home(process.base or process.entry)
    return one.object == VDSO or (linker is not None and one.object == linker.path)
