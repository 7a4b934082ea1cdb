"""What a process has inherited, or set, before it starts a program: some of it execve hands on, some it takes back."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from ..values import Value

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_TIMERSLACK, PR_SET_NO_NEW_PRIVS = 4, 8, 24, 29, 38
PR_SET_THP_DISABLE = 41
CAP_SYS_TIME = 25

# A UTF-8 locale, named: without one CPython adds LC_CTYPE to its own environment (PEP 538), and there is a situation for that.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "WITNESS": "1"}

Environment = dict[str, str] | dict[bytes, bytes]


class Situation(Value):
    """Arguments and environment of the program, and what its process does before it calls execve, or becomes the loader."""

    arguments: tuple[str | bytes, ...] = ()
    environment: Environment = ENVIRONMENT
    before: tuple[Callable[[], object], ...] = ()
    cwd: str = "."
    privileged: bool = False  # it takes a capability to make it

    def prepare(self) -> None:
        """Runs in the child, before execve."""
        for step in self.before:
            step()


def prctl(option: int, value: int) -> None:
    """prctl in this process. OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _limit(kind: int, soft: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


def _ignore(*signals: int) -> Callable[[], object]:
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in signals]


def _write(path: str, text: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(text, encoding="ascii")


SITUATIONS = {
    "arguments": Situation(("", "a b", "--", "-x", b"\xff\xfe\x80", "é", "x" * 5000, "")),
    "600 arguments": Situation(tuple(f"argument {number}" for number in range(600))),
    "longest argument": Situation(("x" * (131072 - 1),)),
    "1 MiB of arguments": Situation(("y" * 100_000,) * 10),
    "no environment": Situation(environment={}),
    "C locale": Situation(environment={"PATH": "/bin", "LC_ALL": "", "A": "1"}),
    "bytes in the environment": Situation(environment={b"\xff": b"\x80=\xfe", b"B": b"", b"LANG": b"C.UTF-8"}),
    "900 variables": Situation(environment={f"VARIABLE_{number}": "v" * 40 for number in range(900)}),
    "ignored signals": Situation(before=(_ignore(signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3),)),
    "ignored SIGCHLD": Situation(before=(_ignore(signal.SIGCHLD),)),
    "ignored SIGINT": Situation(before=(_ignore(signal.SIGINT),)),
    "ignored SIGPIPE": Situation(before=(_ignore(signal.SIGPIPE, signal.SIGXFSZ),)),
    "blocked signals": Situation(
        before=(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM, signal.SIGRTMAX}),)
    ),
    "1 MiB stack": Situation(before=(_limit(resource.RLIMIT_STACK, 1 << 20),)),
    "512 MiB stack": Situation(before=(_limit(resource.RLIMIT_STACK, 512 << 20),)),
    "unlimited stack": Situation(before=(_limit(resource.RLIMIT_STACK, resource.RLIM_INFINITY),)),
    "limited address space": Situation(before=(_limit(resource.RLIMIT_AS, 2 << 30),)),
    "limited data": Situation(before=(_limit(resource.RLIMIT_DATA, 256 << 20),)),
    "few descriptors": Situation(before=(_limit(resource.RLIMIT_NOFILE, 64),)),
    "root as directory": Situation(cwd="/"),
    "umask": Situation(before=(lambda: os.umask(0o027),)),
    "nice": Situation(before=(lambda: os.nice(5),)),
    "one processor": Situation(before=(lambda: os.sched_setaffinity(0, {0}),)),
    "no new privileges": Situation(before=(lambda: prctl(PR_SET_NO_NEW_PRIVS, 1),)),
    "keep capabilities": Situation(before=(lambda: prctl(PR_SET_KEEPCAPS, 1),)),
    "not dumpable": Situation(before=(lambda: prctl(PR_SET_DUMPABLE, 0),)),
    "timer slack": Situation(before=(lambda: prctl(PR_SET_TIMERSLACK, 70_000),)),
    "no huge pages": Situation(before=(lambda: prctl(PR_SET_THP_DISABLE, 1),)),
    "core dump filter": Situation(before=(_write("/proc/self/coredump_filter", "0x7f"),)),
    "out-of-memory score": Situation(before=(_write("/proc/self/oom_score_adj", "300"),)),
    "other groups": Situation(before=(lambda: os.setgroups([7, 9]), lambda: os.setresgid(7, 7, 7)), privileged=True),
    "one capability less": Situation(before=(lambda: prctl(PR_CAPBSET_DROP, CAP_SYS_TIME),), privileged=True),
    "closed input": Situation(before=(lambda: os.close(0),)),
}  # fmt: skip
