"""A slot's change as an event: with names for every address."""

from __future__ import annotations

from ...elf.relocations import TYPES
from .events import COPY, Bind, Write
from .process import Object, Process
from .writer import UNKNOWN, Writer

Where = tuple[int, int, int]  # pid, tid, time in ns


def bind(
    where: Where, process: Process, one: Object, address: int, how: str, before: int, after: int,
    caller: int | None = None, took: int | None = None,
) -> Bind:  # fmt: skip
    """The linker has filled the slot at an address. An IRELATIVE slot goes by the name of its resolver, the function's own."""
    slot = one.watched[address]
    target = process.target(after, slot.symbol, slot.version)
    name = slot.symbol or process.target(slot.addend + one.bias)[1]
    origin = process.caller(caller) if caller else ("", "", 0)
    return Bind(
        *where, how, one.path, name, slot.version, TYPES.get(slot.type, str(slot.type)), address,
        one.section(address), slot.file, before, after, *target, caller, *origin, took, "",
    )  # fmt: skip


def copied(where: Where, process: Process, one: Object, address: int) -> Bind:
    """A variable's first value comes from another object that exports it (R_X86_64_COPY)."""
    slot, value, source = one.watched[address], 0, ("", "", 0)
    for other in process.objects:
        named = process.tables.exports(other.path, slot.symbol) if other is not one else []
        found = next((item for item in named if item.kind == "OBJECT"), None)
        if found:
            source, value = (other.path, found.name, 0), found.value + other.bias
            break
    return Bind(
        *where, COPY, one.path, slot.symbol, slot.version, "COPY", address, one.section(address), slot.file, slot.file,
        value, *source, None, "", "", 0, None, "",
    )  # fmt: skip


def written(
    where: Where, process: Process, one: Object, address: int, before: int, after: int, why: str, when: str,
    by: Writer = UNKNOWN,
) -> Write:  # fmt: skip
    """Something else has filled it."""
    slot = one.watched[address]
    return Write(
        *where, one.path, slot.symbol, slot.version, address, one.section(address), before, after,
        *process.target(after, slot.symbol, slot.version), why, when, *_intact(process, one, address),
        by.address, by.object, by.symbol, by.offset, by.instruction, by.stack,
    )  # fmt: skip


def _intact(process: Process, one: Object, address: int) -> tuple[str, int]:
    """When a slot was last seen as it should be: at a comparison of all, or when it was bound, whichever came later."""
    when, bound = process.looked, one.bound.get(address, 0)
    return ("at its lazy binding", bound) if bound > when[1] else when
