"""A ptrace session in the C core (csrc/tracer): records come in batches of bytes, while its thread goes on tracing."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

from ..values import Value
from ._core import ffi, lib

# csrc/tracer/tracer.h: struct record, struct payload, enum event_kind
HEAD = struct.Struct("<IIQQ")  # size, kind, entered, left; what follows is equal for equal calls
BODY = struct.Struct("<IIIIQq6Q")  # pid, tid, number, flags, ip, ret, args
PAYLOAD = struct.Struct("<BBBBIQ")  # arg, when, kind, flags, length, address
(
    SYSCALL, ENTER, LEAVE, EXITING, SIGNAL, STOPPED, EXITED, KILLED, TASK, CLONE, EXEC, MAPS, MARK, DETACHED,
) = range(1, 15)  # fmt: skip
ERROR, FOREIGN, TOLD, LAST, WAITING = 1, 2, 4, 8, 16  # enum record_flag
FAULT, NUL, CUT = 1, 2, 4  # enum payload_flag
STRING, BYTES, VECTOR, COUNT, IOVEC, FD, STACK, FRAMES, MESSAGE, MESSAGES, BEHIND, FDS, REGISTERS = range(
    1, 14
)  # enum copy_kind
BY_RESULT, BY_ONE, BY_WORD = 6, 7, 8
ON_ENTRY, ON_RETURN = 1, 2
UNHIDDEN, UNTIL_EXECVE, UNTIL_ANONYMOUS = 0, 1, 2
ROWS = 16  # copies a system call

ENOUGH, PATIENCE_MS = 1 << 18, 20
QUIET_MS = 100  # a call that takes so long, while nothing else happens, is told before it returns
Copy = tuple[int, int, int, int, int]  # when, kind, argument, count, size: struct refl_copy


class Request(Value):
    """What to trace, and what to record of it."""

    tids: tuple[int, ...]
    leader: int
    copies: dict[int, tuple[Copy, ...]]
    wanted: frozenset[int] | None = None  # numbers; None: every call
    numbers: int = 512
    string_limit: int = 32
    gate: int = -1  # the write end of a pipe at which tids[0], our child, waits
    follow: bool = False
    pin: bool = True
    phases: bool = True
    until: int = UNHIDDEN
    waiting: bool = False  # tell of a call in which a task waits while nothing else happens
    needed: int = 1  # so many of `tids` must be attached to, or there is no session; the others may have ended


class Session:
    """A session's thread. It ends when no traced task is left, or soon after `stop`."""

    gather_ms = PATIENCE_MS  # how long records are gathered, once they have begun to come
    _waiting = False

    def __init__(self, request: Request) -> None:
        rows = [(request.copies.get(number, ()) + ((0,) * 5,) * ROWS)[:ROWS] for number in range(request.numbers)]
        copies = b"".join(struct.pack("<BBBBI", *copy) for row in rows for copy in row)
        wanted = request.wanted
        flags = bytes(wanted is None or number in wanted for number in range(request.numbers + 1))
        tids = struct.pack(f"<{len(request.tids)}i", *request.tids)
        options = ffi.new("struct refl_trace_options *")
        alive = (ffi.from_buffer("char[]", copies), ffi.from_buffer("uint8_t[]", flags), ffi.from_buffer("char[]", tids))
        options.copies, options.wanted = ffi.cast("struct refl_copy *", alive[0]), alive[1]
        options.tids, options.tid_count = ffi.cast("int32_t *", alive[2]), len(request.tids)
        options.needed = request.needed
        options.numbers, options.string_limit = request.numbers, request.string_limit
        options.gate, options.leader, options.until = request.gate, request.leader, request.until
        options.follow, options.phases = request.follow, request.phases
        self._waiting = request.waiting
        self._cpus = os.sched_getaffinity(0)
        if request.pin:  # this thread formats on the others
            cpu = max(self._cpus)
            options.pin = cpu + 1
            os.sched_setaffinity(0, self._cpus - {cpu} or self._cpus)
        self._handle = lib.refl_trace_start(options)
        if self._handle == ffi.NULL:
            raise MemoryError("no thread for the trace session")

    def batches(self, interrupted: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Records as they come, up to the end; when `interrupted` says so the session detaches from all tasks."""
        data, got, quiet = ffi.new("uint8_t **"), 0, 0
        while True:
            got = lib.refl_trace_take(self._handle, data, ENOUGH, self.gather_ms if got else PATIENCE_MS)
            if got < 0:
                return
            quiet = 0 if got else quiet + PATIENCE_MS
            if got:
                yield bytes(ffi.buffer(data[0], got))
            elif quiet == QUIET_MS and self._waiting:
                lib.refl_trace_quiet(self._handle)
            if interrupted():
                self.stop()

    def stop(self) -> None:
        """Asks to detach; repeated by `batches`, as the first request may come just before a wait."""
        lib.refl_trace_stop(self._handle)

    def finish(self) -> int | None:
        """Waits for the end; the leader's wait status, None if it lives. OSError, `filename` the task that refused."""
        error, refused = ffi.new("int32_t *"), ffi.new("int32_t *")
        status = int(lib.refl_trace_finish(self._handle, error, refused))
        os.sched_setaffinity(0, self._cpus)
        if error[0]:
            raise OSError(error[0], os.strerror(error[0]), refused[0])
        return None if status < 0 else status


def execve(path: str, argv: tuple[bytes, ...], envp: tuple[bytes, ...]) -> None:
    """execve with an environment of any strings: os.execve wants names and values. Raises OSError."""
    items = [[ffi.new("char[]", string) for string in strings] for strings in (argv, envp)]
    vectors = [ffi.new("char *[]", [*strings, ffi.NULL]) for strings in items]
    number = lib.refl_execve(os.fsencode(path), *vectors)
    raise OSError(number, os.strerror(number))


def records(batch: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, times of entry and return, and the rest of each record."""
    at, end, unpack = 0, len(batch), HEAD.unpack_from
    while at < end:
        size, kind, entered, left = unpack(batch, at)
        yield kind, entered, left, batch[at + 24 : at + size]
        at += size


def payloads(body: bytes) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Argument, when, kind, flags, address and contents of what was copied."""
    at = BODY.size
    while at < len(body):
        arg, when, kind, flags, length, address = PAYLOAD.unpack_from(body, at)
        at += PAYLOAD.size
        yield arg, when, kind, flags, address, body[at : at + length]
        at += (length + 7) & ~7
