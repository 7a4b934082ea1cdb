"""Calls that few programs make: options and flags by name, structures as addresses."""

from __future__ import annotations

from .base import Call, Kind, Signature, bits, choice, flags, hexadecimal, named, named_flags, numbered
from .common import DIRFD, FD, LU, LX, PATH, STR, D, P, U, X, octal_mode
from .file import open_flags
from .memory import ADVICE_ARG

BPF = numbered(
    "MAP_CREATE MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_GET_NEXT_KEY PROG_LOAD OBJ_PIN OBJ_GET PROG_ATTACH "
    "PROG_DETACH PROG_TEST_RUN PROG_GET_NEXT_ID MAP_GET_NEXT_ID PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID OBJ_GET_INFO_BY_FD "
    "PROG_QUERY RAW_TRACEPOINT_OPEN BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY MAP_LOOKUP_AND_DELETE_ELEM MAP_FREEZE "
    "BTF_GET_NEXT_ID MAP_LOOKUP_BATCH MAP_LOOKUP_AND_DELETE_BATCH MAP_UPDATE_BATCH MAP_DELETE_BATCH LINK_CREATE LINK_UPDATE "
    "LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS ITER_CREATE LINK_DETACH PROG_BIND_MAP", prefix="BPF_",
)  # fmt: skip
PERF = {1: "PERF_FLAG_FD_NO_GROUP", 2: "PERF_FLAG_FD_OUTPUT", 4: "PERF_FLAG_PID_CGROUP", 8: "PERF_FLAG_FD_CLOEXEC"}
RING_ENTER = bits("GETEVENTS SQ_WAKEUP SQ_WAIT EXT_ARG REGISTERED_RING", "IORING_ENTER_")
RING_REGISTER = numbered(
    "REGISTER_BUFFERS UNREGISTER_BUFFERS REGISTER_FILES UNREGISTER_FILES REGISTER_EVENTFD UNREGISTER_EVENTFD "
    "REGISTER_FILES_UPDATE REGISTER_EVENTFD_ASYNC REGISTER_PROBE REGISTER_PERSONALITY UNREGISTER_PERSONALITY "
    "REGISTER_RESTRICTIONS REGISTER_ENABLE_RINGS REGISTER_FILES2 REGISTER_FILES_UPDATE2 REGISTER_BUFFERS2 "
    "REGISTER_BUFFERS_UPDATE REGISTER_IOWQ_AFF UNREGISTER_IOWQ_AFF REGISTER_IOWQ_MAX_WORKERS REGISTER_RING_FDS "
    "UNREGISTER_RING_FDS", prefix="IORING_",
)  # fmt: skip
SECCOMP = numbered("SECCOMP_SET_MODE_STRICT SECCOMP_SET_MODE_FILTER SECCOMP_GET_ACTION_AVAIL SECCOMP_GET_NOTIF_SIZES")
SECCOMP_FLAGS = bits(
    "SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_NEW_LISTENER "
    "SECCOMP_FILTER_FLAG_TSYNC_ESRCH"
)
KCMP = numbered("KCMP_FILE KCMP_VM KCMP_FILES KCMP_FS KCMP_SIGHAND KCMP_IO KCMP_SYSVSEM KCMP_EPOLL_TFD")
WHO = numbered("IOPRIO_WHO_PROCESS IOPRIO_WHO_PGRP IOPRIO_WHO_USER", 1)
PRIORITY_CLASSES = numbered("IOPRIO_CLASS_NONE IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE")
IPC = {0o1000: "IPC_CREAT", 0o2000: "IPC_EXCL", 0o4000: "IPC_NOWAIT"}
SHARED = {0o1000: "IPC_CREAT", 0o2000: "IPC_EXCL", 0o4000: "SHM_HUGETLB", 0o10000: "SHM_NORESERVE"}
IPC_COMMANDS = numbered("IPC_RMID IPC_SET IPC_STAT IPC_INFO")
MOUNT = {1: "MS_RDONLY", 2: "MS_NOSUID", 4: "MS_NODEV", 8: "MS_NOEXEC", 16: "MS_SYNCHRONOUS", 32: "MS_REMOUNT",
         64: "MS_MANDLOCK", 128: "MS_DIRSYNC", 256: "MS_NOSYMFOLLOW", 1024: "MS_NOATIME", 2048: "MS_NODIRATIME",
         4096: "MS_BIND", 8192: "MS_MOVE", 0x4000: "MS_REC", 0x8000: "MS_SILENT", 1 << 16: "MS_POSIXACL",
         1 << 17: "MS_UNBINDABLE", 1 << 18: "MS_PRIVATE", 1 << 19: "MS_SLAVE", 1 << 20: "MS_SHARED", 1 << 21: "MS_RELATIME",
         1 << 23: "MS_I_VERSION", 1 << 24: "MS_STRICTATIME", 1 << 25: "MS_LAZYTIME"}  # fmt: skip
UMOUNT = {1: "MNT_FORCE", 2: "MNT_DETACH", 4: "MNT_EXPIRE", 8: "UMOUNT_NOFOLLOW"}
PTRACE = numbered("PTRACE_TRACEME PTRACE_PEEKTEXT PTRACE_PEEKDATA PTRACE_PEEKUSER PTRACE_POKETEXT PTRACE_POKEDATA "
                  "PTRACE_POKEUSER PTRACE_CONT PTRACE_KILL PTRACE_SINGLESTEP") | {
    12: "PTRACE_GETREGS", 13: "PTRACE_SETREGS", 16: "PTRACE_ATTACH", 17: "PTRACE_DETACH", 24: "PTRACE_SYSCALL",
    0x4200: "PTRACE_SETOPTIONS", 0x4201: "PTRACE_GETEVENTMSG", 0x4202: "PTRACE_GETSIGINFO", 0x4203: "PTRACE_SETSIGINFO",
    0x4204: "PTRACE_GETREGSET", 0x4205: "PTRACE_SETREGSET", 0x4206: "PTRACE_SEIZE", 0x4207: "PTRACE_INTERRUPT",
    0x4208: "PTRACE_LISTEN",
}  # fmt: skip
SYSLOG = numbered(
    "CLOSE OPEN READ READ_ALL READ_CLEAR CLEAR CONSOLE_OFF CONSOLE_ON CONSOLE_LEVEL SIZE_UNREAD SIZE_BUFFER",
    prefix="SYSLOG_ACTION_",
)  # fmt: skip
SYSLOG_ALONE = (0, 1, 5, 6, 7, 9, 10)


def _priority_text(value: int) -> str:
    return f"IOPRIO_PRIO_VALUE({choice(value >> 13, PRIORITY_CLASSES, 'IOPRIO_CLASS_???')}, {value & 0x1FFF})"


def _who(call: Call, arg: int) -> str:
    if call.name == "ioprio_get" and call.returned and not call.error:
        call.base16, call.note = True, _priority_text(call.ret)
    return choice(call.args[arg] & 0xFFFFFFFF, WHO, "IOPRIO_WHO_???")


def _ipc_flags(table: dict[int, str]) -> Kind:
    def render(call: Call, arg: int) -> str:
        value = call.args[arg] & 0xFFFFFFFF
        known = flags(value & ~0o777, table, "IPC_???") + "|" if value & ~0o777 else ""
        return known + octal_mode(value & 0o777)

    return Kind(render)


def _seccomp_flags(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    return flags(value, SECCOMP_FLAGS, "SECCOMP_FILTER_FLAG_???") if call.args[0] == 1 else hexadecimal(value)


def _syslog(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    return f"{value} /* {SYSLOG.get(value, 'SYSLOG_ACTION_???')} */"


def _syslog_rest(call: Call, arg: int) -> str | None:
    if call.args[0] & 0xFFFFFFFF in SYSLOG_ALONE:
        return None
    return P.render(call, arg) if arg == 1 else D.render(call, arg)


def _index(call: Call, arg: int) -> str | None:
    return U.render(call, arg) if call.args[2] in (0, 7) else None


def _ptrace(call: Call, arg: int) -> str:
    return choice(call.args[arg], PTRACE, "PTRACE_???")


KEY = Kind(lambda call, arg: hexadecimal(call.args[arg] & 0xFFFFFFFF) if call.args[arg] & 0xFFFFFFFF else "IPC_PRIVATE")
COMMAND = named(IPC_COMMANDS, "IPC_???")
CALLS: dict[str, Signature] = {
    "bpf": (named(BPF, "BPF_???"), P, U), "perf_event_open": (P, D, D, FD, named_flags(PERF, "PERF_FLAG_???")),
    "io_uring_setup": (U, P), "io_uring_enter": (FD, U, U, named_flags(RING_ENTER, "IORING_ENTER_???"), P, LU),
    "io_uring_register": (FD, named(RING_REGISTER, "IORING_REGISTER_???"), P, U),
    "seccomp": (named(SECCOMP, "SECCOMP_SET_MODE_???"), Kind(_seccomp_flags), P), "ptrace": (Kind(_ptrace), D, P, P),
    "kcmp": (D, D, named(KCMP, "KCMP_???"), Kind(_index), Kind(_index)), "ioprio_get": (Kind(_who), D),
    "ioprio_set": (Kind(_who), D, Kind(lambda call, arg: _priority_text(call.args[arg] & 0xFFFF))),
    "userfaultfd": (named_flags({0o4000: "O_NONBLOCK", 0o2000000: "O_CLOEXEC"}, "UFFD_???"),),
    "shmget": (KEY, LU, _ipc_flags(SHARED)), "semget": (KEY, D, _ipc_flags(IPC)), "msgget": (KEY, _ipc_flags(IPC)),
    "shmctl": (D, COMMAND, P), "msgctl": (D, COMMAND, P), "shmdt": (P,),
    "mount": (PATH, PATH, STR, named_flags(MOUNT, "MS_???"), STR), "umount2": (PATH, named_flags(UMOUNT, "MNT_???")),
    "swapoff": (PATH,), "syslog": (Kind(_syslog), Kind(_syslog_rest), Kind(_syslog_rest)),
    "io_setup": (U, P), "open_tree": (DIRFD, PATH, named_flags({1: "OPEN_TREE_CLONE"}, "OPEN_TREE_???")),
    "fsopen": (STR, named_flags({1: "FSOPEN_CLOEXEC"}, "FSOPEN_???")), "get_mempolicy": (P, P, LU, P, X),
    "landlock_create_ruleset": (P, LU, named_flags({1: "LANDLOCK_CREATE_RULESET_VERSION"}, "LANDLOCK_CREATE_RULESET_???")),
    "mq_open": (STR, Kind(lambda call, arg: open_flags(call.args[arg] & 0xFFFFFFFF)), Kind(lambda call, arg: octal_mode(
        call.args[arg] & 0xFFFF) if call.args[1] & 0o100 else None), Kind(lambda call, arg: P.render(call, arg) if
        call.args[1] & 0o100 else None)),
    "process_madvise": (FD, P, LU, ADVICE_ARG, X), "pidfd_getfd": (FD, FD, X),
    "sethostname": (P, D), "setdomainname": (P, D),
    "io_destroy": (LX,), "landlock_restrict_self": (FD, X),
}  # fmt: skip
