"""A template process, and clones of it: what is handed to the C core (csrc/template, csrc/host/template.c)."""

from __future__ import annotations

import mmap
import os
import socket
from struct import Struct

from ..elf.image import PAGE
from ..elf.linker import Linker
from ..errors import load_error
from ..plan.layout import Layout
from ..plan.segments import page_down, page_up
from ..plan.stack import encode as encode_word
from ..values import Value
from . import encode
from ._core import ffi, lib
from .child import Setup
from .prepare import Degradation, Prepared, Request, lay_out, prepare, structure, whole
from .run import _Files, above_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# csrc/template/template.h
CODE, DATA, SLOT, SOCKET = 8192, 16384, 32768, 63
JOB = Struct("<13Q")
FACTS = Struct("<6Q")
MM = Struct("<12QII")
PROT_RW, PROT_RX, SHARED = 3, 5, 1
EPIPE, ENOEXEC = 32, 8


class Gone(Exception):
    """The template does not live any more."""


class Template:
    """One template process, a child of this one. Not for use by two threads at a time."""

    def __init__(self, request: Request, linker: Linker, room: int, slots: int = 1) -> None:
        """`room`: bytes that the strings of a start may take. Raises LoadError, or Gone if ld.so could not do its work."""
        prepared = prepare(request, in_place=False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        size = (1 + slots) * SLOT
        memory = os.memfd_create("reflective: template", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, size)
            self.shared = mmap.mmap(memory, size)
            self._start(prepared, linker, theirs, memory, size, room)
        finally:
            theirs.close()
            os.close(memory)

    def _start(self, prepared: Prepared, linker: Linker, theirs: socket.socket, memory: int, size: int, room: int) -> None:
        setup = prepared.request.setup.replace(close_fds=True, pass_fds=(theirs.fileno(), memory))
        prepared = Prepared(*(getattr(prepared, name) if name != "request" else prepared.request.replace(setup=setup) for name in prepared._fields))
        with _Files(prepared.request.plan) as files:
            all_steps, _ = whole(prepared, [fd for fd in (*files.values(), theirs.fileno(), memory) if fd >= 0])
            layout = lay_out(prepared, 0).replace(shuffle=min(room, 8191))
            start, alive = structure(prepared, layout, all_steps, files, -1)
            ops, data = append(alive[0], alive[3], layout, prepared, linker, theirs.fileno(), memory, size)
            start.ops, start.op_count = ffi.from_buffer("uint8_t[]", ops), len(ops) // 64
            start.data, start.data_size = ffi.from_buffer("char[]", data), len(data)
            start.entry, start.entry_param = layout.stack_top, 0
            self.pid = lib.refl_spawn(start)
            if self.pid < 0:
                raise load_error(-self.pid, os.strerror(-self.pid), prepared.request.plan.path)
        theirs.close()
        print("pid", self.pid)
        print("answer", lib.refl_template_answer(self.socket.fileno()))
        print([hex(v) for v in FACTS.unpack_from(self.shared)])
        self.layout = layout
        plan = prepared.request.plan
        image = [int(v) for v in start.image]
        self.mm = MM.pack(*[v + layout.exe & encode.WORD for v in image], layout.brk, layout.brk, 0,0,0,0,0, 0, 0, 0xFFFFFFFF)
        self.low = layout.stack_top - 8192

    def spawn(self, argv, envp):
        strings = b"".join(w + b"\0" for w in (*argv, *envp))
        c = ffi.new("struct refl_clone *")
        fds = ffi.new("int32_t[]", [0, 1, 2])
        keep = ffi.from_buffer("uint8_t[]", self.shared), ffi.from_buffer("char[]", strings), ffi.from_buffer("uint8_t[]", self.mm)
        c.shared, c.strings, c.mm = keep
        c.sock = self.socket.fileno(); c.strings_size = len(strings); c.argc = len(argv); c.envc = len(envp)
        c.strings_low = self.low
        c.fds = c.targets = fds; c.fd_count = 3
        return lib.refl_template_clone(c)


def append(ops, data, layout, prepared, linker, sock, memory, size):
    at = layout.stack_top
    area = CODE + DATA + size
    known = prepared.system
    code = ffi.new("uint8_t[]", lib.refl_template_code(ffi.NULL)); lib.refl_template_code(code)
    code = bytes(ffi.buffer(code))
    b = layout.interp
    (argv, asz), (end, esz), (glob, gsz) = linker.variables
    lo = page_down(min(argv, end, glob)); hi = page_up(max(argv + asz, end + esz, glob + gsz))
    job = JOB.pack(b + linker.dl_start, b + linker.resume, layout.vdso + known.gadget, at, area, at + CODE + DATA, size // SLOT - 1,
                   b + argv, b + end, b + glob, gsz, b + lo, hi - lo)
    cat = len(data); data += code + bytes(-len(code) % 8)
    jat = len(data); data += job
    n = 0
    anon = encode.PRIVATE | encode.ANONYMOUS | encode.NOREPLACE
    op, call = encode.op, encode.call
    ops += b"".join([
        call(n, "mmap", at, CODE + DATA, 3, anon, -1, 0, flags=encode.EXACT),
        op(n, encode.COPY, at, ("data", cat), len(code)),
        op(n, encode.COPY, at + CODE, ("data", jat), len(job)),
        op(n, encode.CALL, at, CODE, 5, nr=10),
        call(n, "mmap", at + CODE + DATA, size, 3, SHARED | encode.NOREPLACE, memory, 0, flags=encode.EXACT),
        call(n, "dup2", sock, SOCKET),
        call(n, "close_range", 0, SOCKET - 1, 0),
        call(n, "close_range", SOCKET + 1, 0xFFFFFFFF, 0),
    ])
    return ops, data
