"""reflective's own loader at work: each call is a step of the plan."""

from __future__ import annotations

import os
from collections.abc import Callable

from ...elf.image import PAGE, ElfImage
from ...plan import reset
from ...plan.steps import prot_of, prot_text
from .facts import Fact
from .state import State

MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE = 0x20, 0x100, 0x4000
PR_SET_NAME, PR_SET_MM, PR_SET_VMA = 15, 35, 0x53564D41
F_GETFD = 1


def explain(state: State, fact: Fact) -> str:
    """Words for a call of the loader."""
    rule = RULES.get(fact.name)
    return rule(state, fact) if rule else _reset(fact)


def _reset(fact: Fact) -> str:
    """What execve resets in the task: the plan's own reason."""
    found = ""
    for call in (*reset.IN_PLACE, *reset.TASK, *reset.SEGMENT_BASES):
        if call.name == fact.name and all(isinstance(b, str) or a == b for a, b in zip(fact.args, call.args, strict=False)):
            found = f"what execve resets: {call.why}"
            break
    return found


def _images(state: State) -> list[tuple[str, ElfImage]]:
    plan = state.plan
    if plan is None:
        return []
    both = [(f"the executable, {plan.path}", plan.executable)]
    return both + ([(f"the interpreter, {plan.interpreter.path}", plan.interpreter)] if plan.interpreter else [])


def _mmap(state: State, fact: Fact) -> str:
    size, prot, flags = fact.args[1:4]
    if not fact.ok:
        return ""
    if not flags & MAP_ANONYMOUS:
        return _segment(state, fact)
    if flags & MAP_GROWSDOWN:
        return "the stack: it grows down by itself, to RLIMIT_STACK"
    if flags & MAP_NORESERVE and not prot:
        return "covers the top of the mmap area: the kernel then puts libraries below a random address of ours"
    for words, image in _images(state):
        for load in image.loads:
            rest = _up(load.vaddr + load.memsz) - _up(load.vaddr + load.filesz)
            if rest and size == rest and prot == prot_of(load.flags):
                return f".bss of {words}: segment {load.index} is larger in memory than in the file"
    return ""


def _up(value: int) -> int:
    return (value + PAGE - 1) & -PAGE


def _segment(state: State, fact: Fact) -> str:
    _, size, prot, _, _, offset = fact.args
    link = fact.links.get(4, "")
    for words, image in _images(state):
        if not _same(image, link):
            continue
        for load in image.loads:
            start, end = load.vaddr & -PAGE, _up(load.vaddr + load.filesz)
            if (size, prot, offset) == (end - start, prot_of(load.flags), load.offset & -PAGE):
                return f"maps segment {load.index} of {words} ({prot_text(prot)}) at +{start:#x}"
    return ""


def _same(image: ElfImage, path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (image.identity.device, image.identity.inode)


def _prctl(state: State, fact: Fact) -> str:
    known = {
        PR_SET_MM: "tells the kernel where code, data, heap, stack, arguments and environment are, and which file this is",
        PR_SET_NAME: "the task's name: the base name of the program",
        PR_SET_VMA: "names the cover in /proc/PID/maps",
    }
    return known.get(fact.args[0]) or _reset(fact)


def _signals(state: State, fact: Fact) -> str:
    if not fact.args[1]:
        return "execve removes handlers: is there one?"
    return "the default action, as by execve: the handler's code is about to go"


def _descriptors(state: State, fact: Fact) -> str:
    if fact.name == "fcntl":
        return "is the descriptor close-on-exec?" if fact.args[1] == F_GETFD else ""
    if fact.name == "close":
        return _closed(state, fact)
    return "which descriptors are open?"


def _closed(state: State, fact: Fact) -> str:
    link = fact.links.get(0, "")
    if not fact.ok or not link:
        return ""
    for words, image in _images(state):
        if _same(image, link):
            return f"closes {words}: its segments stay mapped"
    return "all descriptors have been looked at" if link.endswith("/fd") else "closes what is close-on-exec, as execve does"


def _unmap(state: State, fact: Fact) -> str:
    if state.entered:
        return "unmaps the loader's own memory: nothing of it is left, the program's first instruction is next"
    return "unmaps what is old: all but the loader's own memory and the vdso"


RULES: dict[str, Callable[[State, Fact], str]] = {
    "mmap": _mmap, "prctl": _prctl, "rt_sigaction": _signals, "fcntl": _descriptors, "close": _descriptors,
    "getdents64": _descriptors, "open": _descriptors, "munmap": _unmap,
    "mremap": lambda state, fact: "moves the vdso and its data to where the kernel would have put them",
    "rt_sigreturn": lambda state, fact: "enters the program: registers, signal mask and FPU as execve leaves them",
}  # fmt: skip
