"""The facts about this process and this kernel that a start depends on. Gathered once: they do not change while it lives."""

from __future__ import annotations

import os

from ..plan import stack
from ..plan.layout import System
from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# A system call in the vdso after which every register is as execve leaves it, then `ret`. Linux 6.x, x86-64, built with
# -fzero-call-used-regs: syscall; xor edx,edx; xor ecx,ecx; xor esi,esi; xor edi,edi; xor r11d,r11d; ret.
CLEAN_SYSCALL = bytes.fromhex("0f05 31d2 31c9 31f6 31ff 4531db c3")
# linux/magic.h: those whose file_operations have thp_get_unmapped_area: ext2 to ext4, xfs, btrfs.
HUGE = (0xEF53, 0x58465342, 0x9123683E)
LSM_MIN = 65536  # CONFIG_LSM_MMAP_MIN_ADDR: the kernel takes the larger, and shows only the sysctl's

_system: System | None = None
_anonymous: list[tuple[int, int]] = []


def system() -> System:
    """The facts, from /proc/self and /proc/sys."""
    global _system
    if _system is None:
        _system = _collect()
    return _system


def anonymous() -> list[tuple[int, int]]:
    """This process's memory that is no file's, as (start, end), as it was when `system` looked."""
    system()
    return _anonymous


def leave_out(mappings: Iterable[tuple[int, int]]) -> int:
    """Keeps memory of this process, as (start, end), out of its children, but for what a child of `spawn` needs. How many.

    For good, and for all children: only a process whose every child is made by `spawn` may do this. A fork then copies hardly
    any page tables, and this process has no page copied, or faulted in again, when it goes on writing.
    """
    return sum(lib.refl_leave_out(start, end) for start, end in mappings)


def huge_devices(path: str) -> frozenset[int]:
    """The device that a file is on (as st_dev), if its file system asks for mappings that huge pages fit."""
    kind = lib.refl_file_system(os.fsencode(path))
    if kind not in HUGE or not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        return frozenset()
    return frozenset((os.stat(path).st_dev,))


def _collect() -> System:
    lines = _read("/proc/self/maps").splitlines()
    _anonymous[:] = [_range(line) for line in lines if b" rw-p 00000000 00:00 0" in line]
    named = {line.rpartition(b" ")[2]: index for index, line in enumerate(lines) if line.endswith(b"]")}
    vdso = tuple(_range(lines[at]) for name, at in named.items() if name.startswith(b"[v") and name != b"[vsyscall]")
    image = _range(lines[named[b"[vdso]"]]) if b"[vdso]" in named else (0, 0)
    vector = dict(stack.parse_auxv(_auxv()))
    return System(
        task_end=lib.refl_task_end(),
        mmap_top=_mmap_top(lines, vector.get(stack.AT_BASE, 0) or image[0]),
        vdso=vdso,
        vdso_fixed=bool(lib.refl_sealed(*image)) and _sealed(image[0]),
        vdso_above_stack=bool(vdso) and named[b"[vdso]"] > named.get(b"[stack]", len(lines)),
        gadget=_gadget(vdso, image),
        randomize=_number("/proc/sys/kernel/randomize_va_space", 2),
        rnd_bits=_number("/proc/sys/vm/mmap_rnd_bits", 28),  # readable by root only; 28 is the default and least
        brk_range=1 << 30 if release() >= (6, 9) else 32 << 20,  # arch/x86/kernel/process.c: arch_randomize_brk
        min_address=max(_number("/proc/sys/vm/mmap_min_addr", LSM_MIN), LSM_MIN),
        auxv=tuple(vector.items()),
        platform=_string(vector.get(stack.AT_PLATFORM, 0)),
        page_zero=_range(lines[0])[0] == 0,
    )


def _sealed(address: int) -> bool:
    """The kernel's own word for it, as a seccomp filter may refuse mprotect, too."""
    block = _read("/proc/self/smaps").partition(b"\n%x-" % address)[2]
    return b" sl" in block.partition(b"VmFlags:")[2].partition(b"\n")[0]


def _string(address: int) -> bytes:
    """A string in this process's memory, with its NUL."""
    return bytes(ffi.string(ffi.cast("char *", address))) + b"\0" if address else b""


def _auxv() -> bytes:
    """This process's auxiliary vector. After a change of user its file in /proc is root's; prctl has it too (Linux 6.4)."""
    try:
        return _read("/proc/self/auxv")
    except PermissionError:
        buffer = ffi.new("char[1024]")
        return bytes(ffi.buffer(buffer, max(lib.refl_auxv(buffer, 1024), 0)))


def _mmap_top(lines: list[bytes], first: int) -> int:
    """The end of what is mapped without a gap from `first` on, which the kernel put at the top of the mmap area.

    That is this process's interpreter, or the vdso of a static one; and in a process that was itself started by this package
    also what covers its mmap base.
    """
    end, begins = first, b"%x-" % first
    known = next((index for index, line in enumerate(lines) if line.startswith(begins)), len(lines))
    for line in lines[known:]:
        start, stop = _range(line)
        if start <= end < stop:
            end = stop
    return end


def environment() -> tuple[bytes, ...]:
    """What execve and posix_spawn hand on when they are given no environment: C's environ, of which os.environ is a part."""
    return tuple(environment_block().split(b"\0")[:-1])


def environment_block() -> bytes:
    """The same as one block: each string with its NUL."""
    size = lib.refl_environ(ffi.NULL, 0)
    strings = ffi.new("char[]", size)
    lib.refl_environ(strings, size)
    return bytes(ffi.buffer(strings, size))


def _range(line: bytes) -> tuple[int, int]:
    start, _, end = line.partition(b" ")[0].partition(b"-")
    return int(start, 16), int(end, 16)


def _gadget(vdso: tuple[tuple[int, int], ...], image: tuple[int, int]) -> int:
    if not vdso or image[0] == image[1]:
        return 0
    code = bytes(ffi.buffer(ffi.cast("char *", image[0]), image[1] - image[0]))
    at = code.find(CLEAN_SYSCALL)
    return image[0] + at - vdso[0][0] if at >= 0 else 0


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while part := os.read(fd, 1 << 16):
            text += part
        return text
    finally:
        os.close(fd)


def _number(path: str, default: int) -> int:
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return default


def release() -> tuple[int, int]:
    """The kernel's version: major, minor."""
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
