"""How a process comes and goes: execve, exit of a thread, exit of all."""

from __future__ import annotations

from .callers import functions
from .facts import Fact
from .state import State


def executed(state: State, fact: Fact) -> str:
    """Words for an execve that has succeeded; `state` is already the new program's."""
    executable, interpreter = state.executable, state.interpreter
    if fact.ok and executable is None and interpreter is not None:
        return f"the kernel maps {interpreter.name}, a dynamic linker that was started as a program, stack and vdso"
    if not fact.ok or executable is None:
        return ""
    maps = f"the kernel maps {executable.name} ({len(executable.elf.image.loads)} segments)"
    if interpreter is None:
        if executable.elf.image.interpreter is not None:
            return ""
        return f"{maps}, stack and vdso; it has no PT_INTERP: its own entry is next"
    count = len(interpreter.elf.image.loads)
    return f"{maps}, its interpreter {interpreter.path} ({count} segments), stack, vdso; the interpreter runs first"


def ended(state: State, fact: Fact) -> str:
    """Words for exit_group."""
    code = fact.args[0] & 0xFF
    returned = ["main has returned"] if fact.phase == "exit" else []
    through = ["exit has run handlers and destructors"] if "exit" in functions(state, fact) else []
    why = ", ".join(returned + through)
    return f"ends the process and all its threads with status {code}{f': {why}' if why else ''}"


def thread_ended(state: State, fact: Fact) -> str:
    """Words for exit."""
    return "ends this thread alone" if fact.tid in state.tcb else ""
