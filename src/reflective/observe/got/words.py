"""How an object's calls to others are bound, in words: what there is to be seen, and why there may be nothing."""

from __future__ import annotations

from ...elf.image import ET_EXEC, PAGE
from ...elf.relocations import GLOB_DAT, IRELATIVE, JUMP_SLOT, Slots
from ...values import Value

LAZY, NOW, NONE, STATIC, STATIC_PIE, EAGER, LINKER = "lazy", "now", "none", "static", "static-pie", "eager", "linker"
NOT_LINKER = "it was written by something that is not the dynamic linker"
UNSEEN = "no instruction has written it: the kernel has, for the program (read(2) would), or another process"
UNREADABLE = "the program is none for x86-64, or can't be read: its slots are not watched"


class Linking(Value):
    """What a process has for a dynamic linker ("" if none), and what that has been told: `now`, LD_BIND_NOW.

    `unbound` is how many slots of an object are left to be bound, None if it has not been relocated yet.
    """

    linker: str
    musl: bool
    now: bool
    unbound: int | None = None
    attached: bool = False  # it has been running for a while


def lazy(slots: Slots, how: Linking) -> int:
    """How many slots are bound when they are first used."""
    if how.unbound is not None:
        return how.unbound
    eager = slots.bind_now or how.now or how.musl or not how.linker
    return 0 if eager else sum(one.type == JUMP_SLOT for one in slots.slots)


def weak(slots: Slots) -> int:
    """How many symbols may stay undefined."""
    return sum(one.weak for one in slots.slots)


def relro(slots: Slots) -> str:
    """none, partial, or full: all slots become read-only after relocation."""
    if slots.relro is None:
        return "none"
    start, end = slots.relro[0] & -PAGE, slots.relro[0] + slots.relro[1] & -PAGE
    outside = any(not start <= one.offset < end for one in slots.slots if one.type in (JUMP_SLOT, GLOB_DAT))
    return "partial" if outside else "full"


def binding(slots: Slots, how: Linking) -> tuple[str, str]:
    """One word, and what that means for what can be seen."""
    counts = {kind: sum(one.type == kind for one in slots.slots) for kind in (JUMP_SLOT, GLOB_DAT, IRELATIVE)}
    plt, got, ifuncs = counts.values()
    go = any(one.name in (".go.buildinfo", ".gopclntab") for one in slots.sections)
    if slots.path == how.linker and not how.musl:
        return LINKER, "the dynamic linker: it has bound its own slots before it looks at any other"
    if slots.path == how.linker:
        return LINKER, "musl's C library, which is the dynamic linker too"
    if not how.linker:
        return _static(slots, ifuncs, go)
    kept = " (prelinked: the file has the values of an earlier start)" if slots.prelinked else ""
    if go:
        kept += "; Go code calls no C library but through cgo"
    if plt and how.musl:
        return EAGER, f"musl's linker knows no lazy binding: all {plt} PLT slots are bound when the object is loaded{kept}"
    if plt and slots.bind_now:
        return NOW, f"linked with -z now: all {plt} PLT slots are bound when the object is loaded{kept}"
    if plt and how.now:
        return NOW, f"LD_BIND_NOW is set: all {plt} PLT slots are bound when the object is loaded{kept}"
    if plt and how.attached:
        return LAZY, f"{plt} PLT slots, {how.unbound} of them not bound by now{kept}"
    if plt and how.unbound == 0:
        return NOW, f"loaded with RTLD_NOW: all {plt} PLT slots were bound at once{kept}"
    if plt:
        return LAZY, f"{plt} PLT slots, each bound by its first call{kept}"
    if got:
        return NONE, f"no PLT slots (-fno-plt, or no calls): {got} GLOB_DAT slots, bound when the object is loaded{kept}"
    return NONE, f"nothing to bind: it refers to no other object{kept}"


def _static(slots: Slots, ifuncs: int, go: bool) -> tuple[str, str]:
    kind = STATIC if slots.type == ET_EXEC else STATIC_PIE
    name = "static" if kind == STATIC else "static-PIE"
    if go:
        return kind, f"{name}, made by Go: no dynamic linker, no slots"
    if ifuncs:
        return kind, f"{name}: no dynamic linker, no symbols; its own start-up code fills {ifuncs} IRELATIVE slots (IFUNC)"
    return kind, f"{name}: no dynamic linker, and nothing to bind"


def refused(address: int, guard: bool) -> str:
    """Why there is no breakpoint, or no guard, at an address."""
    if guard:
        return f"no debug register is left for the slot at {address:#x}: who writes it is not seen"
    return f"no breakpoint could be set at {address:#x}: what was there has changed"
