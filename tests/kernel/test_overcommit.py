"""Without overcommit (vm.overcommit_memory 2): what asks for more memory than there is left is refused, and so for execve.

The setting is the whole machine's. So each comparison has it for some milliseconds only, and the limit is so high that nobody
else reaches it, while a program's bss may. In the usual mode, 0, such a bss is refused from the size of memory and swap on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_segments import data, with_data
from elfwriter import ET_DYN, ET_EXEC, ElfFile, exit_program
from test_limits import in_child
from verdict import LIBC, kernel_verdict, reflective_verdict, verdict_agrees

import reflective
from reflective.native import run
from reflective.native.prepare import Request
from reflective.plan.build import build

TIB = 1 << 40
LIMIT = 50 * TIB
MODE, KBYTES = Path("/proc/sys/vm/overcommit_memory"), Path("/proc/sys/vm/overcommit_kbytes")
RATIO = Path("/proc/sys/vm/overcommit_ratio")
HELD = 30 * TIB  # what this process takes of it; 20 are left for all others


@contextlib.contextmanager
def no_overcommit(limit: int = LIMIT) -> Iterator[None]:
    """`limit` bytes may be committed, by all processes together. Skips where the setting can't be changed."""
    with MODE.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the suite would set it, too
        yield from _no_overcommit(limit)


def _no_overcommit(limit: int) -> Iterator[None]:
    before = MODE.read_text(), RATIO.read_text(), KBYTES.read_text()
    try:
        KBYTES.write_text(str(limit >> 10))
        MODE.write_text("2")
    except OSError as error:
        pytest.skip(f"vm.overcommit_memory can't be set here ({os.strerror(error.errno or 0)}): run as root")
    try:
        yield
    finally:
        MODE.write_text(before[0])
        if before[2].strip() == "0":
            RATIO.write_text(before[1])  # which clears the other
        else:
            KBYTES.write_text(before[2])


@pytest.mark.parametrize("size", [16, 34, 80], ids=lambda size: f"{size} TiB")
@pytest.mark.parametrize("type", [ET_EXEC, ET_DYN], ids=["ET_EXEC", "ET_DYN"])
def test_bss(tmp_path: Path, type: int, size: int) -> None:
    """Below the limit it runs, which mode 0 refuses; beyond it is ENOMEM."""
    limit = 32 * TIB
    path = str(program_with_bss(size, type).write(tmp_path / "program"))
    assert kernel_verdict(path).errno == errno.ENOMEM
    with no_overcommit(limit):
        kernel = kernel_verdict(path)
    with no_overcommit(limit):
        ours = reflective_verdict(path)
    assert kernel.errno == (0 if size * TIB < limit else errno.ENOMEM)
    assert verdict_agrees(kernel, ours), f"kernel: {kernel}; reflective: {ours}"


def program_with_bss(size: int, type: int = ET_EXEC) -> ElfFile:
    """`size` TiB of it. A PIE has 42 TiB above its place at two thirds of user space."""
    place = {"vaddr": 0x10000} if type == ET_DYN else {}
    return with_data(data(memsz=size * TIB, **place), type=type)


def hold(size: int = HELD) -> None:
    """Takes so much of what may be committed; that is charged when it is mapped."""
    LIBC.mmap.restype = ctypes.c_void_p
    arguments = (
        None,
        ctypes.c_size_t(size),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        None,
    )
    if LIBC.mmap(*arguments) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


def forked_by_python(path: Path) -> int | str:
    pid = os.fork()
    if pid == 0:
        os.execve(path, ["program"], {})
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def spawned_by_libc(path: Path) -> int | str:
    """By vfork: nothing is charged twice."""
    return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(path, ["program"], {}), 0)[1])


def forked_by_us(path: Path) -> int | str:
    started = run.spawn(Request(build(path), (b"program",), ()))
    return os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])


def spawned_by_us(path: Path) -> int | str:
    """By a zygote, which comes by vfork."""
    return os.waitstatus_to_exitcode(os.waitpid(reflective.spawn(path, ["program"], {}), 0)[1])


def ends(path: Path, ways: tuple[Callable[[Path], int | str], ...]) -> list[int | str]:
    """How each way ended: a status, or the name of an errno. No child is left."""

    def end(way: Callable[[Path], int | str]) -> int | str:
        try:
            return way(path)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    def work() -> list[int | str]:
        hold()
        return [end(way) for way in ways]

    with no_overcommit():
        return list(in_child(work))


def test_a_parent_that_holds_more_than_half(tmp_path: Path) -> None:
    """It can't be forked, by anybody; vfork, which a zygote comes by, is no matter."""
    path = exit_program(42).write(tmp_path / "program")
    ways = (forked_by_python, forked_by_us, spawned_by_libc, spawned_by_us)
    assert ends(path, ways) == ["ENOMEM", "ENOMEM", 42, 42]


def test_a_parent_and_a_child_that_want_too_much(tmp_path: Path) -> None:
    """The kernel kills the child past its point of no return; here it is an error."""
    path = program_with_bss(30).write(tmp_path / "program")
    assert ends(path, (spawned_by_libc, spawned_by_us)) == [-signal.SIGSEGV, "ENOMEM"]


@pytest.mark.parametrize("way", ["execve", "in place"])
def test_what_is_replaced_counts_no_more(tmp_path: Path, way: str) -> None:
    """The old memory has gone when the new is mapped."""
    path = program_with_bss(30).write(tmp_path / "program")
    with no_overcommit():
        request = Request(build(path, in_place=True), (b"program",), ())
        pid = os.fork()
        if pid == 0:
            try:
                hold()
                if way == "execve":
                    os.execve(path, ["program"], {})
                run.replace(request)
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
