"""A template process, and its clones: what the C core is given (csrc/template, csrc/host/template.c), and what comes back."""

from __future__ import annotations

import errno
import os
import time
from struct import Struct

from ..values import Value
from ._core import ffi, lib
from .prepare import Degradation
from .run import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import socket
    from typing import Any

# csrc/template/template.h
SLOT, DESCRIPTORS = 32768, 47
FACTS = Struct("<6Q")
SLOTS = 32  # starts that can be under way
PATIENCE_S = 5.0  # until a clone has read its slot


class Gone(Exception):
    """The template can't be made, or lives no more."""


class Stale(Exception):
    """The template is not what would be started now: a file has changed, or something of this process."""


class Files(Value):
    """Paths, each with its NUL, and what stat said of them (`stamps`)."""

    paths: bytes
    stamps: bytes


class Start(Value):
    """One start: what differs between two. `descriptors` are (ours, the program's), ascending by the second; `to_default` and
    `to_ignore` have bit signal - 1 for each signal; `umask` and `directory` (a descriptor) -1 are this process's."""

    strings: bytes
    argc: int
    envc: int
    descriptors: tuple[tuple[int, int], ...]
    to_default: int = 0
    to_ignore: int = 0
    umask: int = -1
    new_session: bool = False
    directory: int = -1


class Made(Value):
    """What was settled when a template was made."""

    degraded: tuple[Degradation, ...]
    birth: Any  # struct refl_birth
    platform_size: int
    mm: bytes  # struct prctl_mm_map; strings, stack and heap are each start's own
    brk: int  # where the heap is in the template
    brk_low: int  # a start's is on one of brk_pages pages from here on; 0 pages: at brk
    brk_pages: int


class Process:
    """One template process, a child of this one. Its methods are for one thread at a time."""

    def __init__(self, pid: int, sock: socket.socket, shared: mmap.mmap, made: Made) -> None:
        """Waits until it is ready. Raises Gone if it ends instead, or can't be used."""
        self.pid, self.made = pid, made
        self._socket, self._shared = sock, shared
        self._memory = ffi.from_buffer("uint8_t[]", shared)
        self._held: set[int] = set()
        self._next = 0
        lib.refl_template_born(self._memory, ffi.cast("struct refl_birth *", made.birth))
        try:
            self.answer()
            random, self._path, heap, spoke, complete, _ = FACTS.unpack_from(shared)
            if spoke or not complete:
                raise Gone("its dynamic linker wrote something" if spoke else "its dynamic linker is not as expected")
        except BaseException:
            self.end()
            raise
        self._low = random + 16 + made.platform_size
        self._brk_pages = made.brk_pages if heap == made.brk else 0

    def fits(self, size: int) -> bool:
        """Whether there is room for strings of so many bytes."""
        return bool(self._path - size >= self._low)

    def clone(self, start: Start, files: Files) -> int:
        """The pid of a clone that becomes the program. Raises Gone; Stale; OSError."""
        request, _alive = self._request(start, files, self._slot())
        request.sock = self._socket.fileno()
        return self._answer(lib.refl_template_clone(request))

    def order(self, sock: socket.socket) -> int:
        """Asks for a clone that waits at the other end of a socket; its pid will be the next answer. Returns its slot."""
        slot = self._slot()
        self._answer(lib.refl_template_order(self._memory, slot, self._socket.fileno(), sock.fileno()))
        self._held.add(slot)
        return slot

    def answer(self, slot: int | None = None) -> int:
        """The next answer: the pid of the clone that was ordered for a slot. Raises Gone, OSError."""
        result = lib.refl_template_answer(self._socket.fileno())
        if result == -errno.EPIPE and slot is not None:
            result = lib.refl_template_pid(self._memory, slot) or result
        return self._answer(result)

    def go(self, start: Start, files: Files, slot: int, sock: socket.socket) -> int:
        """Lets a waiting clone become the program; its pid. Raises Gone; Stale, and then it has ended; OSError."""
        request, _alive = self._request(start, files, slot)
        request.sock, request.waiting = sock.fileno(), 1
        self._held.discard(slot)
        return self._answer(lib.refl_template_clone(request))

    def prefault(self, pages: list[int]) -> None:
        """Names the pages that waiting clones make their own ahead."""
        lib.refl_template_pages(self._memory, ffi.new("uint64_t[]", pages), len(pages))

    def end(self) -> None:
        """Kills and reaps it."""
        self.forget()
        reap(self.pid, kill=True)

    def forget(self) -> None:
        """Releases what this process has of it: all there is to do in a child made by fork."""
        self._socket.close()
        ffi.release(self._memory)
        self._shared.close()

    def _slot(self) -> int:
        """A slot that no clone reads any more. Raises Gone if none becomes free: clones were killed before they had begun."""
        deadline = 0.0
        while not deadline or time.monotonic() < deadline:
            for _ in range(SLOTS):
                slot, self._next = self._next, (self._next + 1) % SLOTS
                if slot not in self._held and not lib.refl_template_busy(self._memory, slot):
                    return slot
            deadline = deadline or time.monotonic() + PATIENCE_S
            time.sleep(0.0005)
        raise Gone("every slot is in use")

    def _answer(self, result: int) -> int:
        if result in (-errno.EPIPE, -errno.ECONNRESET, -errno.ECONNREFUSED):
            raise Gone("killed, or ended")
        if result == -errno.ESTALE:
            raise Stale
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _request(self, start: Start, files: Files, slot: int) -> tuple[Any, list[object]]:
        made, count = self.made, len(start.descriptors)
        strings, mm = ffi.from_buffer("char[]", start.strings), ffi.from_buffer("uint8_t[]", made.mm)
        paths, known = ffi.from_buffer("char[]", files.paths), ffi.from_buffer("uint64_t[]", files.stamps)
        fds = ffi.new("int32_t[]", [source for source, _ in start.descriptors])
        targets = ffi.new("int32_t[]", [target for _, target in start.descriptors])
        request = ffi.new("struct refl_clone *")
        request.shared, request.slot = self._memory, slot
        request.strings, request.strings_size, request.strings_low = strings, len(start.strings), self._low
        request.argc, request.envc = start.argc, start.envc
        request.mm, request.brk_low, request.brk_pages = mm, made.brk_low, self._brk_pages
        request.fds, request.targets, request.fd_count = fds, targets, count
        request.to_default, request.to_ignore = start.to_default, start.to_ignore
        request.umask, request.new_session = start.umask, start.new_session
        request.born = ffi.cast("struct refl_birth *", made.birth)
        request.paths, request.paths_size, request.stamps = paths, len(files.paths), known
        request.directory = start.directory
        return request, [strings, mm, paths, known, fds, targets]


def reap(pid: int, *, kill: bool = False) -> None:
    """Waits for a child that ends, or is to be killed. Somebody else may have reaped it: its number may be another's."""
    try:
        if kill and os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
        elif not kill:
            os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def birth() -> Any:
    """What a template will have of this process, if it is made now: struct refl_birth. Raises OSError if it can't be told."""
    raw = ffi.new("uint8_t[]", lib.refl_birth_size())
    error = lib.refl_birth(ffi.cast("struct refl_birth *", raw))
    if error:
        raise OSError(-error, os.strerror(-error))
    return raw


def inheritable() -> list[int]:
    """This process's descriptors that are not close-on-exec, ascending. Raises OSError: EMFILE, more than DESCRIPTORS."""
    fds = ffi.new("int32_t[]", DESCRIPTORS)
    count = lib.refl_inheritable(fds, DESCRIPTORS)
    if count < 0:
        raise OSError(-count, os.strerror(-count))
    return list(fds[0:count])


def stamps(paths: bytes) -> bytes:
    """What stat says of each of the paths, which all end in NUL: 48 bytes, zero for what is not there."""
    strings = ffi.from_buffer("char[]", paths)
    out = ffi.new("uint64_t[]", 6 * lib.refl_stamps(strings, len(paths), ffi.NULL))
    lib.refl_stamps(strings, len(paths), out)
    return bytes(ffi.buffer(out))
