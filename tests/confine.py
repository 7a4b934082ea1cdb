"""Runs a command with less: `confine.py seccomp COMMAND…`, `confine.py landlock COMMAND…`. By ctypes, without a library.

seccomp   what Docker's default profile refuses a container without capabilities: EPERM, and ENOSYS for clone3
written   what systemd's MemoryDenyWriteExecute= refuses: memory to be made executable, or mapped so while writable
landlock  files can be read and executed everywhere, but written and made only below /tmp, /dev and /proc
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, REFUSE, NO_SUCH_CALL = 0x7FFF0000, 0x00050001, 0x00050026
LOAD, EQUAL, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
NUMBER, ARGUMENT, PROTECTION = 0, 16, 32  # struct seccomp_data: nr; the low half of args[0], of args[2]
MMAP, MPROTECT = 9, 10
CLONE, PERSONALITY, UNSHARE, CLONE3 = 56, 135, 272, 435
NAMESPACES = 0x7E020000  # CLONE_NEW*
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
DENIED = {  # asm/unistd_64.h
    "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "pivot_root": 155, "_sysctl": 156,
    "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174,
    "init_module": 175, "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179,
    "nfsservctl": 180, "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "clock_adjtime": 305,
    "setns": 308, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
}  # fmt: skip

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ALL_RIGHTS = (1 << 13) - 1  # linux/landlock.h, first version
READING = 1 << 0 | 1 << 2 | 1 << 3  # execute, read files, read directories

LIBC = ctypes.CDLL(None, use_errno=True)


def call(number: int, *args: object) -> int:
    result = int(LIBC.syscall(number, *args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def no_new_privileges() -> None:
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def refuse(number: int, result: int = REFUSE) -> bytes:
    return statement(EQUAL, number, 0, 1) + statement(RETURN, result)


def refuse_bits(number: int, bits: int) -> bytes:
    """Refuses the call if its first argument has one of these."""
    look = statement(LOAD, ARGUMENT) + statement(ANY_BIT, bits, 0, 1) + statement(RETURN, REFUSE) + statement(RETURN, ALLOW)
    return statement(EQUAL, number, 0, 4) + look


def allow_only(number: int, values: Iterable[int]) -> bytes:
    found = b"".join(statement(EQUAL, value, 0, 1) + statement(RETURN, ALLOW) for value in values)
    look = statement(LOAD, ARGUMENT) + found + statement(RETURN, REFUSE)
    return statement(EQUAL, number, 0, len(look) // 8) + look


def install(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    no_new_privileges()
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def written() -> None:
    both = statement(LOAD, PROTECTION) + statement(AND, 6) + statement(EQUAL, 6, 0, 1) + statement(RETURN, REFUSE)
    mapped = statement(EQUAL, MMAP, 0, 5) + both + statement(RETURN, ALLOW)
    changed = statement(LOAD, PROTECTION) + statement(ANY_BIT, 4, 0, 1) + statement(RETURN, REFUSE)
    install(statement(LOAD, NUMBER) + mapped + statement(EQUAL, MPROTECT, 0, 3) + changed + statement(RETURN, ALLOW))


def seccomp() -> None:
    program = statement(LOAD, NUMBER) + refuse(CLONE3, NO_SUCH_CALL) + b"".join(refuse(number) for number in DENIED.values())
    program += refuse_bits(CLONE, NAMESPACES) + refuse_bits(UNSHARE, NAMESPACES) + allow_only(PERSONALITY, PERSONALITIES)
    install(program + statement(RETURN, ALLOW))


def landlock() -> None:
    ruleset = call(CREATE_RULESET, struct.pack("=Q", ALL_RIGHTS), ctypes.c_size_t(8), 0)
    for path, rights in (("/", READING), ("/tmp", ALL_RIGHTS), ("/dev", ALL_RIGHTS), ("/proc", ALL_RIGHTS)):
        fd = os.open(path, os.O_PATH)
        call(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0)
        os.close(fd)
    no_new_privileges()
    call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def main() -> None:
    {"seccomp": seccomp, "written": written, "landlock": landlock}[sys.argv[1]]()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
