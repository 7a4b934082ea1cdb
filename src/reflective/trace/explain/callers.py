"""Who made a call: the frames above it, found by the rules of .eh_frame. Where these end nothing more is known.

musl is built without such rules. The functions of its libc.so that are not exported have no names either: that alone tells a
call that the library makes for itself from one that a program has asked for by name.
"""

from __future__ import annotations

import functools

from ...elf.unwind import RETURN, RSP
from .facts import Fact
from .objects import Loaded, code_before, frames_of, function_at
from .state import State

ALLOCATORS = ("malloc", "calloc", "realloc", "memalign", "posix_memalign", "aligned_alloc")
DEEPEST = 40


def _is_return(item: Loaded, address: int) -> bool:
    """Does a call instruction end here? E8 rel32, FF /2 with a register, memory, or displacement."""
    code = code_before(item.elf, address - item.base, 7)
    if len(code) < 7:
        return False
    return code[-5] == 0xE8 or any(code[-size] == 0xFF and code[1 - size] >> 3 & 7 == 2 for size in (2, 3, 6, 7))


def returns(state: State, fact: Fact) -> list[tuple[Loaded, int]]:
    """Return addresses, the innermost first, up to and with the first that is not in the file that made the call."""
    found: list[tuple[Loaded, int]] = []
    registers, at = {RSP: fact.sp}, fact.ip
    here = state.object_at(at)
    read = functools.partial(_word, fact)
    while here is not None and here.path == fact.object and len(found) < DEEPEST:
        table = frames_of(here.elf)
        rules = table.rules(at - here.base - (1 if found else 0)) if table is not None else None
        before = rules.caller(registers, read) if rules is not None else None
        if before is None:
            break
        registers, at = before, before[RETURN]
        here = state.object_at(at)
        if here is None or not _is_return(here, at):
            break
        found.append((here, at))
    return found


def _word(fact: Fact, address: int) -> int | None:
    number, rest = divmod(address - fact.sp, 8)
    return fact.frames[number] if not rest and 0 <= number < len(fact.frames) else None


def direct(state: State, fact: Fact) -> str:
    """The file whose code called the function that made the call; "" if that is not known."""
    found = returns(state, fact)
    return found[0][0].path if found else ""


def own_function(state: State, fact: Fact) -> str:
    """The function that made the call, "" if no symbol names it."""
    own = state.file(fact.object)
    return function_at(own.elf, fact.ip - 1 - own.base) if own else ""


def functions(state: State, fact: Fact) -> list[str]:
    """Functions of the C library that are at work, the innermost first, as far as symbols name them."""
    inside = [(item, word - 1) for item, word in returns(state, fact) if item.path == fact.object]  # within the call
    names = [own_function(state, fact), *(function_at(item.elf, at - item.base) for item, at in inside)]
    return [name for name in names if name]


def allocating(state: State, fact: Fact) -> bool:
    """Is malloc, or one of its kind, at work?"""
    return any(name.lstrip("_").removeprefix("libc_") in ALLOCATORS for name in functions(state, fact))
