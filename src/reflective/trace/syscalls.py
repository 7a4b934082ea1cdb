"""System calls and errors by name, and sets of calls as `-e trace=` selects them."""

from __future__ import annotations

import errno
import os

from . import decode
from .decode.common import DIRFD, FD, PATH
from .numbers import NAMES

NUMBERS = {name: number for number, name in NAMES.items()}
RESTARTS = {
    512: ("ERESTARTSYS", "To be restarted if SA_RESTART is set"),
    513: ("ERESTARTNOINTR", "To be restarted"),
    514: ("ERESTARTNOHAND", "To be restarted if no handler"),
    516: ("ERESTART_RESTARTBLOCK", "Interrupted by signal"),
}
_NAMES = {number: name for number, name in errno.errorcode.items() if name not in ("EWOULDBLOCK", "EDEADLOCK", "ENOTSUP")}
_NAMES |= {errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK", errno.EOPNOTSUPP: "EOPNOTSUPP"}


def name_of(number: int) -> str:
    """A call's name, or one made of its number."""
    return NAMES.get(number) or f"syscall_{number:#x}"


def errno_name(number: int) -> str:
    """An error's name, the kernel's own restart codes included."""
    return RESTARTS[number][0] if number in RESTARTS else _NAMES.get(number, f"E{number}")


def error_text(number: int) -> str:
    """What stands behind the equals sign of a call that failed."""
    if number in RESTARTS:
        return "? {} ({})".format(*RESTARTS[number])
    return f"-1 {errno_name(number)} ({os.strerror(number)})"


def _with(*kinds: decode.Kind) -> set[str]:
    return {name for name, signature in decode.SIGNATURES.items() if any(kind is one for kind in kinds for one in signature)}


def classes() -> dict[str, frozenset[str]]:
    """The sets of calls that have a name: %file takes a path, %desc a descriptor."""
    words = {
        "process": "execve execveat fork vfork clone clone3 exit exit_group wait4 waitid kill tkill tgkill "
        "rt_sigqueueinfo "
        "rt_tgsigqueueinfo pidfd_send_signal pidfd_open unshare",
        "ipc": "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
        "creds": " ".join(
            name for name in NUMBERS if name.startswith(("getuid", "geteuid", "getgid", "getegid", "setuid", "setgid"))
        )
        + " getgroups setgroups getresuid getresgid setresuid setresgid setreuid setregid setfsuid setfsgid "
        "capget capset prctl",
        "clock": "time gettimeofday settimeofday adjtimex clock_gettime clock_settime clock_getres clock_adjtime",
    }
    sets: dict[str, set[str]] = {name: set(text.split()) & NUMBERS.keys() for name, text in words.items()}
    sets["file"] = (
        _with(PATH) | {"getcwd", "fanotify_mark", "name_to_handle_at", "utime", "utimes", "mknodat", "openat2"}
    ) - {"memfd_create"}
    memory_fd = {
        "mmap",
        "memfd_create",
        "epoll_wait",
        "epoll_pwait",
        "epoll_ctl",
        "timerfd_gettime",
        "pidfd_getfd",
        "select",
        "poll",
    }
    sets["desc"] = (
        (_with(FD, DIRFD) - decode.socket.CALLS.keys())
        | memory_fd
        | {"pipe", "pipe2", "epoll_create", "epoll_create1", "eventfd2", "signalfd4", "ppoll"}
    )
    sets["memory"] = {*decode.memory.CALLS, "shmat", "shmdt", "mbind", "process_madvise"} - {"membarrier"}
    sets["signal"] = {*decode.signal.CALLS, "rt_sigqueueinfo", "rt_tgsigqueueinfo", "signalfd", "pidfd_send_signal"}
    sets["network"] = sets["net"] = {*decode.socket.CALLS, "sendmmsg", "recvmmsg"}
    sets["all"] = set(NUMBERS)
    return {name: frozenset(members) for name, members in sets.items()}


def select(expression: str) -> frozenset[int]:
    """The numbers that `trace=%file,openat,!mmap` selects; ValueError says which name is unknown.

    Items add; those with an exclamation mark take away, from all calls if nothing was added before.
    """
    key, equals, text = expression.partition("=")
    if equals and key not in ("trace", "t"):
        raise ValueError(f"{key!r}: only trace= is known here")
    chosen: set[str] | None = None
    for item in (text if equals else expression).split(","):
        name, negated = item.removeprefix("!"), item.startswith("!")
        members = _members(name)
        if negated or (text or expression).startswith("!"):
            chosen = (set(NUMBERS) if chosen is None else chosen) - members
        else:
            chosen = members | (chosen or set())
    return frozenset(NUMBERS[name] for name in chosen or ())


def _members(name: str) -> set[str]:
    sets = classes()
    if name.startswith("%") and name[1:] in sets:
        return set(sets[name[1:]])
    if name in ("all", "none"):
        return set(NUMBERS) if name == "all" else set()
    if name in NUMBERS:
        return {name}
    what = "class" if name.startswith("%") else "system call"
    raise ValueError(f"{name!r} is no {what} (classes: {', '.join('%' + one for one in sorted(sets))})")
