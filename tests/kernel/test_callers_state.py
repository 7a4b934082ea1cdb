"""What the very process that starts a program has set for itself, in any of the three ways that a program is started.

test_state.py prepares a process that then executes the loader: what execve resets is reset by then. Here nothing is.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ENVIRONMENT
from test_limits import in_child
from test_state import account, by_zygote
from verdict import LIBC, NOBODY, public_directory

from reflective import spawn
from reflective.conform.documented import Documented, table, why
from reflective.conform.start import Properties, Start, differences
from reflective.conform.variants import Compiler
from reflective.native import run
from reflective.native.prepare import Request, prepare
from reflective.native.system import _sealed
from reflective.plan.build import build

TIMEOUT_S = 60
PR_SET_PDEATHSIG, PR_SET_SPECULATION_CTRL, PR_SET_MDWE, PR_SET_NO_NEW_PRIVS = 1, 53, 65, 38
MMAP_PAGE_ZERO = 0x100000
MCL_FUTURE = 2
CLONE_FILES, KCMP_FILES, SYS_CLONE, SYS_KCMP = 0x400, 2, 56, 312
THREAD_KEYRING, PROCESS_KEYRING = -1, -2
SYS_MSEAL = 462
SYS_KEYCTL, KEYCTL_GET_KEYRING_ID = 250, 0

FORKED = {"parent's death", "64 MiB of stack, elevated", "unlimited stack, elevated", "MMAP_PAGE_ZERO"}  # not for a zygote
RANDOM = {"MMAP_PAGE_ZERO": {"maps[anonymous#1].gap"}}  # how far it is from page 0 to the next anonymous page

Way = Callable[[str, list[str]], int]


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def stack_limit(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_STACK, (soft, resource.RLIM_INFINITY))


def effectively_root() -> None:
    """Its real user is nobody."""
    os.setresuid(NOBODY, 0, 0)


def another_user_for_files() -> None:
    os.setgroups([0])  # else Linux 6.16 and newer take it for another group: AT_SECURE
    LIBC.setfsuid(NOBODY)
    LIBC.setfsgid(NOBODY)


def signal_at_parents_death() -> None:
    effectively_root()
    checked(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0))


def large_stack_as_root() -> None:
    effectively_root()
    stack_limit(64 << 20)


def unlimited_stack_as_root() -> None:
    effectively_root()
    stack_limit(resource.RLIM_INFINITY)


def no_written_code() -> None:
    checked(LIBC.prctl(PR_SET_MDWE, 1, 0, 0, 0))


def no_written_code_here() -> None:
    checked(LIBC.prctl(PR_SET_MDWE, 3, 0, 0, 0))


def page_at_zero() -> None:
    checked(LIBC.personality(MMAP_PAGE_ZERO))


def pending_timer() -> None:
    """A POSIX timer whose blocked signal waits."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    event, timer = struct.pack("<QiI48x", 0, signal.SIGUSR1, 0), ctypes.c_void_p()
    checked(LIBC.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)))
    checked(LIBC.timer_settime(timer, 0, struct.pack("<4q", 0, 0, 0, 1), None))
    while signal.SIGUSR1 not in signal.sigpending():
        time.sleep(0.001)


def locked_memory() -> None:
    """All that will be mapped."""
    checked(LIBC.mlockall(MCL_FUTURE))


def keyrings() -> None:
    """Of the thread and of the process."""
    for one in (THREAD_KEYRING, PROCESS_KEYRING):
        checked(LIBC.syscall(SYS_KEYCTL, KEYCTL_GET_KEYRING_ID, one, 1))


def nothing() -> None:
    pass


ROOTS = {"locked memory", "file IDs", "parent's death", "64 MiB of stack, elevated", "unlimited stack, elevated"}
STATES: dict[str, Callable[[], None]] = {
    "none": nothing,
    "file IDs": another_user_for_files,
    "parent's death": signal_at_parents_death,
    "64 MiB of stack, elevated": large_stack_as_root,
    "unlimited stack, elevated": unlimited_stack_as_root,
    "MDWE": no_written_code,
    "MDWE, not inherited": no_written_code_here,
    "MMAP_PAGE_ZERO": page_at_zero,
    "pending timer": pending_timer,
    "keyrings": keyrings,
    "locked memory": locked_memory,
}
# What differs and has a row in docs/kernel-parity.md: the state, the way, the properties.
ROWS = {
    ("MDWE, not inherited", "in place"): {"prctl.MDWE"},
    ("pending timer", "in place"): {"status.ShdPnd", "signals.pending"},
}


def by_execve(path: str, words: list[str]) -> int:
    """In a child."""
    pid = os.fork()
    if pid == 0:
        os.execve(path, words, ENVIRONMENT)
    return pid


def here(path: str, words: list[str]) -> int:
    os.execve(path, words, ENVIRONMENT)


def request(path: str, words: list[str], *, in_place: bool = False) -> Request:
    environment = tuple(f"{name}={value}".encode() for name, value in ENVIRONMENT.items())
    return Request(build(path, in_place=in_place), tuple(map(os.fsencode, words)), environment)


def by_zygotes(path: str, words: list[str]) -> int:
    return spawn(path, words, ENVIRONMENT)


def by_fork(path: str, words: list[str]) -> int:
    return run.spawn(request(path, words)).pid


def in_place(path: str, words: list[str]) -> int:
    run.replace(request(path, words, in_place=True))
    raise AssertionError("replace returned")


WAYS: dict[str, tuple[Way, Way]] = {
    "zygote": (by_execve, by_zygotes),
    "fork": (by_execve, by_fork),
    "in place": (here, in_place),
}


def told(prepared: Callable[[], None], way: Way, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """What the program says that a child of this process starts, or becomes, once it has prepared itself."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.alarm(TIMEOUT_S)
            os.dup2(writer, 1)
            prepared()
            status = os.waitstatus_to_exitcode(os.waitpid(way(words[0], words), 0)[1]) & 255
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        output = file.read()
    return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output, b"")


def properties(prepared: Callable[[], None], way: Way, program: Path) -> Properties:
    done = told(prepared, way, [str(program)])
    return Start(account(done), exact=False, first=False, huge=False).properties()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STATES)
def test_as_after_execve(compiler: Compiler, name: str, way: str) -> None:
    if name in ROOTS and os.geteuid():
        pytest.skip("only root can make this situation")
    documented: Documented = by_zygote() if way == "zygote" and name not in FORKED else table()
    with public_directory() as directory:
        program = Path(shutil.copy(compiler.build("dynamic"), directory))
        kernel, ours = (properties(STATES[name], one, program) for one in WAYS[way])
    found = differences(kernel, ours)
    names = {one.name for one in found if not why(one, documented)} - RANDOM.get(name, set())
    assert names == ROWS.get((name, way), set()), "\n".join(map(str, found))


def test_keyrings_stay_in_place() -> None:
    """execve drops both, and so does fork; in place nothing can."""
    script = "import ctypes; print([ctypes.CDLL(None).syscall(250, 0, key, 0) > 0 for key in (-1, -2)])"
    words = ["/usr/bin/python3", "-c", script]
    said = {name: told(keyrings, way, words).stdout for name, (_, way) in WAYS.items()}
    assert said == {"zygote": b"[False, False]\n", "fork": b"[False, False]\n", "in place": b"[True, True]\n"}
    assert told(keyrings, here, words).stdout == b"[False, False]\n"


@pytest.mark.parametrize("way", [here, in_place])
def test_descriptors_are_shared_no_more(way: Way) -> None:
    """With a process that had the same table of them. Past the load the program waits; kcmp then compares."""

    def work() -> bool:
        (reader, writer), (gate, opener) = os.pipe(), os.pipe()
        os.dup2(gate, 0), os.dup2(writer, 1)
        pid = LIBC.syscall(SYS_CLONE, CLONE_FILES | signal.SIGCHLD, None, None, None, None)
        if pid == 0:
            try:
                os.read(gate, 1)
                way("/bin/sh", ["sh", "-c", "echo; read line"])
            finally:
                os._exit(99)
        before = LIBC.syscall(SYS_KCMP, os.getpid(), pid, KCMP_FILES, 0, 0)
        os.write(opener, b"1")
        select.select([reader], [], [], 20)
        after = LIBC.syscall(SYS_KCMP, os.getpid(), pid, KCMP_FILES, 0, 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return bool(before == 0 and after > 0)

    assert in_child(work)


@pytest.mark.parametrize("linked", ["execstack", "noexecstack"])
def test_executable_stack_without_written_code(tmp_path: Path, linked: str) -> None:
    """Under PR_SET_MDWE the kernel still gives what it does not give to mmap: its own stack, which a zygote keeps."""
    (tmp_path / "main.c").write_text("int main(void) { return 42; }")
    program = tmp_path / "main"
    subprocess.run(["gcc", f"-Wl,-z,{linked},--no-warn-execstack", tmp_path / "main.c", "-o", program], check=True)
    words = [str(program)]
    for way in (by_execve, by_zygotes):
        assert told(no_written_code, way, words).returncode == 42
    assert told(no_written_code, by_fork, words).returncode == (99 if linked == "execstack" else 42)


def test_a_sealed_mapping_is_told() -> None:
    """From another, by the kernel's own word: a filter may refuse to change either."""

    def work() -> list[bool]:
        LIBC.mmap.restype, zero = ctypes.c_void_p, ctypes.c_void_p(0)
        pages = [LIBC.mmap(zero, ctypes.c_size_t(4096), protection, 0x22, -1, zero) for protection in (1, 3)]
        checked(LIBC.syscall(SYS_MSEAL, ctypes.c_void_p(pages[0]), ctypes.c_size_t(4096), 0))
        return [_sealed(page) for page in pages]

    if LIBC.syscall(SYS_MSEAL, None, ctypes.c_size_t(0), 0) < 0:
        pytest.skip("nothing can be sealed here: needs Linux 6.10")
    assert in_child(work) == [True, False]


def without_capabilities() -> None:
    assert LIBC.capset(struct.pack("<Ii", 0x20080522, 0), bytes(24)) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has capabilities to lose")
def test_capabilities_that_execve_gives_root_anew() -> None:
    """A fork has none to give, and says so; a zygote has been executed."""
    words = ["/bin/grep", "CapPrm", "/proc/self/status"]
    assert told(without_capabilities, by_zygotes, words).stdout == told(without_capabilities, by_execve, words).stdout
    assert told(without_capabilities, by_fork, words).stdout == b"CapPrm:\t0000000000000000\n"

    def degraded(prepared: Callable[[], None]) -> bytes:
        def say(path: str, words: list[str]) -> int:
            prepared()
            found = prepare(request(path, words), in_place=False).degraded
            os.write(1, " ".join(item.what for item in found).encode())
            os._exit(0)

        return told(nothing, say, words).stdout

    def without_more_privileges() -> None:
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        without_capabilities()

    assert degraded(nothing) == b""
    assert degraded(without_capabilities) == b"privilege exe"
    assert degraded(without_more_privileges) == b"exe"
