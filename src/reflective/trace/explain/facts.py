"""A call as evidence: what was recorded of it, apart from how it is written."""

from __future__ import annotations

import os
import stat
import struct

from ...elf.image import FileIdentity
from ...native import tracer
from ...values import Value
from ..syscalls import NUMBERS

FRAME_BYTES = 1024  # of the stack above a call: return addresses are among them
FD_OF = {"read": 0, "pread64": 0, "fstat": 0, "newfstatat": 0, "close": 0}
CALLED_BY = (
    "open", "openat", "brk", "newfstatat", "fstat", "ioctl", "getrandom", "write", "writev", "mmap", "munmap", "exit_group",
)  # fmt: skip
CLONE_ARGS = struct.Struct("<8Q")  # linux/sched.h: struct clone_args, its first version


class Fact(Value):
    """One finished call. `strings` and `links` by argument: paths given, and files behind descriptors."""

    tid: int
    name: str
    args: tuple[int, ...]
    ret: int
    ok: bool
    ended: bool  # False: the task ended inside it
    ip: int
    phase: str
    object: str
    strings: dict[int, str]
    links: dict[int, str]
    data: dict[int, bytes]
    sp: int
    frames: tuple[int, ...]  # the words from there

    @property
    def range(self) -> tuple[int, int]:
        """The whole pages that a successful mmap has mapped."""
        return self.ret, (self.ret + self.args[1] + 4095) & -4096

    @property
    def status(self) -> tuple[int, FileIdentity] | None:
        """st_mode and which file it is, where the call has asked for that."""
        if self.name not in ("fstat", "newfstatat") or not self.ok:
            return None
        data = self.data.get(1 if self.name == "fstat" else 2, b"")
        if len(data) < 144:
            return None
        device, inode, _, mode = struct.unpack_from("<QQQI", data)
        (size,) = struct.unpack_from("<q", data, 48)
        seconds, rest = struct.unpack_from("<qq", data, 88)
        return mode, FileIdentity(device, inode, size, seconds * 10**9 + rest)


def copies() -> dict[int, tuple[tracer.Copy, ...]]:
    """What the tracer must copy besides what lines show: files behind descriptors, and who called."""
    table: dict[int, tuple[tracer.Copy, ...]] = {
        NUMBERS[name]: ((tracer.ON_ENTRY, tracer.FD, arg, tracer.BY_ONE, 1),) for name, arg in FD_OF.items()
    }
    for name in CALLED_BY:
        table[NUMBERS[name]] = (*table.get(NUMBERS[name], ()), (tracer.ON_ENTRY, tracer.FRAMES, 0, tracer.BY_ONE, FRAME_BYTES))
    return table


def fact(name: str, body: bytes, part: int, phase: str, where: str) -> Fact:
    """From the body of a record."""
    _, tid, _, mode, ip, ret, *args = tracer.BODY.unpack_from(body)
    strings: dict[int, str] = {}
    links: dict[int, str] = {}
    data: dict[int, bytes] = {}
    sp, frames = 0, tuple[int, ...]()
    for arg, _, kind, state, address, content in tracer.payloads(body):
        if kind == tracer.STRING and not state & tracer.FAULT:
            strings.setdefault(arg, os.fsdecode(content))
        elif kind == tracer.FD:
            links[arg] = os.fsdecode(content)
        elif kind == tracer.BYTES:
            data.setdefault(arg, content)
        elif kind == tracer.FRAMES:
            sp, frames = address, struct.unpack(f"<{len(content) // 8}Q", content[: len(content) // 8 * 8])
    ended = part != tracer.EXITING
    ok = ended and not mode & tracer.ERROR
    return Fact(tid, name, tuple(args), ret, ok, ended, ip, phase, where, strings, links, data, sp, frames)


def file_kind(mode: int) -> str:
    """What stands behind a descriptor, for people."""
    kinds = (
        (stat.S_ISREG, "a regular file"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a directory"), (stat.S_ISBLK, "a block device"), (stat.S_ISCHR, "a character device"),
    )  # fmt: skip
    return next((words for test, words in kinds if test(mode)), "a file")
