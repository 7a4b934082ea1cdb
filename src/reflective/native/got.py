"""A session that watches the dynamic linker bind, in the C core (csrc/got): binds come in batches, questions are answered.

A question (record ASK) is the last record of its batch, and the task that asks stays stopped until `answer`.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Mapping, Sequence

from ..values import Value
from . import tracer
from ._core import ffi, lib

# csrc/tracer/tracer.h: enum event_kind; csrc/got/got.h: enum ask, op, kind, step
BIND, ASK, REFUSED = 15, 16, 17
ASK_EXEC, ASK_ATTACHED, ASK_BREAK, ASK_MAP, ASK_EXIT, ASK_WRITTEN = 1, 2, 3, 4, 5, 6
OP_BREAK, OP_TABLE, OP_FORGET, OP_GUARD = 1, 2, 3, 4
EVERY, ONCE, ENTRY, JUMP = 0, 1, 2, 3
SKIP, PUSH, SET, JUMP_TO, RETURN = 0, 1, 2, 3, 4
GUARDS = 4  # debug registers
LONGEST = 16  # bytes of a displaced instruction
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


class Step(Value):
    """What a displaced instruction does: `kind` is SKIP, PUSH…, `code` its bytes."""

    kind: int
    code: bytes
    reg: int = 0
    value: int = 0


class Break(Value):
    """A breakpoint to be set, where there is the instruction of `step`: `kind` is EVERY, ONCE, ENTRY or JUMP."""

    address: int
    kind: int
    step: Step


class Table(Value):
    """Where the slots of an object are, by relocation index; none: forget it."""

    link_map: int
    slots: tuple[int, ...] | None


class Guard(Value):
    """A debug register on a slot, in every task: each write to it is a question. There are four."""

    address: int


Change = Break | Table | Guard


class Session(tracer.Session):
    """A session's thread. It ends when no traced task is left, or soon after `stop`."""

    gather_ms = 2  # bindings come in bursts of a few ms: what is left to be formatted at the program's end delays it

    def __init__(self, tids: Sequence[int], gate: int = -1, pin: bool = True) -> None:
        options = ffi.new("struct refl_trace_options *")
        numbers = ffi.from_buffer("char[]", struct.pack(f"<{len(tids)}i", *tids))
        options.tids, options.tid_count = ffi.cast("int32_t *", numbers), len(tids)
        options.gate, options.leader, options.needed = gate, tids[0], 1
        self._cpus = os.sched_getaffinity(0)
        if pin:  # this thread formats on the others
            cpu = max(self._cpus)
            options.pin = cpu + 1
            os.sched_setaffinity(0, self._cpus - {cpu} or self._cpus)
        self._handle = lib.refl_got_start(options)
        if self._handle == ffi.NULL:
            raise MemoryError("no thread for the session")

    def answer(self, changes: Sequence[Change]) -> None:
        """Lets the task that asked go on, when the changes have been made."""
        rows = ffi.new("struct refl_got_change[]", max(len(changes), 1))
        alive = [_fill(row, change) for row, change in zip(rows, changes, strict=False)]
        lib.refl_got_answer(self._handle, rows, len(changes))
        del alive


def _fill(row: object, change: Change) -> object:
    """Writes a change into the C struct; what it points to."""
    if isinstance(change, Break):
        _set(row, op=OP_BREAK, kind=change.kind, step=change.step.kind, reg=change.step.reg, length=len(change.step.code))
        _set(row, bytes=list(change.step.code.ljust(LONGEST, b"\0")), address=change.address, value=change.step.value)
        return None
    if isinstance(change, Guard):
        _set(row, op=OP_GUARD, address=change.address)
        return None
    slots = ffi.from_buffer("char[]", struct.pack(f"<{len(change.slots or ())}Q", *(change.slots or ())))
    _set(row, op=OP_FORGET if change.slots is None else OP_TABLE, address=change.link_map)
    _set(row, slots=ffi.cast("uint64_t *", slots), count=len(change.slots or ()))
    return slots


def _set(row: object, **fields: object) -> None:
    for name, value in fields.items():
        setattr(row, name, value)


def gated(
    path: str, words: Sequence[str], environ: Mapping[bytes, bytes], fixed: bool = False, refused: str = ""
) -> tuple[int, int]:
    """A child that becomes the program when a byte is written to the gate: its pid, and the gate's descriptor.

    `fixed`: without address randomization; `refused`: what to say if the kernel won't have it either.
    """
    reader, gate = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(reader)
        return pid, gate
    try:
        for number in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        if fixed:
            lib.refl_set_personality(lib.refl_personality() | ADDR_NO_RANDOMIZE)
        if os.read(reader, 1):  # or else the tracer is gone
            os.execve(path, list(words), environ)
    except OSError as error:
        os.write(2, f"reflective: {refused or f'{words[0]}: {error.strerror}'}\n".encode(errors="replace"))
    finally:
        os._exit(126)
