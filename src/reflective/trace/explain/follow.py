"""From the state before a call to the state after it."""

from __future__ import annotations

import os

from ...elf.image import PAGE
from . import data, segments
from .facts import Fact
from .files import opened_path, role_of
from .libc import arena, asks_for_buffer, clone_arguments, draws_key
from .objects import Elf, Loaded, elf_at
from .search import reason
from .startup import ARCH_SET_FS, MAP_ANONYMOUS
from .state import ARENA, CACHE, DATA, LIBRARY, RESERVED, SPAN, STACK, TLS, Area, File, Search, State
from .threads import CLONE_SETTLS, is_stack


def follow(state: State, fact: Fact) -> State:
    """The state after a call. It is the same object if nothing that matters has changed."""
    rule = RULES.get(fact.name)
    after = rule(state, fact) if rule is not None else state
    return after.replace(last=None) if after.last is not None and after.last is state.last else after


def _number(value: int) -> int:
    return value & 0xFFFFFFFF


def _open(state: State, fact: Fact) -> State:
    role, path = role_of(state, fact), opened_path(fact)
    if not role:
        words = data.what(state, fact) if fact.ok else ""
        file = File(path, DATA, words) if words else None
        state = _without(state, _number(fact.ret)) if fact.ok else state
        return _changed(state, _number(fact.ret), file) if file else state
    why = reason(state, path, fact.phase == "program") if role == LIBRARY else None
    if why is not None:
        search = Search(why.name, why.place, "" if fact.ok else os.path.dirname(path))
        state = state.replace(search=search)
    if not fact.ok:
        return state
    name = os.path.basename(path)
    file = File(path, role, name, why.by if why else "")
    return state.replace(files={**state.files, _number(fact.ret): file})


def _without(state: State, number: int) -> State:
    if number not in state.files:
        return state
    return state.replace(files={key: file for key, file in state.files.items() if key != number})


def _changed(state: State, number: int, file: File) -> State:
    return state.replace(files={**state.files, number: file})


def _read(state: State, fact: Fact) -> State:
    number = _number(fact.args[0])
    file = state.files.get(number)
    if file is None or not fact.ok or fact.name != "read":
        return state
    return _changed(state, number, file.replace(position=file.position + fact.ret))


def _status(state: State, fact: Fact) -> State:
    number = _number(fact.args[0])
    file, known = state.files.get(number), fact.status
    if known is not None and asks_for_buffer(state, fact):
        return state.replace(buffered=state.buffered | {number})
    if file is None or known is None or fact.strings.get(1):
        return state
    elf = elf_at(fact.links.get(0, ""), known[1]) if file.role == LIBRARY else None
    return _changed(state, number, file.replace(identity=known[1], elf=elf))


def _close(state: State, fact: Fact) -> State:
    number = _number(fact.args[0])
    file = state.files.get(number)
    if file is None or not fact.ok:
        return state
    return _loaded(_without(state, number), file.loaded)


def _loaded(state: State, item: Loaded | None) -> State:
    """A library is complete when its file is closed; so is the program that ld.so was asked to run."""
    if item is not None and state.executable is None:
        return state.replace(executable=item)
    return state if item is None else state.replace(libraries=(*state.libraries, item))


def elf_behind(file: File, fact: Fact, arg: int) -> Elf | None:
    """The ELF file behind a descriptor: what the kernel says its path is, if it is the file that fstat has described."""
    return file.elf or elf_at(fact.links.get(arg, ""), file.identity)


def known_files(state: State, fact: Fact) -> State:
    """Before the call: what its descriptor stands for, now that a path is recorded with it."""
    arg = 4 if fact.name == "mmap" else 0
    number = _number(fact.args[arg])
    file = state.files.get(number)
    if file is None or file.role != LIBRARY or file.elf is not None or arg not in fact.links:
        return state
    return _changed(state, number, file.replace(elf=elf_behind(file, fact, arg)))


def _mmap(state: State, fact: Fact) -> State:
    if not fact.ok:
        return state
    start, end = fact.range
    number = _number(fact.args[4])
    anonymous = bool(fact.args[3] & MAP_ANONYMOUS)
    file = None if anonymous else state.files.get(number)
    before, state = state, _unmapped(state, start, end)
    if file is not None:
        state = _file_mapped(before, fact, number, file).replace(areas=state.areas)
    if file is not None and file.role == CACHE:
        state = state.replace(areas=(*state.areas, Area(start, end, "cache")))
    role = _role(before, fact) if anonymous else ""
    if role:
        state = state.replace(areas=(*state.areas, Area(start, end, role)))
    return state.replace(last=Area(start, end, TLS if anonymous else "file"))


def _role(state: State, fact: Fact) -> str:
    """What an anonymous mapping is for, if that matters later."""
    if is_stack(fact):
        return STACK
    return RESERVED if arena(state, fact) else SPAN if segments.to_align(state, fact) else ""


def _file_mapped(state: State, fact: Fact, number: int, file: File) -> State:
    elf = file.elf
    if file.role != LIBRARY or elf is None:
        return _changed(state, number, file.replace(mapped=True))
    if file.loaded is None:
        whole = segments.first(elf, fact) or segments.first_aligned(state, elf, fact)
        base = fact.ret - elf.span[0] if whole else None
        if base is not None:
            path = fact.links.get(4, file.path)
            loaded = Loaded(file.name, path, elf, base, file.by, os.path.dirname(file.path))
            return _changed(state, number, file.replace(loaded=loaded))
    return state


def _unmapped(state: State, start: int, end: int) -> State:
    """What is left of the areas; a library whose span is gone is unloaded."""
    if any(area.start < end and start < area.end for area in state.areas):
        state = state.replace(areas=tuple(rest for area in state.areas for rest in _left(area, start, end)))
    gone = [item for item in state.libraries if start <= item.range[0] and item.range[1] <= end]
    if gone:
        state = state.replace(libraries=tuple(item for item in state.libraries if item not in gone))
    return state


def _left(area: Area, start: int, end: int) -> list[Area]:
    """What stays of an area."""
    low, high = Area(area.start, min(area.end, start), area.role), Area(max(area.start, end), area.end, area.role)
    return [area] if start >= area.end or end <= area.start else [rest for rest in (low, high) if rest.start < rest.end]


def _munmap(state: State, fact: Fact) -> State:
    if not fact.ok:
        return state
    return _unmapped(state, fact.args[0], (fact.args[0] + fact.args[1] + PAGE - 1) & -PAGE)


def _brk(state: State, fact: Fact) -> State:
    if not fact.ok:
        return state
    start, was = state.heap
    after = state.replace(heap=(start or fact.ret, fact.ret))
    if was and fact.ret > was:
        after = after.replace(last=Area(was, fact.ret, "heap"))
        if fact.ret - was >= 128 << 10:
            after = after.replace(areas=(*after.areas, Area(was, fact.ret, ARENA)))
    return after


def _arch(state: State, fact: Fact) -> State:
    if not fact.ok or fact.args[0] != ARCH_SET_FS:
        return state
    return state.replace(tcb={**state.tcb, fact.tid: fact.args[1]})


def _clone(state: State, fact: Fact) -> State:
    flags, _, _, tls = clone_arguments(fact)
    if not fact.ok or not flags & CLONE_SETTLS or not fact.ret:
        return state
    return state.replace(tcb={**state.tcb, fact.ret: tls})


def started(state: State, fact: Fact, child: int) -> State:
    """A thread is there before its clone has returned; `fact` is that call's entry."""
    flags, _, _, tls = clone_arguments(fact)
    return state.replace(tcb={**state.tcb, child: tls}) if flags & CLONE_SETTLS else state


def _sigreturn(state: State, fact: Fact) -> State:
    return state.replace(entered=True) if state.plan is not None else state


def _random(state: State, fact: Fact) -> State:
    return state.replace(random=True) if draws_key(state, fact) else state


def _duplicated(state: State, fact: Fact) -> State:
    return _without(state, _number(fact.ret)) if fact.ok else state


RULES = {
    "open": _open, "openat": _open, "read": _read, "newfstatat": _status, "fstat": _status, "close": _close, "mmap": _mmap,
    "munmap": _munmap, "brk": _brk, "arch_prctl": _arch, "clone": _clone, "clone3": _clone, "getrandom": _random,
    "dup2": _duplicated, "dup3": _duplicated, "rt_sigreturn": _sigreturn,
}  # fmt: skip
