"""What the C library asks for by itself while the program runs: malloc's memory, the kind of stdout, what it writes."""

from __future__ import annotations

import struct

from .callers import allocating, direct, functions, own_function
from .facts import Fact, file_kind
from .objects import GLIBC, MUSL
from .state import ARENA, RESERVED, Area, State

TCGETS, TIOCGWINSZ = 0x5401, 0x5413
PAD, PAGE, GRND_NONBLOCK = 128 << 10, 4096, 1
HEAP_MAX = 64 << 20  # glibc: malloc/arena.c: HEAP_MAX_SIZE
STDIO = ("_IO_", "__stdio_", "__stdout_")  # of glibc, of musl in a static program
STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}


def by_libc(state: State, fact: Fact) -> bool:
    """Is it the C library's code that made the call?"""
    return bool(state.libc) and fact.object == state.libc


def inside(state: State, fact: Fact) -> bool:
    """Did the C library make it for itself, rather than for someone who called it by name?"""
    return by_libc(state, fact) and state.interpreter is not None and direct(state, fact) == state.libc


def by_stdio(state: State, fact: Fact) -> bool:
    """Is a stream at work? Names of functions say so, also in a static program; in musl's libc.so they have none."""
    if state.flavour == MUSL:
        return fact.name == "ioctl" and by_libc(state, fact) and not own_function(state, fact)
    return by_libc(state, fact) and any(name.startswith(STDIO) for name in functions(state, fact))


def random(state: State, fact: Fact) -> str:
    """Words for getrandom."""
    if draws_key(state, fact):
        return "malloc is called for the first time: a random key for its caches of free chunks (tcache)"
    return ""


def draws_key(state: State, fact: Fact) -> bool:
    """glibc: malloc/malloc.c: tcache_key_initialize."""
    asked = fact.ok and fact.args[1:3] == (8, GRND_NONBLOCK) and not state.random
    return asked and state.flavour == GLIBC and by_libc(state, fact) and allocating(state, fact)


def heap(state: State, fact: Fact) -> str:
    """Words for brk by malloc."""
    if not fact.ok or state.flavour != GLIBC or not by_libc(state, fact) or not allocating(state, fact):
        return ""
    asked, was = fact.args[0], state.heap[1]
    if not asked:
        return "where does the heap end? malloc is about to make it grow"
    if fact.ret != asked or not was:
        return ""
    if asked < was:
        return f"malloc gives back {was - asked} bytes at the top of the heap"
    if asked - was < PAGE and not asked % PAGE:
        return f"{asked - was} bytes more, so that malloc's heap ends with a page"
    if asked - was < PAD:
        return ""
    first = state.area_at(was - 1, ARENA) is None and not any(area.role == ARENA for area in state.areas)
    return f"malloc's {'first arena' if first else 'arena grows'}: {(asked - was) >> 10} KiB of heap"


def file_status(state: State, fact: Fact) -> str:
    """Words for fstat by stdio, which chooses a stream's buffer. glibc: libio/filedoalloc.c."""
    known, number = fact.status, fact.args[0] & 0xFFFFFFFF
    if known is None or fact.strings.get(1) or not asks_for_buffer(state, fact):
        return ""
    name = STREAMS.get(number, f"descriptor {number}")
    return f"stdio sets up a buffer for {name}: how large, and is it a terminal? It is {file_kind(known[0])}"


def asks_for_buffer(state: State, fact: Fact) -> bool:
    """Does a stream want to know what stands behind its descriptor?"""
    return fact.status is not None and state.flavour == GLIBC and by_stdio(state, fact)


def control(state: State, fact: Fact) -> str:
    """Words for ioctl: is the stream a terminal?"""
    number, command = fact.args[0] & 0xFFFFFFFF, fact.args[1] & 0xFFFFFFFF
    name = STREAMS.get(number, f"descriptor {number}")
    if not fact.ended or not by_libc(state, fact) or command not in (TCGETS, TIOCGWINSZ):
        return ""
    answer = "It is" if fact.ok else "It is not"
    if by_stdio(state, fact):
        return f"stdio sets up a buffer for {name}: is it a terminal, to be written line by line? {answer}"
    return f"is {name} a terminal? {answer}" if command == TCGETS and "isatty" in functions(state, fact) else ""


def written(state: State, fact: Fact) -> str:
    """Words for write and writev."""
    number = fact.args[0] & 0xFFFFFFFF
    if not fact.ok or not by_libc(state, fact):
        return ""
    if by_stdio(state, fact):
        when = ", as main has returned" if fact.phase == "exit" else ""
        return f"stdio passes on what was written to {STREAMS.get(number, f'descriptor {number}')}{when}: {_bytes(fact.ret)}"
    return f"writes {_bytes(fact.ret)} to {STREAMS[number]}" if number in (1, 2) and fact.ret else ""


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


def arena(state: State, fact: Fact) -> str:
    """Words for the arena of another thread: glibc: malloc/arena.c: new_heap."""
    size, prot, flags = fact.args[1:4]
    if not fact.ok or state.flavour != GLIBC or not by_libc(state, fact) or prot or flags & 0x4020 != 0x4020:
        return ""
    if size == 2 * HEAP_MAX and allocating(state, fact):
        return "malloc's arena for this thread: twice 64 MiB of addresses, of which an aligned half is kept"
    return ""


def reserved(state: State, start: int, end: int) -> Area | None:
    """The arena of a thread that a range lies in."""
    return next((area for area in state.areas if area.role == RESERVED and area.start <= start < end <= area.end), None)


def arena_trimmed(state: State, fact: Fact) -> str:
    """Words for munmap of what is left over."""
    start, end = fact.args[0], fact.args[0] + fact.args[1]
    area = reserved(state, start, end) if fact.ok else None
    if area is None or not (start == area.start or end == area.end) or area.end - area.start <= HEAP_MAX:
        return ""
    return "gives back what the alignment of malloc's arena leaves over"


def arena_used(state: State, fact: Fact) -> str:
    """Words for mprotect within a thread's arena."""
    start, end = fact.args[0], fact.args[0] + fact.args[1]
    area = reserved(state, start, end) if fact.ok and fact.args[2] == 3 else None
    if area is None or area.end - area.start != HEAP_MAX:
        return ""
    which = "the first" if start == area.start else "the next"
    return f"malloc's arena of a thread: {which} {fact.args[1] >> 10} KiB become usable"


def large(state: State, fact: Fact) -> str:
    """Words for a block that malloc maps by itself."""
    if not fact.ok or not fact.args[3] & 0x20 or fact.args[2] != 3 or not by_libc(state, fact) or state.interpreter is None:
        return ""
    if state.flavour == GLIBC and allocating(state, fact):
        return f"malloc maps a large block by itself: {fact.args[1]} bytes"
    return ""


def clone_arguments(fact: Fact) -> tuple[int, int, int, int]:
    """Flags, stack, its size, and thread pointer of clone or clone3; zeros if they are not known."""
    if fact.name == "clone":
        return fact.args[0], fact.args[1], 0, fact.args[4]
    data = fact.data.get(0, b"")
    if len(data) < 64:
        return 0, 0, 0, 0
    flags, _, _, _, _, stack, size, tls = struct.unpack_from("<8Q", data)
    return flags, stack, size, tls
