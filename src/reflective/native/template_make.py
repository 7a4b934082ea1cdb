"""Making a template process: an ordinary load, but for its end, where the template's own code is entered instead of ld.so."""

from __future__ import annotations

import mmap
import os
import socket
from struct import Struct

from ..elf.linker import Linker
from ..errors import load_error
from ..plan.layout import Layout
from ..plan.segments import page_down, page_up
from . import encode
from ._core import ffi, lib
from .child import Setup
from .prepare import Prepared, Request, lay_out, prepare, structure, whole
from .run import Files, above_stdio
from .template import SLOT, SLOTS, Gone, Made, Process, birth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# csrc/template/template.h
CODE, DATA, SOCKET = 8192, 16384, 63
JOB, MM = Struct("<13Q"), Struct("<12QII")
SIZE = (1 + SLOTS) * SLOT
PROT_RW, PROT_RX, MAP_SHARED = 3, 5, 1
NO_FILE = (1 << 32) - 1
SPREAD = 1024  # bytes over which the place of the tables varies, from template to template


def make(request: Request, linker: Linker, room: int) -> Process:
    """A template of a program whose dynamic linker is known. `room` is what the strings of its starts may take, in bytes.

    Raises LoadError if it can't be loaded, Gone if its dynamic linker did not come back.
    """
    try:
        born = birth()
    except OSError as error:
        raise Gone("the state of this process can't be told") from error
    prepared = prepare(request, in_place=False)
    if not prepared.system.gadget:
        raise Gone("the vdso has no system call that could unmap a clone's last page")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = above_stdio(os.memfd_create("reflective: template", os.MFD_CLOEXEC))
    try:
        os.ftruncate(memory, SIZE)
        shared = mmap.mmap(memory, SIZE)
        with ffi.from_buffer("uint8_t[]", shared) as facts:  # before the template could look at it
            lib.refl_template_born(facts, ffi.cast("struct refl_birth *", born))
        pid, made = _start(prepared, born, linker, room, (theirs.fileno(), memory))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(memory)
    return Process(pid, ours, shared, made)


def _start(prepared: Prepared, born: Any, linker: Linker, room: int, keep: tuple[int, int]) -> tuple[int, Made]:
    plan = prepared.request.plan
    setup = Setup(close_fds=True, pass_fds=keep, default_signals=prepared.request.setup.default_signals)
    prepared = prepared.replace(request=prepared.request.replace(setup=setup))
    with Files(plan) as files:
        all_steps, _ = whole(prepared, [fd for fd in (*files.values(), *keep) if fd >= 0])
        layout = lay_out(prepared, 0)
        layout = layout.replace(shuffle=room + layout.shuffle % SPREAD)
        start, alive = structure(prepared, layout, all_steps, files, -1)
        more = _append(start, prepared, layout, linker, keep)
        pid = int(lib.refl_spawn(start))
        image = [int(value) for value in start.image]
        del alive, more
    if pid < 0:
        raise load_error(-pid, os.strerror(-pid), plan.path)
    return pid, _made(prepared, born, layout, image)


def _append(start: Any, prepared: Prepared, layout: Layout, linker: Linker, keep: tuple[int, int]) -> list[object]:
    """The load's last operations: the template's area, and no descriptors but its socket. It is entered instead of ld.so.

    The area lies above the stack, where it needs no page table of its own.
    """
    at, last = layout.stack_top, len(prepared.request.plan.steps) - 1
    code = ffi.new("uint8_t[]", lib.refl_template_code(ffi.NULL))
    lib.refl_template_code(code)
    given, job = bytes(ffi.buffer(start.data, start.data_size)), _job(prepared, layout, linker)
    data = encode.Data()
    data.bytes = given + bytes(-len(given) % 8)
    code_at, job_at = data.add(bytes(ffi.buffer(code))), data.add(job)
    sock, memory = keep
    private = encode.PRIVATE | encode.ANONYMOUS | encode.NOREPLACE
    shared = MAP_SHARED | encode.NOREPLACE
    ops = (
        encode.call(last, "mmap", at, CODE + DATA, PROT_RW, private, -1, 0, flags=encode.EXACT),
        encode.op(last, encode.COPY, at, code_at, len(code)),
        encode.op(last, encode.COPY, at + CODE, job_at, len(job)),
        encode.call(last, "mprotect", at, CODE, PROT_RX),
        encode.call(last, "mmap", at + CODE + DATA, SIZE, PROT_RW, shared, memory, 0, flags=encode.EXACT),
        encode.call(last, "dup2", sock, SOCKET),
        encode.call(last, "close_range", 0, SOCKET - 1, 0),
        encode.call(last, "close_range", SOCKET + 1, NO_FILE, 0),
    )
    packed = bytes(ffi.buffer(start.ops, start.op_count * encode.OP.size)) + b"".join(ops)
    start.ops, start.op_count = ffi.from_buffer("uint8_t[]", packed), len(packed) // encode.OP.size
    start.data, start.data_size = ffi.from_buffer("char[]", data.bytes), len(data.bytes)
    start.entry, start.entry_param = at, encode.INDEX["none"]
    return [packed, data]


def _job(prepared: Prepared, layout: Layout, linker: Linker) -> bytes:
    """struct template_job, as far as it is known here."""
    at, base = layout.stack_top, layout.interp
    (argv, _), (stack_end, _), (both, size) = linker.variables
    low, high = (base + edge for edge in linker.relro)
    return JOB.pack(
        *(base + linker.dl_start, base + linker.resume, layout.vdso + prepared.system.gadget),
        *(at, CODE + DATA + SIZE, at + CODE + DATA, SLOTS),
        *(base + argv, base + stack_end, base + both, size),
        *(page_down(low), page_up(high) - page_down(low)),
    )


def _made(prepared: Prepared, born: Any, layout: Layout, image: list[int]) -> Made:
    plan, known = prepared.request.plan, prepared.system
    places = [value + layout.exe & encode.WORD for value in image]
    end = page_up(layout.exe + max((load.vaddr + load.memsz for load in plan.executable.loads), default=0))
    return Made(
        degraded=prepared.degraded,
        birth=born,
        platform_size=len(known.platform),
        mm=MM.pack(*places, layout.brk, layout.brk, 0, 0, 0, 0, 0, 0, 0, NO_FILE),
        stack_top=layout.stack_top,
        brk=layout.brk,
        brk_low=max(end + 4096, page_up(known.min_address)),  # plan/layout.py: _brk
        brk_pages=known.brk_range >> 12 if known.randomize == 2 and prepared.options.aslr else 0,
    )
