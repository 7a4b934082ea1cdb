"""What a program does before main, libraries apart: the heap's start, thread control block, thread registration, limits."""

from __future__ import annotations

from .facts import Fact
from .files import by_linker
from .objects import GLIBC, MUSL, Loaded
from .state import TLS, State

ARCH_SET_FS = 0x1002
RLIMIT_STACK = 3
MAP_ANONYMOUS, MAP_FIXED, MAP_STACK = 0x20, 0x10, 0x20000
PAGE = 4096
TCB = "thread control block"


def before_main(fact: Fact) -> bool:
    """True until main is called."""
    return fact.phase in ("interpreter", "startup")


def by_start(state: State, fact: Fact) -> bool:
    """Made by the dynamic linker, or by the start code of a static program."""
    static = state.interpreter is None and state.executable is not None and fact.object == state.executable.path
    return before_main(fact) and (by_linker(state, fact) or static)


def sets_fs(state: State, fact: Fact, after: Fact | None, start: int, end: int) -> bool:
    """Does the next call point FS into a range?"""
    return (
        after is not None
        and after.ok
        and after.name == "arch_prctl"
        and after.args[0] == ARCH_SET_FS
        and after.tid == fact.tid
        and start <= after.args[1] < end
    )


def waits(state: State, fact: Fact) -> bool:
    """Does only the next call say what this one is for? True for memory taken before the thread control block is known."""
    if fact.name == "brk" and musl_grows(state, fact):
        return True
    if not fact.ok or fact.tid in state.tcb or not by_start(state, fact):
        return False
    if fact.name == "mmap":
        return bool(fact.args[3] & MAP_ANONYMOUS) and not fact.args[3] & MAP_FIXED
    return fact.name == "brk" and fact.args[0] > state.heap[1] > 0


def musl_grows(state: State, fact: Fact) -> bool:
    """Does brk take the two pages that musl's malloc needs at first? musl: src/malloc/mallocng/malloc.c: alloc_meta."""
    asked, was = fact.args[0], state.heap[1]
    return fact.ok and state.flavour == MUSL and fact.object == state.libc and was > 0 and asked == fact.ret == was + 2 * PAGE


def anonymous(state: State, fact: Fact, after: Fact | None) -> str:
    """Words for the dynamic linker's own memory."""
    if not waits(state, fact) or fact.args[2] != 3:
        return ""
    size, (start, end) = fact.args[1], fact.range
    if sets_fs(state, fact, after, start, end):
        return f"{size} bytes for the static TLS block and the {TCB}: the next call points FS into it"
    if state.flavour == GLIBC and by_linker(state, fact):
        return f"ld.so's own heap, {size} bytes: link maps, search paths; there is no libc to ask yet"
    return ""


def heap(state: State, fact: Fact, after: Fact | None) -> str:
    """Words for brk before the thread control block is known, or by the dynamic linker."""
    asked, was = fact.args[0], state.heap[1]
    if musl_grows(state, fact) and _guards(after, was):
        return "two pages of heap for musl's malloc: the next call makes the first a guard, its bookkeeping is in the other"
    if not fact.ok or not by_start(state, fact):
        return ""
    if not asked:
        return "where does the heap begin? Nothing is taken yet" if not was else "where does the heap end now?"
    if fact.ret != asked or not was or asked <= was:
        return ""
    if sets_fs(state, fact, after, was, asked):
        return f"{asked - was} bytes of heap for the static TLS block and the {TCB}: the next call points FS into it"
    return ""


def _guards(after: Fact | None, start: int) -> bool:
    return after is not None and after.ok and after.name == "mmap" and after.args[:3] == (start, PAGE, 0)


def guard(state: State, fact: Fact) -> str:
    """Words for the page at the start of musl's heap that may not be touched."""
    last, (address, size, prot) = state.last, fact.args[:3]
    fixed = fact.args[3] & (MAP_FIXED | MAP_ANONYMOUS) == MAP_FIXED | MAP_ANONYMOUS
    if not fact.ok or state.flavour != MUSL or prot or not fixed or size != PAGE or last is None:
        return ""
    if (last.role, last.start, last.end) == ("heap", address, address + 2 * PAGE):
        return "a guard: the first of the two pages just taken may not be touched"
    return ""


def thread_pointer(state: State, fact: Fact) -> str:
    """Words for arch_prctl(ARCH_SET_FS)."""
    if not fact.ok or fact.args[0] != ARCH_SET_FS or not before_main(fact) or not fact.args[1]:
        return ""
    words, address = "sets FS to the thread control block", fact.args[1]
    if state.last is not None and state.last.holds(address):
        how = "mapped" if state.last.role == TLS else "taken"
        return f"{words}, {address - state.last.start:#x} into what the call before has {how}"
    inside = _segment_at(state, address)
    if inside is not None:
        item, number = inside
        return f"{words}, in segment {number} of {item.name} itself"
    return ""


def _segment_at(state: State, address: int) -> tuple[Loaded, int] | None:
    for item in state.objects:
        for load in item.elf.image.loads:
            if item.base + load.vaddr <= address < item.base + load.vaddr + load.memsz:
                return item, load.index
    return None


def near(state: State, fact: Fact, address: int) -> bool:
    """Is an address in glibc's control block of the calling thread: where FS points, or less than a page above?"""
    fs = state.tcb.get(fact.tid, 0)
    return state.flavour == GLIBC and 0 < fs <= address < fs + PAGE


def tid_address(state: State, fact: Fact) -> str:
    """Words for set_tid_address."""
    where = _where(state, fact, fact.args[0])
    return f"where the kernel clears a word and wakes its waiters when this thread ends{where}" if where else ""


def _where(state: State, fact: Fact, address: int) -> str:
    if not fact.ok:
        return ""
    if near(state, fact, address):
        return f": {address - state.tcb[fact.tid]:#x} into the {TCB}"
    inside = _segment_at(state, address)
    return f": in segment {inside[1]} of {inside[0].name}" if inside else ""


def robust_list(state: State, fact: Fact) -> str:
    """Words for set_robust_list."""
    if not fact.ok or not near(state, fact, fact.args[0]):
        return ""
    at = fact.args[0] - state.tcb[fact.tid]
    return f"where the kernel finds the robust futexes to release if this thread dies: {at:#x} into the {TCB}"


def restartable(state: State, fact: Fact) -> str:
    """Words for rseq."""
    if not fact.ok or not near(state, fact, fact.args[0]) or fact.args[2]:
        return ""
    at = fact.args[0] - state.tcb[fact.tid]
    return f"restartable sequences: where the kernel writes the CPU's number, {at:#x} into the {TCB}"


def stack_limit(state: State, fact: Fact) -> str:
    """Words for prlimit64(RLIMIT_STACK), glibc: nptl_init or __pthread_initialize_minimal_internal."""
    asks = fact.ok and fact.args[0] == 0 and fact.args[1] == RLIMIT_STACK and not fact.args[2] and fact.args[3]
    if not asks or not before_main(fact) or state.flavour != GLIBC or fact.object != state.libc:
        return ""
    return "how large may a stack grow? The default size of new threads' stacks"


def own_path(state: State, fact: Fact) -> str:
    """Words for readlink of /proc/self/exe."""
    if fact.strings.get(0) != "/proc/self/exe" or not fact.ok or not by_start(state, fact) or not state.flavour:
        return ""
    return "the executable's own path: its directory is $ORIGIN"
