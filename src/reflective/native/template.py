"""A template process, and its clones: what the C core is given (csrc/template, csrc/host/template.c), and what comes back."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from _thread import get_ident
from struct import Struct

from ..values import Value
from ._core import ffi, lib
from .faults import Faults
from .kept import Threads
from .prepare import Degradation
from .run import SIGKILL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import socket
    from typing import Any, TypeAlias

# csrc/template/template.h
SLOT, DESCRIPTORS = 32768, 47
FACTS = Struct("<6Q")
SLOTS = 32  # starts that can be under way
PATIENCE_S = 5.0  # until a clone has read its slot


class Gone(Exception):
    """The template can't be made, or lives no more."""


class Stale(Exception):
    """The template is not what would be started now: a file has changed, or something of this process."""


class Refused(Exception):
    """The template can't serve this start: the ordinary way can, or tells why not."""


class Files(Value):
    """Paths, each with its NUL, and what stat said of them (`stamps`)."""

    paths: bytes
    stamps: bytes

    @property
    def relative(self) -> bool:
        """Whether one of them depends on the directory that this process is in."""
        return any(path[:1] != b"/" for path in self.paths.split(b"\0")[:-1])


Pairs: TypeAlias = "tuple[tuple[int, int], ...] | None"  # descriptors: (ours, the program's), ascending by the second


class Attributes(Value):
    """What a start has of its own, unlike its parent. Signals: bit signal - 1. -1: the parent's."""

    to_default: int = 0
    to_ignore: int = 0
    umask: int = -1
    new_session: bool = False


PLAIN = Attributes()


class Start:
    """One start. `strings` are the arguments and the environment, each with its NUL.

    `descriptors` None are all that are not close-on-exec; `directory` is a descriptor, -1: where this process is.
    """

    __slots__ = ("argc", "attributes", "descriptors", "directory", "envc", "strings")

    def __init__(self, descriptors: Pairs, directory: int, attributes: Attributes) -> None:
        self.descriptors, self.directory, self.attributes = descriptors, directory, attributes
        self.strings, self.argc, self.envc = b"", 0, 0


class Made(Value):
    """What was settled when a template was made."""

    degraded: tuple[Degradation, ...]
    birth: Any  # struct refl_birth
    platform_size: int
    mm: bytes  # struct prctl_mm_map; strings, stack and heap are each start's own
    stack_top: int  # the template's own memory lies above
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
        self._constant: _Constant = None  # type: ignore[assignment]
        self._next = 0
        try:
            self._answer(lib.refl_template_hear(sock.fileno()))
            random, self._path, heap, spoke, complete, _ = FACTS.unpack_from(shared)
            if spoke or not complete:
                raise Gone("its dynamic linker wrote something" if spoke else "its dynamic linker is not as expected")
        except BaseException:
            self.end()
            raise
        self._low = random + 16 + made.platform_size
        self._constant = _Constant(self._memory, made, self._low, made.brk_pages if heap == made.brk else 0)

    def fits(self, size: int) -> bool:
        """Whether there is room for strings of so many bytes."""
        return bool(self._path - size >= self._low)

    def depend_on(self, files: Files) -> None:
        """What must be the same at each start."""
        self._constant.depend_on(files)

    def start(self, what: Start, waiting: tuple[int, int] | None = None) -> int:
        """The pid of the clone that becomes the program: a new one, or one that waits (its slot, its socket).

        Raises Gone: the template is, or the waiting clone; Stale: the clone has ended; Refused: nothing has happened.
        """
        request = self._constant.struct
        request.slot, request.sock = waiting or (self._slot(), self._socket.fileno())
        request.waits = waiting is not None
        self._constant.set(what)
        return self._answer(lib.refl_template_start(request))

    def start_looked_at(self, what: Start) -> tuple[int, Faults]:
        """The same for a new clone, and its page faults from then on."""
        faults = Faults()
        self._constant.struct.faults = faults.struct
        try:
            return self.start(what), faults
        except BaseException:
            faults.close()
            raise
        finally:
            self._constant.struct.faults = ffi.NULL

    def order(self) -> tuple[int, int]:
        """Asks for a clone that waits. Returns its slot, and our end of its socket."""
        slot = self._slot()
        return slot, self._answer(lib.refl_template_order(self._memory, slot, self._socket.fileno()))

    def ordered(self, slot: int) -> int:
        """The pid of the clone that was ordered for a slot, as soon as there is one. Raises Gone, Refused."""
        return self._answer(lib.refl_template_pid(self._memory, slot, self._socket.fileno()))

    def ahead(self, calls: list[tuple[int, int, int]]) -> None:
        """What waiting clones populate ahead: calls of madvise (start, size, advice), 1200 at most."""
        lib.refl_template_ahead(self._memory, _flat(calls), len(calls))

    def advise(self, own: list[int], calls: list[tuple[int, int, int]]) -> None:
        """The template gets its own copies of pages, whatever their protection, and then makes such calls. Raises Gone."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            for page in own:
                os.pwrite(memory.fileno(), os.pread(memory.fileno(), 1, page), page)
        self._answer(lib.refl_template_advise(self._memory, self._slot(), self._socket.fileno(), _flat(calls), len(calls)))

    def end(self) -> None:
        """Kills and reaps it."""
        self.forget()
        reap(self.pid, kill=True)

    def forget(self) -> None:
        """Releases what this process has of it: all there is to do in a child made by fork."""
        close(self._socket.detach())
        del self._constant
        ffi.release(self._memory)
        self._shared.close()

    def _slot(self) -> int:
        """A slot that nobody uses any more. Raises Gone if none becomes free: clones were killed before they had begun."""
        deadline = 0.0
        while not deadline or time.monotonic() < deadline:
            for _ in range(SLOTS):
                slot, self._next = self._next, (self._next + 1) % SLOTS
                if not lib.refl_template_busy(self._memory, slot):
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
            raise Refused(os.strerror(-result))
        return result


class _Constant:
    """struct refl_clone, with all that is the same for every start."""

    def __init__(self, memory: Any, made: Made, low: int, brk_pages: int) -> None:
        mm = ffi.from_buffer("uint8_t[]", made.mm)
        self._fds, self._targets = ffi.new("int32_t[]", DESCRIPTORS), ffi.new("int32_t[]", DESCRIPTORS)
        self._alive: list[object] = [mm]
        self._threads, self._thread = Threads(), 0
        self._last: Attributes | None = None
        self._what: Start | None = None
        self._strings, self._buffer = b"", None
        self.struct = request = ffi.new("struct refl_clone *")
        request.shared, request.strings_low, request.mm = memory, low, mm
        request.brk_low, request.brk_pages = made.brk_low, brk_pages
        request.born = ffi.cast("struct refl_birth *", made.birth)
        request.fds, request.targets = self._fds, self._targets

    def depend_on(self, files: Files) -> None:
        """Sets what must be the same at each start."""
        paths, known = ffi.from_buffer("char[]", files.paths), ffi.from_buffer("uint64_t[]", files.stamps)
        self._alive += [paths, known]
        self.struct.paths, self.struct.paths_size = paths, len(files.paths)
        self.struct.stamps, self.struct.stamps_size = known, len(files.stamps)

    def set(self, what: Start) -> None:
        """Sets the rest: what is not as in the last start."""
        if self._thread != get_ident():
            self._thread, self.struct.kept = get_ident(), self._threads.current()
        if what is self._what and what.strings is self._strings:
            return
        request = self.struct
        request.inherit, request.directory = what.descriptors is None, what.directory
        if what.descriptors is not None:
            request.fd_count = len(what.descriptors)
            for index, (ours, its) in enumerate(what.descriptors):
                self._fds[index], self._targets[index] = ours, its
        request.strings = self._buffer = ffi.from_buffer("char[]", what.strings)
        request.strings_size, request.argc, request.envc = len(what.strings), what.argc, what.envc
        if what.attributes is not self._last:
            self._last = what.attributes
            self._attributes(what.attributes)
        self._what, self._strings = what, what.strings

    def _attributes(self, wanted: Attributes) -> None:
        request = self.struct
        request.to_default, request.to_ignore = wanted.to_default, wanted.to_ignore
        request.umask, request.new_session = wanted.umask, wanted.new_session


def close(fd: int) -> None:
    """Closes a descriptor of ours, which somebody may have closed already with all others (os.closerange)."""
    with contextlib.suppress(OSError):
        os.close(fd)


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


def _flat(calls: list[tuple[int, int, int]]) -> Any:
    return ffi.new("uint64_t[]", [number for call in calls for number in call])


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
    count = lib.refl_inheritable(ffi.NULL, fds, DESCRIPTORS)
    if count < 0:
        raise OSError(-count, os.strerror(-count))
    return list(fds[0:count])


def stamps(paths: bytes) -> bytes:
    """What stat says of each of the paths, which all end in NUL: 48 bytes, zero for what is not there."""
    strings = ffi.from_buffer("char[]", paths)
    out = ffi.new("uint64_t[]", 6 * lib.refl_stamps(strings, len(paths), ffi.NULL))
    lib.refl_stamps(strings, len(paths), out)
    return bytes(ffi.buffer(out))
