"""Capabilities after a start from a process that holds some: execve's rules, not fork's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import pytest

import reflective

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAP_CHOWN, CAP_NET_RAW, CAP_SYS_ADMIN = 0, 13, 21
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has capabilities to lose")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    header = (ctypes.c_uint * 2)(0x20080522, 0)
    sets = [value >> shift & 0xFFFFFFFF for shift in (0, 32) for value in (effective, permitted, inheritable)]
    assert LIBC.capset(header, (ctypes.c_uint * 6)(*sets)) == 0


def held() -> int:
    with open("/proc/self/status", "rb") as file:  # in bytes: a codec could not be imported any more as another user
        return next(int(line.split()[1], 16) for line in file if line.startswith(b"CapPrm"))


def as_nobody_with(*capabilities: int) -> None:
    LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    mask = sum(1 << capability for capability in capabilities)
    capset(mask, mask, mask)


def as_nobody_with_all() -> None:
    LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    capset(held(), held(), 0)


def with_ambient() -> None:
    as_nobody_with(CAP_CHOWN, CAP_NET_RAW, CAP_SYS_ADMIN)
    assert LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0


def root_with_none_effective() -> None:
    capset(0, held(), 0)


def nobody_but_effectively_root() -> None:
    os.setresuid(NOBODY, 0, 0)


def root_but_effectively_nobody() -> None:
    os.setresuid(0, NOBODY, 0)


def saved_root() -> None:
    os.setresuid(NOBODY, NOBODY, 0)


def another_saved_group() -> None:
    os.setresgid(0, 0, 7)


PREPARATIONS = [
    as_nobody_with_all,
    lambda: as_nobody_with(CAP_CHOWN),
    with_ambient,
    root_with_none_effective,
    nobody_but_effectively_root,
    root_but_effectively_nobody,
    saved_root,
    another_saved_group,
    lambda: None,
]
NAMES = ["all kept", "one kept", "one ambient", "none effective", "euid 0", "uid 0", "saved uid 0", "saved gid", "root"]


def credentials(prepare: Callable[[], object], start: Callable[[str, list[str], dict[str, str]], int]) -> str:
    """The credential lines of a program's own status, started in a child that has been prepared."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            os.dup2(writer, 1)
            child = start("/bin/grep", ["grep", "-E", "^(Cap|Uid|Gid|NoNewPrivs)", "/proc/self/status"], {})
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
        finally:
            os._exit(99)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


@pytest.mark.parametrize("prepare", PREPARATIONS, ids=NAMES)
def test_as_after_execve(prepare: Callable[[], object]) -> None:
    assert credentials(prepare, reflective.spawn) == credentials(prepare, os.posix_spawn)


def test_fork_alone_would_keep_them() -> None:
    """The comparison above can fail: what the child is started with differs from what a program may keep."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        as_nobody_with_all()
        os.write(writer, held().to_bytes(8, "little"))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert int.from_bytes(file.read(), "little") != 0
    os.waitpid(pid, 0)
