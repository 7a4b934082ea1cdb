"""Which functions may have something to say about which call; the first that has, speaks."""

from __future__ import annotations

from collections.abc import Callable

from ..decode.base import escape
from . import data, exits, files, libc, loader, segments, startup, threads
from .facts import Fact
from .state import State

Rule = Callable[[State, Fact], str]
Waiting = Callable[[State, Fact, Fact | None], str]

WITH_NEXT: dict[str, Waiting] = {"mmap": startup.anonymous, "brk": startup.heap}
RULES: dict[str, tuple[Rule, ...]] = {
    "execve": (exits.executed,),
    "access": (files.accessed,), "faccessat": (files.accessed,), "faccessat2": (files.accessed,),
    "open": (files.opened, data.opened), "openat": (files.opened, data.opened), "read": (files.got,), "pread64": (files.got,),
    "fstat": (files.status, data.status, libc.file_status), "newfstatat": (files.status, data.status, libc.file_status),
    "fcntl": (files.on_exec,), "close": (files.closed, data.closed),
    "mmap": (segments.mapped, files.mapped, data.mapped, startup.guard, threads.mapped, libc.arena, libc.large),
    "mprotect": (segments.protected, threads.protected, libc.arena_used), "munmap": (segments.unmapped, libc.arena_trimmed),
    "arch_prctl": (startup.thread_pointer,), "set_tid_address": (startup.tid_address,),
    "set_robust_list": (startup.robust_list,), "rseq": (startup.restartable,), "prlimit64": (startup.stack_limit,),
    "readlink": (startup.own_path,), "getrandom": (libc.random,), "brk": (libc.heap,), "ioctl": (libc.control,),
    "write": (libc.written,), "writev": (libc.written,), "clone": (threads.started,), "clone3": (threads.started,),
    "madvise": (threads.given_back,), "exit": (exits.thread_ended,), "exit_group": (exits.ended,),
}  # fmt: skip


def explain(state: State, fact: Fact, after: Fact | None = None) -> str:
    """One sentence about a call, "" if nothing is known of it. `state` is that before it, `after` the next call."""
    if state.plan is not None:
        return _plain(loader.explain(state, fact))
    for rule in RULES.get(fact.name, ()):
        words = rule(state, fact)
        if words:
            return _plain(words)
    waiting = WITH_NEXT.get(fact.name)
    return _plain(waiting(state, fact, after)) if waiting is not None else ""


def _plain(words: str) -> str:
    """On one line, whatever a file is called."""
    return words if words.isprintable() else escape(words.encode(errors="surrogateescape"))
