"""The ways of starting a program that are compared. All are called from Python alike, with the same words and environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import reflective

Start: TypeAlias = Callable[[], int]  # returns the pid of a child that is to be waited for
POOL = 8
REFERENCE = "posix_spawn"
# Ways that are measured in one run, in turn. Every fork makes the parent's pages copy-on-write and slows it afterwards: ways
# that may fork have runs of their own. Each run has the reference in it, and ratios are to the one of the same run.
RUNS = ((REFERENCE, "vfork", "template", "pool", "ulexecve"), (REFERENCE, "cold"), (REFERENCE, "fork"))
WAYS = tuple(dict.fromkeys(way for run in RUNS for way in run))
MEANING = {
    "posix_spawn": "os.posix_spawn: glibc's, CLONE_VM | CLONE_VFORK and execve",
    "vfork": "vfork and execve, as subprocess does it (_posixsubprocess.fork_exec)",
    "fork": "os.fork and os.execve",
    "cold": "reflective.spawn",
    "template": "reflective.Template.spawn",
    "pool": f"reflective.Template with {POOL} clones made ahead",
    "ulexecve": "the command ulexecve, started by posix_spawn",
}


def missing(way: str) -> str:
    """Why a way can't be measured here, "" if it can."""
    if way in ("template", "pool") and not hasattr(reflective, "Template"):
        return "this reflective has no Template"
    if way == "ulexecve" and not shutil.which("ulexecve"):
        return "ulexecve is not installed: pip install ulexecve"
    return ""


def start(way: str, words: Sequence[str], ends: contextlib.ExitStack) -> Start:
    """A function that starts the program so; what it needs lasts until `ends` is closed."""
    program, argv, env = words[0], list(words), dict(os.environ)
    if way == "vfork":
        return _vfork(program, argv, env, ends)
    if way in ("template", "pool"):
        return _template(program, argv, env, ends, POOL if way == "pool" else 0)
    if way == "ulexecve":
        command = shutil.which(way) or way
        return lambda: os.posix_spawn(command, [command, *argv], env)
    act: Any = {"posix_spawn": os.posix_spawn, "cold": reflective.spawn, "fork": _fork}[way]
    return lambda: act(program, argv, env)


def _vfork(program: str, argv: list[str], env: Mapping[str, str], ends: contextlib.ExitStack) -> Start:
    paths = (os.fsencode(program),)
    reader, writer = os.pipe()  # by which a failure would be told
    ends.callback(os.close, reader)
    ends.callback(os.close, writer)
    fork_exec: Any = subprocess._fork_exec  # type: ignore[attr-defined]
    streams = (-1,) * 6

    def act() -> int:
        strings = [os.fsencode(f"{name}={value}") for name, value in env.items()]
        identity = (False, False, -1, None, None, None, -1)
        pid: int = fork_exec(argv, paths, False, (), None, strings, *streams, reader, writer, *identity, None, True)
        return pid

    return act


def _fork(program: str, argv: list[str], env: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.execve(program, argv, env)
        finally:
            os._exit(127)
    return pid


def _template(program: str, argv: list[str], env: Mapping[str, str], ends: contextlib.ExitStack, pool: int) -> Start:
    make: Any = reflective.Template  # type: ignore[attr-defined,unused-ignore]
    template = ends.enter_context(make(program, pool=pool))
    return lambda: int(template.spawn(argv, env))
