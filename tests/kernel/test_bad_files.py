"""Odd and broken files: what the kernel says of each, and that reflective says the same.

One entry of a table is one quirk. No expectation is written down: every test runs the kernel first.
`PYTHONPATH=tests python tests/kernel/test_bad_files.py` prints the kernel's verdicts.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from errno import EACCES, ENOEXEC
from functools import partial
from pathlib import Path

import bad_mutated
import pytest
from bad_headers import HEADER, RAW
from bad_interpreters import INTERP, INTERPRETER, USER, user_of
from bad_paths import PLACE, bind_socket, special
from bad_segments import LOAD, STACK, data, with_data
from elfwriter import (
    ET_DYN,
    ET_EXEC,
    TEXT_BASE,
    ElfFile,
    R,
    exit_program,
)
from skips import needs_mounts
from verdict import (
    LIBC,
    Setup,
    Verdict,
    as_nobody,
    in_directory,
    kernel_verdict,
    may_set_exe,
    public_directory,
    reflective_verdict,
    verdict_agrees,
)

GIB = 1 << 30

Contents = ElfFile | bytes


# What only the kernel can do, or know: how it ends under reflective instead. More of it for a user without privilege.
PRIVILEGED = os.geteuid() == 0
ONLY_THE_KERNEL: dict[str, Verdict] = {
    "file: 32-bit program": Verdict(ENOEXEC, None),
    # Permission to execute, none to read: there is nothing to map for a user without rights.
    "interpreter: x without r, as nobody": Verdict(EACCES, None),
    "path, as nobody: x for others": Verdict(EACCES, None),
    "path, as nobody: x without r": Verdict(EACCES, None),
    **({} if PRIVILEGED else {"path: x without r": Verdict(EACCES, None)}),
    # That a file is open for writing shows only when it becomes /proc/PID/exe, which takes a privilege, and never of an
    # interpreter. A lease (F_SETLEASE) would tell too, but breaking one sends SIGIO to the caller.
    "path: open for writing, as nobody": Verdict(0, 42),
    **({} if may_set_exe() else {"path: open for writing": Verdict(0, 42)}),
    "interpreter: open for writing": Verdict(0, 42),
}


@dataclass(frozen=True)
class Case:
    name: str
    path: Callable[[Path], Path | str]
    setup: Callable[[Path], Setup | None] = lambda directory: None
    around: Callable[[Path], AbstractContextManager[object]] = lambda directory: nullcontext()


def write(path: Path, contents: Contents, mode: int = 0o755) -> Path:
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    path.chmod(mode)
    return path


def a_file(contents: Contents) -> Callable[[Path], Path]:
    return lambda directory: write(directory / "program", contents)


def with_interpreter(contents: Contents, type: int, mode: int = 0o755) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        interp = write(directory / "interp", contents, mode)
        return user_of(os.fsencode(interp), type=type).write(directory / "program")

    return build


def interpreter_user(make: Callable[[bytes], ElfFile]) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        interp = INTERP.write(directory / "interp")
        return make(os.fsencode(interp)).write(directory / "program")

    return build


def with_path(elf: ElfFile, path: bytes) -> ElfFile:
    return elf.with_interp(path)


def special_interpreter(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        interp = special(make)(directory)
        return user_of(os.fsencode(interp)).write(directory / "program")

    return build


def nobody(directory: Path) -> Setup:
    def setup() -> None:
        os.chdir(directory)
        as_nobody()

    return setup


def opened_for_writing(name: str) -> Callable[[Path], AbstractContextManager[object]]:
    return lambda directory: open(directory / name, "r+b")


def data_limit(directory: Path) -> Setup:
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * GIB, 2 * GIB))


def space_limit(directory: Path) -> Setup:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * GIB, 2 * GIB))


# Under limits of 2 GiB.
LIMITED = {
    "1 GiB of bss": with_data(data(memsz=GIB)),
    "3 GiB of bss": with_data(data(memsz=3 * GIB)),
    "3 GiB of a writable file": with_data(data(filesz=3 * GIB)),
    "3 GiB of a read-only file": with_data(data(filesz=3 * GIB, flags=R)),
    "1 GiB of bss, ET_DYN": with_data(data(memsz=GIB, vaddr=0x10000), type=ET_DYN),
    "3 GiB of bss, ET_DYN": with_data(data(memsz=3 * GIB, vaddr=0x10000), type=ET_DYN),
    "p_align 1 GiB, ET_DYN": exit_program(type=ET_DYN).with_segment(0, align=GIB),
    "p_align 4 GiB, ET_DYN": exit_program(type=ET_DYN).with_segment(0, align=4 * GIB),
    "a gap of 3 GiB, ET_DYN": with_data(data(vaddr=3 * GIB), type=ET_DYN),
    "a gap of 3 GiB, ET_EXEC": with_data(data(vaddr=TEXT_BASE + 3 * GIB)),
}


def noexec_mount(directory: Path) -> Setup:
    """In a mount namespace of its own, and for a user also in a user namespace, make the directory a noexec mount."""
    clone_newns, clone_newuser = 0x20000, 0x10000000
    ms_noexec, ms_remount, ms_bind, ms_rec, ms_private = 8, 32, 4096, 16384, 1 << 18

    def mount(source: bytes | None, target: bytes, flags: int) -> None:
        if LIBC.mount(source, target, None, ctypes.c_ulong(flags), None) < 0:
            raise OSError(ctypes.get_errno(), "mount")

    def setup() -> None:
        where = os.fsencode(directory)
        if LIBC.unshare(clone_newns | (0 if PRIVILEGED else clone_newuser)) < 0:
            raise OSError(ctypes.get_errno(), "unshare")
        mount(None, b"/", ms_rec | ms_private)
        mount(where, where, ms_bind)
        mount(None, where, ms_remount | ms_bind | ms_noexec)

    return setup


# Whose addresses come below /proc/sys/vm/mmap_min_addr, or near it.
AT_THE_BOTTOM = (
    "p_vaddr 0, ET_EXEC", "p_vaddr 0x1000, ET_EXEC", "p_vaddr 0 without bytes from the file",
    "first p_vaddr -0x10000, ET_DYN", "p_align 0x800000000000, ET_DYN", "bss only, as the first segment, ET_DYN",
)  # fmt: skip

CASES = [
    *(Case(f"file: {name}", a_file(contents)) for name, contents in RAW.items()),
    *(Case(f"header: {name}", a_file(elf)) for name, elf in HEADER.items()),
    *(Case(f"load: {name}", a_file(elf)) for name, elf in LOAD.items()),
    *(Case(f"load, as nobody: {name}", a_file(LOAD[name]), nobody) for name in AT_THE_BOTTOM),
    *(Case(f"stack: {name}", a_file(elf)) for name, elf in STACK.items()),
    *(Case(f"interpreter of ET_EXEC: {name}", with_interpreter(elf, ET_EXEC)) for name, elf in INTERPRETER.items()),
    *(Case(f"interpreter of ET_DYN: {name}", with_interpreter(elf, ET_DYN)) for name, elf in INTERPRETER.items()),
    Case("interpreter: no x bit", with_interpreter(INTERP, ET_DYN, 0o644)),
    Case("interpreter: x without r, as nobody", with_interpreter(INTERP, ET_DYN, 0o111), nobody),
    Case("interpreter: for root only, as nobody", with_interpreter(INTERP, ET_DYN, 0o700), nobody),
    Case("interpreter: FIFO", special_interpreter(os.mkfifo)),
    Case("interpreter: socket", special_interpreter(bind_socket)),
    Case("interpreter: directory", special_interpreter(os.mkdir)),
    Case("interpreter: symlink loop", special_interpreter(lambda path: path.symlink_to(path.name))),
    Case("interpreter: dangling symlink", special_interpreter(lambda path: path.symlink_to("missing"))),
    Case("interpreter: open for writing", with_interpreter(INTERP, ET_DYN), around=opened_for_writing("interp")),
    Case("interpreter: noexec mount", with_interpreter(INTERP, ET_DYN), noexec_mount),
    *(Case(f"PT_INTERP: {name}", interpreter_user(make), in_directory) for name, make in USER.items()),
    Case("PT_INTERP, as nobody: program p_align 2^47, ET_DYN",
         interpreter_user(USER["program p_align 2^47, ET_DYN"]), nobody),
    *(Case(f"mutated: {name}", a_file(elf)) for name, elf in bad_mutated.ALONE.items()),
    *(Case(f"mutated, user: {name}", interpreter_user(partial(with_path, elf))) for name, elf in bad_mutated.USER.items()),
    *(Case(f"mutated, interpreter: {name}", with_interpreter(elf, type))
      for name, (type, elf) in bad_mutated.INTERPRETER.items()),
    *(Case(f"limit of data: {name}", a_file(elf), data_limit) for name, elf in LIMITED.items()),
    *(Case(f"limit of address space: {name}", a_file(elf), space_limit) for name, elf in LIMITED.items()),
    *(Case(f"path: {name}", make, in_directory) for name, make in PLACE.items()),
    *(Case(f"path, as nobody: {name}", make, nobody) for name, make in PLACE.items()),
    Case("path: open for writing", a_file(exit_program()), around=opened_for_writing("program")),
    Case("path: open for writing, as nobody", a_file(exit_program()), nobody, opened_for_writing("program")),
    Case("path: noexec mount", a_file(exit_program()), noexec_mount),
    Case("path: noexec mount, not a program", a_file(b"text\n"), noexec_mount),
]  # fmt: skip


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as path:
        yield path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_verdict(case: Case, directory: Path) -> None:
    if case.setup is noexec_mount:
        needs_mounts()
    path = str(case.path(directory))
    setup = case.setup(directory)
    with case.around(directory):
        kernel = kernel_verdict(path, setup=setup)
        ours = reflective_verdict(path, setup=setup)
    if case.name in ONLY_THE_KERNEL:
        assert ours == ONLY_THE_KERNEL[case.name]
    else:
        assert verdict_agrees(kernel, ours), f"kernel: {kernel}; reflective: {ours}"


def print_kernel_verdicts() -> None:
    for case in CASES:
        with public_directory() as directory:
            path = str(case.path(directory))
            with case.around(directory):
                print(f"{case.name:<70} {kernel_verdict(path, setup=case.setup(directory))}")


if __name__ == "__main__":
    print_kernel_verdicts()
