"""prctl, capabilities, personality, scheduling: what a process sets for itself."""

from __future__ import annotations

import struct

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    STRING,
    Call,
    Kind,
    Signature,
    address,
    bits,
    choice,
    fields,
    flags,
    hexadecimal,
    named,
    numbered,
    quoted,
    signed,
    structure,
)
from .common import STR, TIMESPEC_OUT, D, U, X
from .signal import signal_name

# What follows the option: - nothing, 4 four hexadecimal numbers, d number, h hexadecimal, s signal, c capability, n name,
# others see _argument. PR_SET_MM and what has no entry: hexadecimal numbers to the end.
OPTIONS = {
    1: ("PR_SET_PDEATHSIG", "s"), 2: ("PR_GET_PDEATHSIG", "S"), 3: ("PR_GET_DUMPABLE", "-"), 4: ("PR_SET_DUMPABLE", "D"),
    5: ("PR_GET_UNALIGN", "I"), 6: ("PR_SET_UNALIGN", "h"), 7: ("PR_GET_KEEPCAPS", "-"), 8: ("PR_SET_KEEPCAPS", "d"),
    9: ("PR_GET_FPEMU", "I"), 10: ("PR_SET_FPEMU", "h"), 11: ("PR_GET_FPEXC", "I"), 12: ("PR_SET_FPEXC", "h"),
    13: ("PR_GET_TIMING", "-"), 14: ("PR_SET_TIMING", "d"), 15: ("PR_SET_NAME", "n"), 16: ("PR_GET_NAME", "N"),
    19: ("PR_GET_ENDIAN", "I"), 20: ("PR_SET_ENDIAN", "h"), 21: ("PR_GET_SECCOMP", "-"), 22: ("PR_SET_SECCOMP", "C"),
    23: ("PR_CAPBSET_READ", "c"), 24: ("PR_CAPBSET_DROP", "c"), 25: ("PR_GET_TSC", "T"), 26: ("PR_SET_TSC", "h"),
    27: ("PR_GET_SECUREBITS", "-"), 28: ("PR_SET_SECUREBITS", "B"), 29: ("PR_SET_TIMERSLACK", "d"),
    30: ("PR_GET_TIMERSLACK", "-"), 34: ("PR_MCE_KILL_GET", "4"), 35: ("PR_SET_MM", "M"),
    36: ("PR_SET_CHILD_SUBREAPER", "d"), 37: ("PR_GET_CHILD_SUBREAPER", "I"), 38: ("PR_SET_NO_NEW_PRIVS", "d4"),
    39: ("PR_GET_NO_NEW_PRIVS", "4"), 40: ("PR_GET_TID_ADDRESS", "A"), 41: ("PR_SET_THP_DISABLE", "d4"),
    42: ("PR_GET_THP_DISABLE", "4"), 47: ("PR_CAP_AMBIENT", "a"), 52: ("PR_GET_SPECULATION_CTRL", "4"),
    53: ("PR_SET_SPECULATION_CTRL", "4"), 0x53564D41: ("PR_SET_VMA", "V"), 0x59616D61: ("PR_SET_PTRACER", "P"),
}  # fmt: skip
NAMES = {number: name for number, (name, _) in OPTIONS.items()}
DUMPABLE = numbered("SUID_DUMP_DISABLE SUID_DUMP_USER SUID_DUMP_ROOT")
SECCOMP_MODES = numbered("SECCOMP_MODE_DISABLED SECCOMP_MODE_STRICT SECCOMP_MODE_FILTER")
KILL_MODES = numbered("PR_MCE_KILL_LATE PR_MCE_KILL_EARLY PR_MCE_KILL_DEFAULT")
TSC = {1: "PR_TSC_ENABLE", 2: "PR_TSC_SIGSEGV"}
AMBIENT = numbered("PR_CAP_AMBIENT_IS_SET PR_CAP_AMBIENT_RAISE PR_CAP_AMBIENT_LOWER PR_CAP_AMBIENT_CLEAR_ALL", 1)
MM = numbered(
    "START_CODE END_CODE START_DATA END_DATA START_STACK START_BRK BRK ARG_START ARG_END ENV_START ENV_END AUXV EXE_FILE MAP "
    "MAP_SIZE", 1,
)  # fmt: skip
SECURE = bits("SECBIT_NOROOT SECBIT_NOROOT_LOCKED SECBIT_NO_SETUID_FIXUP SECBIT_NO_SETUID_FIXUP_LOCKED SECBIT_KEEP_CAPS "
              "SECBIT_KEEP_CAPS_LOCKED SECBIT_NO_CAP_AMBIENT_RAISE SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED")  # fmt: skip
CAPABILITIES = numbered(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE", prefix="CAP_",
)  # fmt: skip
VERSIONS = {0x19980330: "_LINUX_CAPABILITY_VERSION_1", 0x20071026: "_LINUX_CAPABILITY_VERSION_2",
            0x20080522: "_LINUX_CAPABILITY_VERSION_3"}  # fmt: skip
PERSONALITY = {
    0x20000: "UNAME26", 0x40000: "ADDR_NO_RANDOMIZE", 0x80000: "FDPIC_FUNCPTRS", 0x100000: "MMAP_PAGE_ZERO",
    0x200000: "ADDR_COMPAT_LAYOUT", 0x400000: "READ_IMPLIES_EXEC", 0x800000: "ADDR_LIMIT_32BIT", 0x1000000: "SHORT_INODE",
    0x2000000: "WHOLE_SECONDS", 0x4000000: "STICKY_TIMEOUTS", 0x8000000: "ADDR_LIMIT_3GB",
}  # fmt: skip
POLICIES = numbered("SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE")
POLICY_FLAGS = bits("SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_RECLAIM SCHED_FLAG_DL_OVERRUN SCHED_FLAG_KEEP_POLICY "
                    "SCHED_FLAG_KEEP_PARAMS SCHED_FLAG_UTIL_CLAMP_MIN SCHED_FLAG_UTIL_CLAMP_MAX")  # fmt: skip


def _word(call: Call, arg: int, size: int) -> int | None:
    data = call.bytes(arg, ON_RETURN) or b"" if call.returned and not call.error else b""
    return int.from_bytes(data[:size], "little") if len(data) >= size else None


def _behind(call: Call, arg: int, shape: str) -> str:
    """What the kernel has stored where the argument points."""
    value = _word(call, arg, 8 if shape == "A" else 4)
    if value is None:
        return address(call.args[arg])
    texts = {"S": signal_name(value) if value else "0", "T": choice(value, TSC, "PR_TSC_???"), "A": address(value)}
    return f"[{texts.get(shape, str(value))}]"


def _named(call: Call, arg: int, when: int) -> str:
    data = call.bytes(arg, when)
    if data is None or (when == ON_RETURN and call.error):
        return address(call.args[arg])
    name, end, _ = data[:16].partition(b"\0")
    return quoted(name[:15], 32, not end)


def _first(call: Call, shape: str) -> str | None:
    value = call.args[1]
    if shape == "n" or shape == "N":
        return _named(call, 1, ON_ENTRY if shape == "n" else ON_RETURN)
    if shape in "SITA":
        return _behind(call, 1, shape)
    texts = {
        "s": signal_name(value), "c": CAPABILITIES.get(value) or f"{value:#x} /* CAP_??? */", "d": str(signed(value, 64)),
        "D": choice(value, DUMPABLE, "SUID_DUMP_???"), "a": choice(value, AMBIENT, "PR_CAP_AMBIENT_???"),
        "M": "PR_SET_MM_" + MM[value] if value in MM else f"{value:#x} /* PR_SET_MM_??? */",
        "V": "PR_SET_VMA_ANON_NAME" if value == 0 else f"{value:#x} /* PR_SET_VMA_??? */",
        "P": "PR_SET_PTRACER_ANY" if value == (1 << 64) - 1 else str(value), "B": flags(value, SECURE, "SECBIT_???"),
        "C": choice(value, SECCOMP_MODES, "SECCOMP_MODE_???"),
    }  # fmt: skip
    return texts.get(shape[0]) or hexadecimal(value)


LENGTHS = {"-": 0, "4": 4, "d4": 4, "M": 4, "a": 4, "V": 4, "C": 2, "": 4}


def _prctl(call: Call, arg: int) -> str | None:
    option, value = call.args[0] & 0xFFFFFFFF, call.args[arg]
    shape = OPTIONS.get(option, ("", ""))[1]
    length = LENGTHS.get(shape, 1)
    if shape == "C" and call.args[1] != 2:  # only a filter has an argument
        length = 1
    if arg > length:
        return None
    if arg == 1:
        return _first(call, shape) if shape not in ("", "4") else hexadecimal(value)
    if shape == "a" and arg == 2 and call.args[1] != 4:
        return CAPABILITIES.get(value) or f"{value:#x} /* CAP_??? */"
    if shape == "V" and call.args[1] == 0:
        return (address(value), str(value), _vma_name(call, arg))[arg - 2]
    return address(value) if shape == "C" else hexadecimal(value)


def _vma_name(call: Call, arg: int) -> str:
    return STR.render(call, arg) or ""


def _option(call: Call, arg: int) -> str:
    option = call.args[arg] & 0xFFFFFFFF
    if call.returned and not call.error:
        notes = {3: DUMPABLE, 21: SECCOMP_MODES, 34: KILL_MODES}
        if option in notes and (call.ret or option != 21):
            call.note = notes[option].get(call.ret, "")
        if option == 27 and call.ret:
            call.base16, call.note = True, flags(call.ret, SECURE, "SECBIT_???")
    return choice(option, NAMES, "PR_???")


def _capability_set(value: int) -> str:
    names = [f"1<<{CAPABILITIES.get(bit) or hex(bit)}" for bit in range(64) if value >> bit & 1]
    return "|".join(names) or "0"


def _capabilities(when: int) -> Kind:
    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, when) or b""
        if len(data) < 24 or (when == ON_RETURN and call.error):
            return address(call.args[arg])
        low, high = struct.unpack_from("<3I", data), struct.unpack_from("<3I", data, 12)
        values = [first | second << 32 for first, second in zip(low, high, strict=True)]
        return fields(**dict(zip(("effective", "permitted", "inheritable"), map(_capability_set, values), strict=True)))

    return Kind(render, ((when, BYTES, BY_ONE, 24),), when == ON_RETURN)


def _header(data: bytes, call: Call) -> str:
    version, pid = struct.unpack_from("<Ii", data)
    return fields(version=choice(version, VERSIONS, "_LINUX_CAPABILITY_VERSION_???"), pid=str(pid))


def _personality_text(value: int) -> str:
    kind, rest = value & 0xFF, value & ~0xFF
    name = "PER_LINUX" if not kind else f"{kind:#x} /* PER_??? */"
    return "|".join([name, *([flags(rest, PERSONALITY, "").partition(" ")[0]] if rest else [])])


def _personality(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    if call.returned and not call.error:
        call.base16, call.note = True, _personality_text(call.ret)
    return hexadecimal(value) if value == 0xFFFFFFFF else _personality_text(value)


def _policy(call: Call, arg: int) -> str:
    if call.name == "sched_getscheduler" and call.returned and not call.error:
        call.note = choice(call.ret, POLICIES, "SCHED_???")
    return str(signed(call.args[arg]))


def _attributes(data: bytes, call: Call) -> str:
    size, policy, mode, nice, priority, runtime, deadline, period = struct.unpack_from("<IIQiIQQQ", data)
    known = {"size": str(size), "sched_policy": choice(policy, POLICIES, "SCHED_???")}
    known |= {"sched_flags": flags(mode, POLICY_FLAGS, "SCHED_FLAG_???"), "sched_nice": str(nice)}
    known |= {"sched_priority": str(priority), "sched_runtime": str(runtime), "sched_deadline": str(deadline)}
    known["sched_period"] = str(period)
    if size >= 56 and len(data) >= 56:
        low, high = struct.unpack_from("<II", data, 48)
        known |= {"sched_util_min": str(low), "sched_util_max": str(high)}
    return fields(**known)


def _parameter(when: int) -> Kind:
    return structure(4, lambda data, call: f"[{signed(int.from_bytes(data, 'little'))}]", when)


POLICY = named(POLICIES, "SCHED_???")
HEADER = structure(8, _header, ON_ENTRY)
PRCTL = Kind(_prctl)
FIRST = Kind(_prctl, ((ON_ENTRY, BYTES, BY_ONE, 16), (ON_RETURN, BYTES, BY_ONE, 16)))
LAST = Kind(_prctl, ((ON_ENTRY, STRING, BY_ONE, 0),))
CALLS: dict[str, Signature] = {
    "prctl": (Kind(_option), FIRST, PRCTL, PRCTL, LAST),
    "capget": (HEADER, _capabilities(ON_RETURN)), "capset": (HEADER, _capabilities(ON_ENTRY)),
    "personality": (Kind(_personality),), "sched_getscheduler": (Kind(_policy),), "sched_getparam": (D, _parameter(ON_RETURN)),
    "sched_setscheduler": (D, POLICY, _parameter(ON_ENTRY)), "sched_setparam": (D, _parameter(ON_ENTRY)),
    "sched_get_priority_max": (POLICY,), "sched_get_priority_min": (POLICY,), "sched_rr_get_interval": (D, TIMESPEC_OUT),
    "sched_setattr": (D, structure(48, _attributes, ON_ENTRY), X),
    "sched_getattr": (D, structure(48, _attributes, ON_RETURN), U, X),
}  # fmt: skip
