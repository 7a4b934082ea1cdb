"""From steps to operations: the bytes that the C core executes (csrc/plan.h: struct refl_op)."""

from __future__ import annotations

import os
from struct import Struct

from ..elf.image import PAGE
from ..plan import steps
from ..plan.layout import Layout, System
from ..plan.stack import AuxEntry
from ._core import ffi, lib
from .child import RLIMIT_STACK, ChangeDirectory, LimitStack, SetCapabilities, SetGroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS = (
    "none", "exe", "interp", "brk", "stack_top", "exe_fd", "interp_fd", "report_fd", "binary_fd", "blob", "vdso", "vdso_end",
    "vdso_new", "task_end", "data", "blob_end", "stack_low", "stack_size", "sp", "image_at", "image", "image_size", "random",
    "execfn", "platform", "mm", "rseq", "rseq_size", "execfd_at",
)  # fmt: skip
INDEX = {name: index for index, name in enumerate(PARAMETERS)}
CALL, UNMAP, ZERO, COPY, SIGNALS, CLOEXEC, CHOOSE, HAND_OVER = range(8)
EXACT, EXACT_4, MAY_FAIL, IF_ARG0 = 1, 2, 4, 8

OP = Struct("<HHHH6B2x6Q")
AUX = Struct("<QQQ")
CAPABILITY_VERSION = 0x20080522  # linux/capability.h: _LINUX_CAPABILITY_VERSION_3
SIGACTION, SIG_IGN = Struct("<QQQQ"), 1
REPORT = Struct("<IiIIQ")
WORD = (1 << 64) - 1

# asm/unistd_64.h
NUMBERS = {
    "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "rt_sigaction": 13, "mremap": 25, "dup2": 33, "kill": 62, "fcntl": 72,
    "chdir": 80, "umask": 95, "ptrace": 101, "setpgid": 109, "setsid": 112, "setreuid": 113, "setregid": 114, "setgroups": 116,
    "setresuid": 117, "setresgid": 119, "capset": 126, "personality": 135, "munlockall": 152, "prctl": 157, "arch_prctl": 158,
    "set_thread_area": 205, "set_tid_address": 218, "timer_delete": 226, "unshare": 272, "set_robust_list": 273,
    "prlimit64": 302, "rseq": 334, "close_range": 436, "mseal": 462,
}  # fmt: skip
NAMES = {number: name for name, number in NUMBERS.items()}

PROT_READ, PROT_EXEC = 1, 4
PRIVATE, FIXED, ANONYMOUS, GROWSDOWN, NORESERVE, NOREPLACE = 2, 0x10, 0x20, 0x100, 0x4000, 0x100000
MREMAP_TO = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP, PR_SET_VMA = 15, 35, 14, 0x53564D41
MM_SIZE = 104
HIDDEN_NAME, REMAINS_NAME = b"reflective: mmap base", b"reflective: last page"

Arg = int | tuple[str, int]
OWN_FILES: tuple[Arg, ...] = (("exe_fd", 0), ("interp_fd", 0), ("report_fd", 0), ("binary_fd", 0))


def op(step: int, kind: int, *args: Arg, nr: int = 0, flags: int = 0) -> bytes:
    """The 64 bytes of one operation. An argument is a number, or a parameter's name and a number to add to it."""
    params, numbers = [0] * 6, [0] * 6
    for at, arg in enumerate(args):
        if isinstance(arg, tuple):
            params[at], numbers[at] = INDEX[arg[0]], arg[1] & WORD
        else:
            numbers[at] = arg & WORD
    return OP.pack(kind, flags, nr, step, *params, *numbers)


class Data:
    """Bytes that operations point to; `add` returns the argument that points to them."""

    def __init__(self, given: bytes = b"") -> None:
        self.bytes = given

    def add(self, item: bytes) -> Arg:
        """Appends an item, 8-byte aligned."""
        at = len(self.bytes)
        self.bytes += item + bytes(-len(item) % 8)
        return "data", at


def call(step: int, name: str, *args: Arg, flags: int = 0) -> bytes:
    """A system call."""
    return op(step, CALL, *args, nr=NUMBERS[name], flags=flags)


def encode(
    plan_steps: tuple[steps.Step, ...], layout: Layout, system: System, data: Data, fixed: dict[int, list[bytes]]
) -> list[bytes]:
    """The operations of a plan's steps, each with its step's number; `fixed` and what `data` has already are from `fixed`."""
    ops: list[bytes] = []
    for number, step in enumerate(plan_steps):
        ops += fixed[number] if number in fixed else _ENCODERS[type(step)](number, step, layout, system, data)
    return ops


def fixed(plan_steps: tuple[steps.Step, ...], system: System, data: Data) -> dict[int, list[bytes]]:
    """The operations, by step, that are the same wherever the parts of the program go: addresses in them are parameters."""
    return {
        number: _ENCODERS[type(step)](number, step, None, system, data)
        for number, step in enumerate(plan_steps)
        if type(step) not in VARYING
    }


def auxiliary(entries: tuple[AuxEntry, ...]) -> bytes:
    """The auxiliary vector as struct refl_aux."""
    return b"".join(AUX.pack(entry.type, entry.value & WORD, INDEX[entry.base]) for entry in entries)


def _argument(arg: int | str, data: Data) -> Arg:
    if isinstance(arg, int):
        return arg
    if arg.startswith("tls"):
        # struct user_desc: GDT entry 12 + n, no base, no limit, read_exec_only and seg_not_present: an empty slot
        return data.add(Struct("<4I").pack(12 + int(arg[3:]), 0, 0, 1 << 3 | 1 << 5))
    return arg, 0


def _call(number: int, step: steps.Call, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    args = [_argument(arg, data) for arg in step.args]
    flags = (MAY_FAIL if step.optional else 0) | (IF_ARG0 if step.name == "rseq" else 0)
    return [call(number, step.name, *args, flags=flags)]


def _signals(number: int, step: steps.ResetSignals, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    ignore = data.add(SIGACTION.pack(SIG_IGN, 0, 0, 0)) if step.to_ignore else 0
    ignored = [call(number, "rt_sigaction", signal, ignore, 0, 8) for signal in step.to_ignore]
    return [op(number, SIGNALS, sum(1 << signal - 1 for signal in step.to_default)), *ignored]


def _close_on_exec(number: int, _step: steps.CloseOnExec, *_: object) -> list[bytes]:
    return [op(number, CLOEXEC, *OWN_FILES)]


def _choose_descriptor(number: int, _step: steps.ChooseDescriptor, *_: object) -> list[bytes]:
    return [op(number, CHOOSE, *OWN_FILES, ("execfd_at", 0))]


def _hand_over(number: int, _step: steps.HandOver, *_: object) -> list[bytes]:
    return [op(number, HAND_OVER, *OWN_FILES, ("execfd_at", 0))]


def _unmap_old(number: int, _step: steps.UnmapOld, layout: Layout, system: System, _data: Data) -> list[bytes]:
    lower, upper = ("blob", "vdso") if layout.blob < system.vdso_start or not system.vdso else ("vdso", "blob")
    first = PAGE if system.page_zero else 0
    return [
        *([call(number, "munmap", 0, PAGE, flags=MAY_FAIL)] if first else []),
        op(number, UNMAP, first, (lower, 0)),
        op(number, UNMAP, (f"{lower}_end", 0), (upper, 0)),
        op(number, UNMAP, (f"{upper}_end", 0), ("task_end", 0)),
    ]


def _move_vdso(number: int, _step: steps.MoveVdso, layout: Layout, system: System, _data: Data) -> list[bytes]:
    if layout.vdso == system.vdso_start:
        return []
    ops: list[bytes] = []
    places = [system.vdso_start, layout.vdso_via, layout.vdso] if layout.vdso_via else [system.vdso_start, layout.vdso]
    for old, new in zip(places[:-1], places[1:], strict=True):  # noqa: RUF007 - itertools is one more import
        for start, end in system.vdso:
            offset, size = start - system.vdso_start, end - start
            ops.append(call(number, "mremap", old + offset, size, size, MREMAP_TO, new + offset, flags=EXACT_4))
    return ops


def _hide(number: int, _step: steps.HideMmapBase, layout: Layout, _system: System, data: Data) -> list[bytes]:
    ops: list[bytes] = []
    for start, size in layout.hide:
        ops.append(_claim(number, start, size))
        ops.append(call(number, "prctl", PR_SET_VMA, 0, start, size, data.add(HIDDEN_NAME + b"\0"), flags=MAY_FAIL))
    return ops


def _claim(number: int, at: Arg, size: int) -> bytes:
    return call(number, "mmap", at, size, 0, PRIVATE | ANONYMOUS | NORESERVE | NOREPLACE, -1, 0, flags=EXACT)


def _stack(number: int, step: steps.MapStack, *_: object) -> list[bytes]:
    flags = PRIVATE | ANONYMOUS | GROWSDOWN | NOREPLACE
    return [call(number, "mmap", ("stack_low", 0), ("stack_size", 0), step.prot, flags, -1, 0, flags=EXACT)]


def _at(at: steps.At) -> Arg:
    return at.base, at.offset


def _map_file(number: int, step: steps.MapFile, *_: object) -> list[bytes]:
    flags, fd = PRIVATE | (FIXED if step.over else NOREPLACE), (f"{step.file}_fd", 0)
    return [call(number, "mmap", _at(step.at), step.size, step.prot, flags, fd, step.offset, flags=EXACT)]


def _map_zero(number: int, step: steps.MapZero, *_: object) -> list[bytes]:
    # mm/mmap.c: vm_brk_flags unmaps first, so that limits count what it maps in full
    at, end = _at(step.at), _at(step.at.replace(offset=step.at.offset + step.size))
    clear = [op(number, UNMAP, at, end)] if step.over else []
    return [*clear, call(number, "mmap", at, step.size, step.prot, PRIVATE | NOREPLACE | ANONYMOUS, -1, 0, flags=EXACT)]


def _unmap(number: int, step: steps.Unmap, *_: object) -> list[bytes]:
    return [op(number, UNMAP, _at(step.at), _at(step.at.replace(offset=step.at.offset + step.size)))]


def _zero(number: int, step: steps.Zero, *_: object) -> list[bytes]:
    return [op(number, ZERO, _at(step.at), step.size)]


def _fill(number: int, _step: steps.FillStack, *_: object) -> list[bytes]:
    return [op(number, COPY, ("image_at", 0), ("image", 0), ("image_size", 0))]


def _set_mm(number: int, _step: steps.SetMm, *_: object) -> list[bytes]:
    return [call(number, "prctl", PR_SET_MM, PR_SET_MM_MAP, ("mm", 0), MM_SIZE, 0)]


def _chdir(number: int, step: ChangeDirectory, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    return [call(number, "chdir", data.add(os.fsencode(step.path) + b"\0"))]


def _groups(number: int, step: SetGroups, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    packed = b"".join(group.to_bytes(4, "little") for group in step.groups)
    return [call(number, "setgroups", len(step.groups), data.add(packed))]


def _capabilities(number: int, step: SetCapabilities, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    low, high = [
        [half & 0xFFFFFFFF for half in (step.effective >> s, step.permitted >> s, step.inheritable >> s)] for s in (0, 32)
    ]
    header = data.add(Struct("<II").pack(CAPABILITY_VERSION, 0))
    return [call(number, "capset", header, data.add(Struct("<6I").pack(*low, *high)))]


def _map_page_zero(number: int, _step: steps.MapPageZero, *_: object) -> list[bytes]:
    return [
        call(number, "mmap", 0, PAGE, PROT_READ | PROT_EXEC, PRIVATE | FIXED | ANONYMOUS, -1, 0, flags=MAY_FAIL | EXACT),
        call(number, "mseal", 0, PAGE, 0, flags=MAY_FAIL),
    ]


def _limit_stack(number: int, step: LimitStack, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    return [call(number, "prlimit64", 0, RLIMIT_STACK, data.add(Struct("<QQ").pack(step.soft, step.hard)), 0)]


def _set_name(number: int, step: steps.SetName, _layout: Layout, _system: System, data: Data) -> list[bytes]:
    return [call(number, "prctl", PR_SET_NAME, data.add(os.fsencode(step.name)[:15] + b"\0"))]


def _close_files(number: int, _step: steps.CloseFiles, *_: object) -> list[bytes]:
    return [call(number, "close", (f"{name}_fd", 0), flags=MAY_FAIL) for name in ("exe", "interp", "report")]


def _jump(number: int, _step: steps.Jump, _layout: Layout, system: System, data: Data) -> list[bytes]:
    if system.gadget:
        return []
    name = data.add(REMAINS_NAME + b"\0")
    return [call(number, "prctl", PR_SET_VMA, 0, ("blob", 0), 4096, name, flags=MAY_FAIL)]


_ENCODERS: dict[type[steps.Step], Callable[..., list[bytes]]] = {
    steps.Call: _call,
    steps.ResetSignals: _signals,
    steps.CloseOnExec: _close_on_exec,
    steps.UnmapOld: _unmap_old,
    steps.MoveVdso: _move_vdso,
    steps.HideMmapBase: _hide,
    steps.MapStack: _stack,
    steps.MapFile: _map_file,
    steps.MapZero: _map_zero,
    steps.Unmap: _unmap,
    steps.Zero: _zero,
    steps.MapPageZero: _map_page_zero,
    steps.FillStack: _fill,
    steps.SetMm: _set_mm,
    steps.SetName: _set_name,
    steps.ChooseDescriptor: _choose_descriptor,
    steps.HandOver: _hand_over,
    steps.CloseFiles: _close_files,
    steps.Jump: _jump,
    ChangeDirectory: _chdir,
    SetGroups: _groups,
    SetCapabilities: _capabilities,
    LimitStack: _limit_stack,
}


VARYING = (steps.UnmapOld, steps.MoveVdso, steps.HideMmapBase)  # the steps whose operations depend on the layout


def _check_abi() -> None:
    """The extension and this module must have been written for each other."""
    counts = ffi.new("uint64_t[5]")
    lib.refl_abi(counts)
    if list(counts) != [len(PARAMETERS), HAND_OVER + 1, OP.size, AUX.size, REPORT.size]:
        raise ImportError("reflective.native._core was built from another version of csrc/plan.h: install the package again")


_check_abi()
