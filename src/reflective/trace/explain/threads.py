"""Threads: their stacks, their guards, their start and end."""

from __future__ import annotations

from .facts import Fact
from .libc import clone_arguments
from .state import STACK, Area, State

MAP_STACK, MAP_ANONYMOUS = 0x20000, 0x20
CLONE_VM, CLONE_THREAD, CLONE_SETTLS = 0x100, 0x10000, 0x80000
MADV_DONTNEED = 4


def is_stack(fact: Fact) -> bool:
    """An anonymous mapping that says of itself that it is a stack."""
    return fact.ok and fact.args[3] & (MAP_STACK | MAP_ANONYMOUS) == MAP_STACK | MAP_ANONYMOUS


def mapped(state: State, fact: Fact) -> str:
    """Words for the mapping of a stack."""
    if not is_stack(fact):
        return ""
    access = ", without access until its guard is known" if not fact.args[2] else ""
    return f"reserves {fact.args[1]} bytes for a thread's stack, TLS and control block (MAP_STACK){access}"


def stack_with(state: State, start: int, end: int) -> Area | None:
    """The stack mapping that a range lies in."""
    return next((area for area in state.areas if area.role == STACK and area.start <= start < end <= area.end), None)


def protected(state: State, fact: Fact) -> str:
    """Words for mprotect of a stack: what stays out is the guard."""
    address, size, prot = fact.args[:3]
    area = stack_with(state, address, address + size) if fact.ok and prot == 3 else None
    if area is None or address + size != area.end or address == area.start:
        return ""
    return f"makes the thread's stack usable; the lowest {address - area.start} bytes stay its guard"


def started(state: State, fact: Fact) -> str:
    """Words for clone and clone3."""
    flags, stack, size, tls = clone_arguments(fact)
    if not fact.ok or not flags & CLONE_THREAD:
        return ""
    area = stack_with(state, stack, stack + size) if size else next(
        (item for item in state.areas if item.role == STACK and item.start < stack <= item.end), None
    )  # fmt: skip
    if area is None:
        return ""
    inside = flags & CLONE_SETTLS and area.holds(tls)
    block = f", its control block {area.end - tls:#x} below that stack's end" if inside else ""
    return f"starts a thread, tid {fact.ret}, on the stack mapped at {area.start:#x}{block}"


def given_back(state: State, fact: Fact) -> str:
    """Words for madvise of a thread's own stack."""
    address, size, advice = fact.args[:3]
    area = stack_with(state, address, address + size) if fact.ok and advice == MADV_DONTNEED else None
    if area is None or not area.holds(state.tcb.get(fact.tid, 0)):
        return ""
    return f"gives back {size} bytes of this thread's own stack; the mapping stays, for another thread"
