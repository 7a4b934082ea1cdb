"""What the kernel makes of a program, and what reflective makes of it, as one comparable value.

The kernel half is a real execve in a forked child, watched with ptrace up to the return of that one system call.
That shows even the error which nobody can otherwise see: the one load_elf_binary returns after the point of no
return, where execve has no caller to return to and the kernel kills the process with SIGSEGV instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import re
import resource
import select
import signal
import struct
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
NOBODY = 65534
CAP_SYS_RAWIO, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 17, 21, 40
TIMEOUT_S = 20.0

Str = str | bytes
Env = Mapping[Str, Str] | None  # None: that of this process
Setup = Callable[[], None]

NOTHING: Mapping[Str, Str] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one attempt to run a program ended.

    errno   what execve returned, or the LoadError said; 0 when the program was entered
    status  its exit status, or minus the signal that killed it; None when the caller lived on with the error
    output  what it wrote to standard output
    """

    errno: int
    status: int | None
    output: bytes = b""

    def __str__(self) -> str:
        error = errno.errorcode.get(self.errno, str(self.errno)) if self.errno else "runs"
        if self.status is None:
            return error
        if self.status >= 0:
            return f"{error}, exit {self.status}"
        return f"{error}, {signal.Signals(-self.status).name}"


def verdict_agrees(kernel: Verdict, ours: Verdict) -> bool:
    """The rule of all comparisons.

    - Where the program runs under the kernel, it runs under reflective, says the same and ends the same.
    - Where execve fails, reflective raises the same errno.
    - Where the kernel kills the process after the point of no return, reflective, which checks everything before
      it, raises the errno that load_elf_binary returned, or lets the child die of the same signal, unentered.
    """
    if kernel.errno == 0 or kernel.status is None:
        return ours == kernel
    raised = Verdict(kernel.errno, None)
    died = Verdict(0, kernel.status)
    return ours in (raised, died)


def assert_same_verdict(
    path: Str, argv: Sequence[Str] = ("program",), env: Env = NOTHING, setup: Setup | None = None
) -> Verdict:
    """Run both; fail unless they agree. Returns the kernel's verdict."""
    kernel = kernel_verdict(path, argv, env, setup)
    ours = reflective_verdict(path, argv, env, setup)
    same = verdict_agrees(kernel, ours)
    if not may_set_exe():
        same = verdict_agrees(_without_exe(kernel), _without_exe(ours))
    assert same, f"kernel: {kernel} {kernel.output!r}\nreflective: {ours} {ours.output!r}"
    return kernel


def has_capability(number: int) -> bool:
    """Whether it is in this process's effective set (linux/capability.h)."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return bool(effective >> number & 1)


def may_set_exe() -> bool:
    """kernel/sys.c: prctl_set_mm_map."""
    return has_capability(CAP_SYS_ADMIN) or has_capability(CAP_CHECKPOINT_RESTORE)


def least_address() -> int:
    """The lowest address that this process may map: security/commoncap.c: cap_mmap_addr."""
    return 0 if has_capability(CAP_SYS_RAWIO) else int(Path("/proc/sys/vm/mmap_min_addr").read_text())


def _without_exe(verdict: Verdict) -> Verdict:
    """Without what tests/programs/argv.c says of /proc/self/exe."""
    return replace(verdict, output=re.sub(rb'"exe": "[^"]*"', b'"exe": null', verdict.output))


def kernel_verdict(path: Str, argv: Sequence[Str] = ("program",), env: Env = NOTHING, setup: Setup | None = None) -> Verdict:
    """execve(path, argv, env) in a child, after `setup()` there."""
    c_path, c_argv = os.fsencode(path), c_strings([os.fsencode(one) for one in argv])
    c_env = c_strings([os.fsencode(key) + b"=" + os.fsencode(value) for key, value in (env or {}).items()])
    with _output_file() as output:
        pid = os.fork()
        if pid == 0:
            with _no_return():
                _become_program(output, setup)
                _ptrace(PTRACE_TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                LIBC.execve(c_path, c_argv, own_environment() if env is None else c_env)
                os._exit(0)
        with _killed_on_error(pid):
            error = _execve_result(pid)
            status = _wait(pid)
        return Verdict(error, None if error and status == 0 else status, _contents(output))


def reflective_verdict(
    path: Str, argv: Sequence[Str] = ("program",), env: Env = NOTHING, setup: Setup | None = None
) -> Verdict:
    """reflective.spawn(path, argv, env) in a host process of its own, after `setup()` there."""
    import reflective
    from reflective.errors import LoadError

    def attempt() -> Verdict | str:
        try:
            pid = reflective.spawn(path, list(argv), None if env is None else dict(env))
            with _killed_on_error(pid):
                return Verdict(0, _wait(pid))
        except LoadError as failure:
            return Verdict(failure.errno or -1, None)
        except BaseException:
            return traceback.format_exc()

    with _output_file() as output, _output_file() as answer:
        host = os.fork()
        if host == 0:
            with _no_return():
                os.setsid()  # a group of its own, so that a hanging child can be ended along with it
                _become_program(output, setup)
                os.pwrite(answer, pickle.dumps(attempt()), 0)
                os._exit(0)
        with _killed_on_error(host, group=True):
            status = _wait(host, 2 * TIMEOUT_S)
        assert status == 0, f"the process that called reflective.spawn ended with {status}"
        verdict = pickle.loads(_contents(answer))
        assert isinstance(verdict, Verdict), f"reflective.spawn raised what it should not\n{verdict}"
        return Verdict(verdict.errno, verdict.status, _contents(output))


# Setups: what the child does to itself before the attempt.


def as_nobody() -> None:
    """Drop root's rights. Nothing to do for a user who has none."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def in_directory(directory: Path) -> Setup:
    return lambda: os.chdir(directory)


def with_stack_limit(limit: int) -> Setup:
    return lambda: resource.setrlimit(resource.RLIMIT_STACK, (limit, resource.RLIM_INFINITY))


# Helpers of the tests.


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A temporary directory that every user can reach, unlike pytest's tmp_path."""
    with tempfile.TemporaryDirectory(prefix="reflective-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def compile_program(name: str, directory: Path) -> Path:
    """tests/programs/NAME.c, compiled static into `directory`."""
    binary = directory / name
    subprocess.run(["cc", "-O1", "-static", "-o", binary, PROGRAMS / f"{name}.c"], check=True)
    return binary


# ptrace and the like, by ctypes: the tests use nothing of what they test.

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
LIBC.ptrace.restype = ctypes.c_long
LIBC.execve.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)

PTRACE_TRACEME, PTRACE_DETACH, PTRACE_SYSCALL = 0, 17, 24
PTRACE_SETOPTIONS, PTRACE_GET_SYSCALL_INFO = 0x4200, 0x420E
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEEXEC, PTRACE_O_EXITKILL = 0x1, 0x10, 0x100000
SYSCALL_ENTRY, SYSCALL_EXIT = 1, 2
SYS_EXECVE = 59


def c_strings(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)


def own_environment() -> ctypes.c_void_p:
    """C's `environ`: all that an exec of this process hands on, where os.environ lacks what has no "="."""
    return ctypes.c_void_p.in_dll(LIBC, "environ")


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    if LIBC.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}")


def _execve_result(pid: int) -> int:
    """Follow a stopped child through its execve; the errno that returns, or 0. The child then runs untraced."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), "the child failed before its execve"
    _ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)
    entered = -1
    info = ctypes.create_string_buffer(88)
    while True:
        _ptrace(PTRACE_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSTOPPED(status), "the child ended within its execve"
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            continue  # the event of a successful execve
        _ptrace(PTRACE_GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
        op, value = info.raw[0], struct.unpack_from("<q", info.raw, 24)[0]
        if op == SYSCALL_ENTRY:
            entered = value
        elif op == SYSCALL_EXIT and entered == SYS_EXECVE:
            _ptrace(PTRACE_DETACH, pid)
            return -int(value)


def _wait(pid: int, timeout_s: float = TIMEOUT_S) -> int:
    """The child's exit status, or minus the signal that killed it."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError(f"process {pid} still runs after {timeout_s} s")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def _killed_on_error(pid: int, *, group: bool = False) -> Iterator[None]:
    """Leave no process behind when what happens within fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if group:
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


@contextlib.contextmanager
def _no_return() -> Iterator[None]:
    """In a forked child: never fall back into the test run."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


@contextlib.contextmanager
def _output_file() -> Iterator[int]:
    fd = os.memfd_create("verdict")
    try:
        yield fd
    finally:
        os.close(fd)


def _contents(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _become_program(output: int, setup: Setup | None) -> None:
    """In a forked child: standard output into the file, no core dumps, then `setup`."""
    os.dup2(output, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if setup:
        setup()
