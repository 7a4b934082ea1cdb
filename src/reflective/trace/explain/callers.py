"""Who made a call: the return addresses on the stack above it, each held against the call instruction before it."""

from __future__ import annotations

from .facts import Fact
from .objects import Loaded, code_before, function_at
from .state import State

ALLOCATORS = ("malloc", "calloc", "realloc", "memalign", "posix_memalign", "aligned_alloc")


def _is_return(item: Loaded, address: int) -> bool:
    """Does a call instruction end here? E8 rel32, FF /2 with a register, memory, or displacement."""
    code = code_before(item.elf, address - item.base, 7)
    if len(code) < 7:
        return False
    return code[-5] == 0xE8 or any(code[-size] == 0xFF and code[1 - size] >> 3 & 7 == 2 for size in (2, 3, 6, 7))


def returns(state: State, fact: Fact) -> list[tuple[Loaded, int]]:
    """Return addresses, the innermost first, up to and with the first that is not in the file that made the call."""
    found: list[tuple[Loaded, int]] = []
    for word in fact.frames:
        if any(start <= word < end for start, end, _ in state.code):
            item = state.object_at(word)
            if item is not None and _is_return(item, word):
                found.append((item, word))
                if item.path != fact.object:
                    break
    return found


def direct(state: State, fact: Fact) -> str:
    """The file whose code called the function that made the call; "" if that is not known."""
    found = returns(state, fact)
    return found[0][0].path if found else ""


def functions(state: State, fact: Fact) -> list[str]:
    """Functions of the C library that are at work, the innermost first, as far as symbols name them."""
    inside = [(item, word - 1) for item, word in returns(state, fact) if item.path == fact.object]  # within the call
    own = state.file(fact.object)
    names = [function_at(item.elf, at - item.base) for item, at in ([(own, fact.ip - 1)] if own else []) + inside]
    return [name for name in names if name]


def allocating(state: State, fact: Fact) -> bool:
    """Is malloc, or one of its kind, at work?"""
    return any(name.lstrip("_").removeprefix("libc_") in ALLOCATORS for name in functions(state, fact))
