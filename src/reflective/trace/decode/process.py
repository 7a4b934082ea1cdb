"""Calls about processes: starting, ending, waiting, limits, identity, threads."""

from __future__ import annotations

import struct

from .base import (
    BEHIND,
    BY_ONE,
    BYTES,
    IOVEC,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    fields,
    flags,
    hexadecimal,
    named,
    named_flags,
    numbered,
    quoted,
    signed,
    structure,
    whole,
)
from .common import ARGV, ENVP, ID, LU, LX, PATH, D, P, X
from .signal import siginfo, signal_name

CLONE = {
    0x100: "CLONE_VM", 0x200: "CLONE_FS", 0x400: "CLONE_FILES", 0x800: "CLONE_SIGHAND", 0x1000: "CLONE_PIDFD",
    0x2000: "CLONE_PTRACE", 0x4000: "CLONE_VFORK", 0x8000: "CLONE_PARENT", 0x10000: "CLONE_THREAD", 0x20000: "CLONE_NEWNS",
    0x40000: "CLONE_SYSVSEM", 0x80000: "CLONE_SETTLS", 0x100000: "CLONE_PARENT_SETTID", 0x200000: "CLONE_CHILD_CLEARTID",
    0x400000: "CLONE_DETACHED", 0x800000: "CLONE_UNTRACED", 0x1000000: "CLONE_CHILD_SETTID", 0x2000000: "CLONE_NEWCGROUP",
    0x4000000: "CLONE_NEWUTS", 0x8000000: "CLONE_NEWIPC", 0x10000000: "CLONE_NEWUSER", 0x20000000: "CLONE_NEWPID",
    0x40000000: "CLONE_NEWNET", 0x80000000: "CLONE_IO", 0x1_0000_0000: "CLONE_CLEAR_SIGHAND",
    0x2_0000_0000: "CLONE_INTO_CGROUP",
}  # fmt: skip
LIMITS = numbered(
    "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE "
    "RLIMIT_MEMLOCK RLIMIT_AS "
    "RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME"
)
WAIT = {1: "WNOHANG", 2: "WSTOPPED", 4: "WEXITED", 8: "WCONTINUED", 0x1000000: "WNOWAIT", 0x20000000: "__WNOTHREAD",
        0x80000000: "__WCLONE", 0x40000000: "__WALL"}  # fmt: skip
ARCH = {0x1001: "ARCH_SET_GS", 0x1002: "ARCH_SET_FS", 0x1003: "ARCH_GET_FS", 0x1004: "ARCH_GET_GS", 0x1011: "ARCH_GET_CPUID",
        0x1012: "ARCH_SET_CPUID", 0x1021: "ARCH_GET_XCOMP_SUPP", 0x1022: "ARCH_GET_XCOMP_PERM",
        0x1023: "ARCH_REQ_XCOMP_PERM", 0x2001: "ARCH_MAP_VDSO_X32", 0x2002: "ARCH_MAP_VDSO_32", 0x2003: "ARCH_MAP_VDSO_64",
        0x3001: "ARCH_CET_STATUS"}  # fmt: skip
RANDOM = {1: "GRND_NONBLOCK", 2: "GRND_RANDOM", 4: "GRND_INSECURE"}
INFINITY = (1 << 64) - 1
UTS = 65  # bytes a field of struct utsname


def _limit(value: int) -> str:
    if value == INFINITY:
        return "RLIM64_INFINITY"
    return f"{value // 1024}*1024" if value > 1024 and not value % 1024 else str(value)


def _limits(data: bytes, call: Call) -> str:
    soft, hard = struct.unpack_from("<QQ", data)
    return fields(rlim_cur=_limit(soft), rlim_max=_limit(hard))


def wait_status(status: int) -> str:
    """A wait status, by the macros that would take it apart."""
    if status & 0xFF == 0x7F:
        return f"{{WIFSTOPPED(s) && WSTOPSIG(s) == {signal_name(status >> 8 & 0xFF)}}}"
    if status == 0xFFFF:
        return "{WIFCONTINUED(s)}"
    if status & 0x7F:
        core = " && WCOREDUMP(s)" if status & 0x80 else ""
        return f"{{WIFSIGNALED(s) && WTERMSIG(s) == {signal_name(status & 0x7F)}{core}}}"
    return f"{{WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}}}"


def _status(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN, 4)
    if data is None or not call.ret:
        return address(call.args[arg])
    return f"[{wait_status(int.from_bytes(data, 'little'))}]"


def _child(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN, 128)
    return siginfo(data) if data is not None and not call.error else address(call.args[arg])


def _usage(data: bytes, call: Call) -> str:
    if not call.ret and call.name == "wait4":
        return address(call.args[3])
    user, user_us, system, system_us = struct.unpack_from("<qqqq", data)
    return f"{{ru_utime={{tv_sec={user}, tv_usec={user_us}}}, ru_stime={{tv_sec={system}, tv_usec={system_us}}}, ...}}"


def _clone_flags(call: Call, arg: int) -> str:
    value = call.args[arg]
    number, rest = value & 0xFF, value & ~0xFF
    names = [flags(rest, CLONE, "CLONE_???")] if rest else []
    return "flags=" + ("|".join([*names, *([signal_name(number)] if number else [])]) or "0")


def _clone_optional(mask: int, name: str) -> Kind:
    def render(call: Call, arg: int) -> str | None:
        if not call.args[0] & mask:
            return None
        data = call.bytes(arg, ON_RETURN, 4) if name == "parent_tid" else None
        value = f"[{int.from_bytes(data, 'little')}]" if data and not call.error else address(call.args[arg])
        return f"{name}={value}"

    return Kind(render, ((ON_RETURN, BYTES, BY_ONE, 4),) if name == "parent_tid" else (), True, False)


CLONE3 = (
    "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size",
    "cgroup",
)  # fmt: skip
CLONE3_LEAST, CLONE3_KNOWN, CLONE3_COPIED = 64, 88, 128  # bytes: linux/sched.h: CLONE_ARGS_SIZE_VER0, _VER2
SET_TID_MOST = 32  # linux/pid_namespace.h: MAX_PID_NS_LEVEL
PIDFD_AT, SET_TID_AT = 8 << 16, 64 << 16
INTO_CGROUP = 0x2_0000_0000
CLONE3_COPIES = (
    (ON_ENTRY, BYTES, BY_ONE, CLONE3_COPIED),
    (ON_ENTRY, BEHIND, BY_ONE, SET_TID_AT | 4 * SET_TID_MOST),
    (ON_RETURN, BEHIND, BY_ONE, PIDFD_AT | 4),
)


def _clone3(call: Call, arg: int) -> str:
    size, data = call.args[1], call.bytes(arg, ON_ENTRY) or b""
    if size < CLONE3_LEAST or len(data) < min(size, CLONE3_KNOWN):
        return address(call.args[arg])
    numbers = struct.unpack("<11Q", data[: min(size, CLONE3_KNOWN)].ljust(CLONE3_KNOWN, b"\0"))
    given = dict(zip(CLONE3, numbers, strict=True))
    mode = given["flags"]
    known = {"flags": flags(mode, CLONE, "CLONE_???")}
    if mode & 0x1000:
        known["pidfd"] = address(given["pidfd"])
    if mode & 0x1200000:
        known["child_tid"] = address(given["child_tid"])
    if mode & 0x100000:
        known["parent_tid"] = address(given["parent_tid"])
    known |= {"exit_signal": signal_name(given["exit_signal"]), "stack": address(given["stack"])}
    known["stack_size"] = hexadecimal(given["stack_size"])
    if mode & 0x80000:
        known["tls"] = address(given["tls"])
    if given["set_tid"] or given["set_tid_size"]:
        tids = _behind(call, arg, ON_ENTRY)[: 4 * given["set_tid_size"]]
        whole_list = 0 < given["set_tid_size"] <= SET_TID_MOST and len(tids) == 4 * given["set_tid_size"]
        listed = ", ".join(str(tid) for (tid,) in struct.iter_unpack("<i", tids)) if whole_list else ""
        known["set_tid"] = f"[{listed}]" if listed else address(given["set_tid"])
        known["set_tid_size"] = str(given["set_tid_size"])
    if given["cgroup"] or mode & INTO_CGROUP:
        known["cgroup"] = str(given["cgroup"])
    return fields(**known)[:-1] + _beyond(data[CLONE3_KNOWN:size]) + "}"


def _behind(call: Call, arg: int, when: int) -> bytes:
    """What was copied from a pointer in the structure."""
    return next((piece[4] for piece in call.pieces[arg] if piece[:2] == (when, IOVEC)), b"")


def _beyond(data: bytes) -> str:
    """What is behind the structure as it is known; nothing if it is all zeros."""
    if not any(data):
        return ""
    text = "".join(f"\\x{byte:02x}" for byte in data)
    return f', /* bytes {CLONE3_KNOWN}..{CLONE3_KNOWN + len(data) - 1} */ "{text}"'


def _clone3_both(call: Call, arg: int) -> str:
    data, text = call.bytes(arg, ON_ENTRY), _clone3(call, arg)
    if not data or not text.startswith("{") or not call.returned or call.error:
        return text
    mode, made = struct.unpack_from("<Q", data)[0], {}
    if mode & 0x1000 and len(fd := _behind(call, arg, ON_RETURN)) == 4:
        made["pidfd"] = f"[{int.from_bytes(fd, 'little')}]"
    if mode & 0x100000:
        made["parent_tid"] = f"[{call.ret}]"
    return f"{text} => {fields(**made)}" if made else text


def _arch(call: Call, arg: int) -> str:
    code, value = call.args[0] & 0xFFFFFFFF, call.args[arg]
    data = call.bytes(arg, ON_RETURN, 8) if code in (0x1003, 0x1004) and not call.error else None
    return (
        f"[{address(int.from_bytes(data[:8], 'little'))}]" if data else address(value) if code < 0x1005 else hexadecimal(value)
    )


def _uname(data: bytes, call: Call) -> str:
    names = [quoted(data[at : at + UTS].partition(b"\0")[0], UTS) for at in (0, UTS)]
    return f"{{sysname={names[0]}, nodename={names[1]}, ...}}"


def _sysinfo(data: bytes, call: Call) -> str:
    uptime, *loads = struct.unpack_from("<q3Q", data)
    names = ("totalram", "freeram", "sharedram", "bufferram", "totalswap", "freeswap")
    rest = dict(zip(names, map(str, struct.unpack_from("<6Q", data, 32)), strict=True))
    procs, high, high_free, unit = struct.unpack_from("<H6xQQI", data, 80)
    known = {"uptime": str(uptime), "loads": f"[{', '.join(map(str, loads))}]", **rest, "procs": str(procs)}
    return fields(**known, totalhigh=str(high), freehigh=str(high_free), mem_unit=str(unit))


def _cpus(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_ENTRY if call.name == "sched_setaffinity" else ON_RETURN)
    if data is None or (call.name != "sched_setaffinity" and (call.error or not call.returned)):
        return address(call.args[arg])
    data = data if call.name == "sched_setaffinity" else data[: call.ret]
    return f"[{' '.join(str(cpu) for cpu in range(len(data) * 8) if data[cpu // 8] >> cpu % 8 & 1)}]"


def _groups(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN)
    if data is None or call.error:
        return address(call.args[arg])
    numbers = struct.iter_unpack("<I", whole(data, 4)[: 4 * call.ret])
    return f"[{', '.join(str(number) for (number,) in numbers)}]"


def _random(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN)
    return address(call.args[arg]) if data is None or call.error else _hexed(data, call)


def _hexed(data: bytes, call: Call) -> str:
    text = "".join(f"\\x{byte:02x}" for byte in data[: call.limit])
    return f'"{text}"' + ("..." if call.ret > call.limit else "")


LIMIT, LIMITS_IN, LIMITS_OUT = named(LIMITS, "RLIMIT_???"), structure(16, _limits, ON_ENTRY), structure(16, _limits, ON_RETURN)
STATUS = Kind(_status, ((ON_RETURN, BYTES, BY_ONE, 4),), True)
USAGE = structure(144, _usage, ON_RETURN)
CPUS = Kind(_cpus, ((ON_RETURN, BYTES, 1, 0),), True)
ID_OUT = structure(4, lambda data, call: f"[{int.from_bytes(data, 'little')}]", ON_RETURN)
CLONE_TAIL = (
    _clone_optional(0x100000, "parent_tid"),
    _clone_optional(0x1200000, "child_tidptr"),
    _clone_optional(0x80000, "tls"),
)
CODE = Kind(lambda call, arg: str(signed(call.args[arg])))
WHICH = named(numbered("PRIO_PROCESS PRIO_PGRP PRIO_USER"), "PRIO_???")
ID_TYPE = named(numbered("P_ALL P_PID P_PGID P_PIDFD"), "P_???")
ADDRESS_OUT = structure(8, lambda data, call: f"[{address(int.from_bytes(data, 'little'))}]", ON_RETURN)
LENGTH_OUT = structure(8, lambda data, call: f"[{int.from_bytes(data, 'little')}]", ON_RETURN)
WAIT_FLAGS = named_flags(WAIT, "W???")

CALLS: dict[str, Signature] = {
    "execve": (PATH, ARGV, ENVP), "fork": (), "vfork": (), "exit": (CODE,), "exit_group": (CODE,),
    "clone": (Kind(lambda call, arg: f"child_stack={address(call.args[1])}"), Kind(lambda call, arg: _clone_flags(call, 0)),
        *CLONE_TAIL),
    "clone3": (Kind(_clone3_both, CLONE3_COPIES, grows=True), LU.replace(out=True, comma=False)),
    "wait4": (D, STATUS, WAIT_FLAGS.replace(out=True), USAGE),
    "getpid": (), "getppid": (), "gettid": (), "getuid": (), "geteuid": (), "getgid": (), "getegid": (), "getpgrp": (),
    "setsid": (),
    "getpgid": (D,), "setpgid": (D, D), "getsid": (D,), "setuid": (ID,), "setgid": (ID,), "setreuid": (ID, ID),
    "setregid": (ID, ID),
    "setresuid": (ID, ID, ID), "setresgid": (ID, ID, ID), "getresuid": (ID_OUT,) * 3, "getresgid": (ID_OUT,) * 3,
    "setfsuid": (ID,), "setfsgid": (ID,), "getgroups": (D, Kind(_groups, ((ON_RETURN, BYTES, 0, 4),), True)),
    "prlimit64": (D, LIMIT, LIMITS_IN, LIMITS_OUT), "getrlimit": (LIMIT, LIMITS_OUT), "setrlimit": (LIMIT, LIMITS_IN),
    "getrusage": (named({0: "RUSAGE_SELF", 0xFFFFFFFF: "RUSAGE_CHILDREN", 1: "RUSAGE_THREAD"}, "RUSAGE_???"), USAGE),
    "arch_prctl": (named(ARCH, "ARCH_???"), Kind(_arch, ((ON_RETURN, BYTES, BY_ONE, 8),))),
    "set_tid_address": (LX,), "set_robust_list": (P, LU), "get_robust_list": (D, ADDRESS_OUT, LENGTH_OUT),
    "waitid": (ID_TYPE, D, Kind(_child, ((ON_RETURN, BYTES, BY_ONE, 128),), True), WAIT_FLAGS.replace(out=True), USAGE),
    "rseq": (LX, X, Kind(lambda call, arg: flags(call.args[arg], {1: "RSEQ_FLAG_UNREGISTER"}, "RSEQ_FLAG_???")), X),
    "sched_yield": (),
    "getrandom": (Kind(_random, ((ON_RETURN, BYTES, 6, 1),), True), LU, named_flags(RANDOM, "GRND_???")),
    "uname": (structure(390, _uname, ON_RETURN),), "sysinfo": (structure(108, _sysinfo, ON_RETURN),),
    "sched_getaffinity": (D, LU, CPUS),
    "sched_setaffinity": (D, LU, CPUS.replace(copies=((ON_ENTRY, BYTES, 1, 0),), out=False)),
    "getpriority": (WHICH, D), "setpriority": (WHICH, D, D), "getcpu": (ID_OUT, ID_OUT, P),
    "restart_syscall": (Kind(lambda call, arg: f"<... resuming interrupted {call.interrupted} ...>"),),
    "pidfd_open": (D, X), "unshare": (named_flags(CLONE, "CLONE_???"),),
    "setns": (D, named_flags(CLONE, "CLONE_???")),
}  # fmt: skip
