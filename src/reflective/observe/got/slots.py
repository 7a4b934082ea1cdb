"""What a slot's new value means: bound by its first call, written by somebody, or changed since it was last looked at."""

from __future__ import annotations

from collections.abc import Iterator

from ...elf.relocations import Slot
from . import report, words
from .events import LAZY, WRITE, Event, Note
from .process import Object, Process
from .report import Where
from .writer import linkers_own, writer

# When slots are looked at, as events say it.
AT_START, AT_STATE, AT_EXECVE = "at the entry point", "at a dlopen or dlclose", "at a call of execve"
AT_EXIT, AT_BIND, AT_WRITE = "at exit", "at a lazy binding", "at the write"
AT_EXEC, AT_ATTACH = "at its start", "at the attaching"


def bound(where: Where, process: Process, index: int, after: int, args: list[int], took: int) -> Iterator[Event]:
    """The resolver has been left: `args` are those of a record BIND (csrc/got/got.h)."""
    link_map, caller, address, before, target, _ = args
    one = process.maps.get(link_map)
    slot = one.watched.get(address) if one else None
    if one is None or slot is None:
        yield Note(*where, f"relocation {index} of an object that is not known was bound to {target:#x}")
        return
    one.unbound.discard(address)
    one.held[address], one.bound[address] = after, where[2]
    yield report.bind(where, process, one, address, LAZY, before, after, caller, took)
    odd = process.odd(one, slot, after)
    if odd:
        yield report.written(where, process, one, address, before, after, odd, AT_BIND)


def stored(where: Where, process: Process, address: int, registers: bytes) -> Iterator[Event]:
    """An instruction has written to a guarded slot. What the linker writes at a first call is told when it is left."""
    one = next((one for one in process.objects if address in one.watched), None)
    after = process.memory.words([address]).get(address)
    if one is None or after is None or after == one.held.get(address):
        return
    by, odd = writer(process, registers), process.odd(one, one.watched[address], after)
    if linkers_own(process, by) and (address in one.unbound or not odd):
        return
    before, one.held[address] = one.held.get(address, 0), after
    one.unbound.discard(address)
    yield report.written(where, process, one, address, before, after, odd or words.NOT_LINKER, AT_WRITE, by)


def compare(where: Where, process: Process, one: Object, when: str) -> Iterator[Event]:
    """What has changed in an object that was relocated before."""
    for address, before, value in process.changed(one):
        slot = one.watched[address]
        idle = value != 0 and value == one.stub(slot)
        odd = "" if idle else process.odd(one, slot, value)
        if not odd and address in one.unbound and when != AT_EXIT:
            one.seen.clear()  # another thread is in the resolver: its event comes, or else it is looked at again
            continue
        one.held[address] = value
        one.unbound.discard(address)
        if idle or (process.inherited and not odd):
            continue  # bound by another thread while a fork copied the memory: before or after that, one can't tell
        if odd:
            why = f"{odd}; {words.UNSEEN}" if address in process.guarded else odd
            yield report.written(where, process, one, address, before, value, why, when)
        else:
            yield report.bind(where, process, one, address, WRITE, before, value)


def waits(one: Object, address: int, slot: Slot) -> bool:
    """True if the slot leads to its PLT stub, and from there to the resolver."""
    return slot.stub != 0 and one.held.get(address) == one.stub(slot)
