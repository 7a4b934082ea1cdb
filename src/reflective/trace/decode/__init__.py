"""How each system call is written: a table of arguments a call, a file a family."""

from __future__ import annotations

from ..numbers import NAMES
from . import control, file, lock, memory, message, options, process, rare, signal, socket, terminal, time, transfer, waiting
from .base import BY_ONE, FD, FDS, ON_ENTRY, ON_RETURN, RESULT, Call, Kind, Signature, hexadecimal
from .common import LX

# Calls without a decoder of their own: how many arguments they have.
COUNTS = {
    0: "inotify_init uprobe uretprobe vhangup",
    1: "_sysctl adjtimex delete_module get_thread_area io_destroy iopl landlock_restrict_self mq_unlink "
       "sched_get_priority_max sched_get_priority_min sched_getscheduler set_thread_area shmdt swapoff sysfs",
    2: "capget capset clock_adjtime eventfd fanotify_init fremovexattr fsopen io_setup io_uring_setup lremovexattr "
       "memfd_secret mq_notify nfsservctl process_mrelease quotactl_fd removexattr sched_getparam sched_rr_get_interval "
       "sched_setparam set_mempolicy_home_node setdomainname setgroups sethostname settimeofday signalfd timer_gettime "
       "timerfd_gettime userfaultfd ustat utime utimes",
    3: "bpf epoll_ctl_old finit_module fsmount fspick futimesat getdents init_module io_cancel io_submit ioperm "
       "ioprio_get ioprio_set landlock_create_ruleset lookup_dcookie lsm_list_modules map_shadow_stack mbind modify_ldt "
       "mq_getsetattr msgctl msgget open_by_handle_at open_tree pidfd_getfd ptrace rt_sigqueueinfo sched_setattr "
       "sched_setscheduler seccomp semctl semget semop set_mempolicy shmat shmctl shmget syslog timer_create",
    4: "cachestat epoll_ctl epoll_wait fchmodat2 futex_requeue futex_wake io_uring_register kexec_load landlock_add_rule "
       "listmount listxattrat lsm_get_self_attr lsm_set_self_attr migrate_pages mknodat mq_open msgsnd openat2 quotactl "
       "reboot removexattrat rt_tgsigqueueinfo sched_getattr semtimedop sendmmsg statmount sync_file_range tee "
       "timer_settime vmsplice",
    5: "add_key fanotify_mark file_getattr file_setattr fsconfig fsetxattr futex_waitv get_mempolicy io_getevents "
       "kexec_file_load keyctl lsetxattr mount_setattr move_mount mq_timedreceive mq_timedsend msgrcv name_to_handle_at "
       "open_tree_attr perf_event_open process_madvise recvmmsg remap_file_pages request_key setxattr waitid",
    6: "epoll_pwait epoll_pwait2 futex_wait getxattrat io_pgetevents io_uring_enter move_pages preadv2 process_vm_readv "
       "process_vm_writev pselect6 pwritev2 setxattrat",
}  # fmt: skip
_FALLBACK = {name: count for count, names in COUNTS.items() for name in names.split()}

SIGNATURES: dict[str, Signature] = {
    **{name: (LX,) * _FALLBACK.get(name, 6) for name in NAMES.values()},
    **control.CALLS, **file.CALLS, **lock.CALLS, **memory.CALLS, **message.CALLS, **options.CALLS, **process.CALLS,
    **rare.CALLS, **signal.CALLS, **socket.CALLS, **terminal.CALLS, **time.CALLS, **transfer.CALLS, **waiting.CALLS,
}  # fmt: skip
HEXADECIMAL_RESULT = frozenset(("brk", "mmap", "mremap", "shmat"))
OCTAL_RESULT = frozenset(("umask",))
NEVER_RETURN = frozenset(("exit", "exit_group"))


# fmt: off
RETURN_DESCRIPTOR = frozenset((
    "open", "openat", "openat2", "creat", "dup", "dup2", "dup3", "socket", "accept", "accept4", "epoll_create",
    "epoll_create1", "eventfd", "eventfd2", "signalfd", "signalfd4", "timerfd_create", "inotify_init", "inotify_init1",
    "memfd_create", "perf_event_open", "pidfd_open", "pidfd_getfd", "userfaultfd", "fsopen", "fsmount", "fspick", "open_tree",
    "io_uring_setup", "memfd_secret", "fanotify_init", "mq_open", "open_by_handle_at", "landlock_create_ruleset",
))
# fmt: on
F_DUPFD, F_DUPFD_CLOEXEC = 0, 1030
Row = tuple[int, int, int, int, int]


def _rows(name: str) -> list[Row]:
    return [
        (when, kind, arg, count, size)
        for arg, argument in enumerate(SIGNATURES[name])
        for when, kind, count, size in argument.copies
    ]


def copies(name: str) -> tuple[Row, ...]:
    """What the tracer must copy for a call: rows of struct refl_copy."""
    return tuple(row for row in _rows(name) if row[1] != FDS)


def descriptors(name: str) -> tuple[Row, ...]:
    """What it must copy besides to say what the call's descriptors are."""
    rows = [row for row in _rows(name) if row[1] == FDS]
    rows += [(ON_ENTRY, FD, arg, BY_ONE, 1) for arg, kind in enumerate(SIGNATURES[name]) if kind.descriptor]
    if name in RETURN_DESCRIPTOR or name == "fcntl":
        rows.append((ON_RETURN, FD, RESULT, BY_ONE, 1))
    return tuple(rows)


def arguments(call: Call) -> tuple[str, list[str]]:
    """What the call's entry shows, and all of its arguments."""
    signature = SIGNATURES.get(call.name)
    if signature is None:
        unknown = [hexadecimal(value) for value in call.args]
        return ", ".join(unknown), unknown
    words: list[str] = []
    early: list[str] = []
    entry, open_ = "", True
    for arg, kind in enumerate(signature):
        if open_ and kind.out:
            open_ = False
            entry = ", ".join(early) + (", " if early and kind.comma else "")
        text = kind.render(call, arg)
        if open_ and text is not None:
            early.append(_at_entry(call, kind, arg) if kind.grows else text)
        if text is not None:
            words.append(text)
    return (", ".join(words) if open_ else entry), words


def _at_entry(call: Call, kind: Kind, arg: int) -> str:
    returned, call.returned = call.returned, False
    text = kind.render(call, arg)
    call.returned = returned
    return text or ""


def result(call: Call) -> str:
    """What stands behind the equals sign of a call that succeeded."""
    if call.name in HEXADECIMAL_RESULT:
        text = hexadecimal(call.ret & (1 << 64) - 1)
    elif call.name in OCTAL_RESULT:
        text = f"{call.ret:#o}".replace("0o", "0")
        text = "000" if not call.ret else text.rjust(3, "0")
    elif call.base16:
        text = hexadecimal(call.ret)
    elif call.name in RETURN_DESCRIPTOR or (call.name == "fcntl" and call.args[1] in (F_DUPFD, F_DUPFD_CLOEXEC)):
        text = call.descriptor(call.ret, RESULT)
    else:
        text = str(call.ret)
    return f"{text} ({call.note})" if call.note else text


__all__ = ["HEXADECIMAL_RESULT", "NEVER_RETURN", "SIGNATURES", "Call", "Kind", "arguments", "copies", "result"]
