"""What goes onto the initial stack: arguments and environment within the kernel's limits, and the auxiliary vector."""

from __future__ import annotations

import errno
import os
from struct import Struct

from ..elf.image import PAGE
from ..errors import load_error
from ..values import Value

# Arguments and environment: fs/exec.c: bprm_stack_limits, copy_strings.

MAX_ARG_STRLEN = 131072  # one string, its NUL included
STACK_SHARE = 6 * 1024 * 1024  # three quarters of the default 8 MiB
ARG_MAX = 131072


def encode(arg: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A string as the kernel gets it. Raises ValueError for a NUL byte, as subprocess does."""
    data = os.fsencode(arg)
    if b"\0" in data:
        raise ValueError("embedded null byte")
    return data


def check_arguments(
    given: list[bytes], argv: list[bytes], envp: list[bytes], execfn: bytes, stack_limit: int, path: str
) -> None:
    """Refuses what does not fit. `given` is the caller's argv, `argv` what `#!` makes of it, `stack_limit` RLIMIT_STACK.

    The kernel copies `given` at first, and then takes argv[0] away and puts in what a script adds, script by script: each time
    it is more. The room is what the pointers of `given` leave. Raises LoadError (E2BIG).
    """
    longest = max(map(len, (execfn, *envp, *given, *argv))) + 1
    if longest > MAX_ARG_STRLEN:
        raise load_error(errno.E2BIG, f"an argument of {longest} bytes: {MAX_ARG_STRLEN} are the most for one", path)
    share = max(min(STACK_SHARE, stack_limit // 4), ARG_MAX)
    pointers = 8 * (max(len(given), 1) + len(envp))
    fixed = len(execfn) + 1 + sum(map(len, envp)) + len(envp)
    size = fixed + max(sum(map(len, words)) + len(words) for words in (given or [b""], argv))
    if pointers >= share or size > share - pointers:
        raise load_error(
            errno.E2BIG,
            f"arguments and environment take {size + pointers} bytes, {share} are the most",
            path,
            "raise the stack limit: ulimit -s" if share < STACK_SHARE else "",
        )
    grown = (size + 8 + PAGE - 1) // PAGE * PAGE
    if PAGE < grown > stack_limit:  # get_arg_page: the strings' stack grows within the limit, all but its first page
        raise load_error(errno.E2BIG, f"arguments and environment take {grown} bytes of a stack of {stack_limit}", path)


# The auxiliary vector: the running kernel's own, with what a new image changes replaced.

PAIR = Struct("<QQ")
AT_NULL, AT_EXECFD, AT_PHDR, AT_PHENT, AT_PHNUM, AT_BASE, AT_FLAGS, AT_ENTRY = 0, 2, 3, 4, 5, 7, 8, 9
AT_UID, AT_EUID, AT_GID, AT_EGID, AT_PLATFORM, AT_SECURE, AT_RANDOM = 11, 12, 13, 14, 15, 23, 25
AT_BASE_PLATFORM, AT_EXECFN, AT_SYSINFO_EHDR = 24, 31, 33

NAMES = {
    2: "AT_EXECFD", 3: "AT_PHDR", 4: "AT_PHENT", 5: "AT_PHNUM", 6: "AT_PAGESZ", 7: "AT_BASE", 8: "AT_FLAGS", 9: "AT_ENTRY",
    10: "AT_NOTELF", 11: "AT_UID", 12: "AT_EUID", 13: "AT_GID", 14: "AT_EGID", 15: "AT_PLATFORM", 16: "AT_HWCAP",
    17: "AT_CLKTCK", 23: "AT_SECURE", 24: "AT_BASE_PLATFORM", 25: "AT_RANDOM", 26: "AT_HWCAP2", 27: "AT_RSEQ_FEATURE_SIZE",
    28: "AT_RSEQ_ALIGN", 29: "AT_HWCAP3", 30: "AT_HWCAP4", 31: "AT_EXECFN", 33: "AT_SYSINFO_EHDR", 51: "AT_MINSIGSTKSZ",
}  # fmt: skip


class AuxEntry(Value):
    """One entry: `value` plus what `base` turns out to be in a start (a name of encode.PARAMETERS; "none" adds nothing)."""

    type: int
    value: int
    base: str = "none"


def parse_auxv(raw: bytes) -> list[tuple[int, int]]:
    """The (type, value) pairs of /proc/PID/auxv, up to AT_NULL."""
    pairs = []
    for kind, value in PAIR.iter_unpack(raw[: len(raw) // PAIR.size * PAIR.size]):
        if kind == AT_NULL:
            break
        pairs.append((kind, value))
    return pairs


def build_auxv(
    kernel: list[tuple[int, int]],
    vdso: int,
    phdr: int,
    phnum: int,
    entry: int,
    base: int | None,
    ids: tuple[int, int, int, int],
) -> tuple[AuxEntry, ...]:
    """The vector for a new image, from the running kernel's: its order, its unknown tags, its hardware facts.

    `vdso` is where vvar and vdso begin in this process; `phdr` and `entry` are less the executable's load bias, `base` less
    the interpreter's, None if there is none; `ids` are uid, euid, gid, egid.
    Source: fs/binfmt_elf.c: create_elf_tables.
    """
    new = {
        AT_SYSINFO_EHDR: AuxEntry(AT_SYSINFO_EHDR, dict(kernel).get(AT_SYSINFO_EHDR, vdso) - vdso, "vdso_new"),
        AT_PHDR: AuxEntry(AT_PHDR, phdr, "exe"),
        AT_PHENT: AuxEntry(AT_PHENT, 56),
        AT_PHNUM: AuxEntry(AT_PHNUM, phnum),
        AT_BASE: AuxEntry(AT_BASE, base or 0, "none" if base is None else "interp"),
        AT_FLAGS: AuxEntry(AT_FLAGS, 0),
        AT_ENTRY: AuxEntry(AT_ENTRY, entry, "exe"),
        AT_UID: AuxEntry(AT_UID, ids[0]),
        AT_EUID: AuxEntry(AT_EUID, ids[1]),
        AT_GID: AuxEntry(AT_GID, ids[2]),
        AT_EGID: AuxEntry(AT_EGID, ids[3]),
        AT_SECURE: AuxEntry(AT_SECURE, int(ids[0] != ids[1] or ids[2] != ids[3])),  # security/commoncap.c: __is_setuid
        AT_RANDOM: AuxEntry(AT_RANDOM, 0, "random"),
        AT_EXECFN: AuxEntry(AT_EXECFN, 0, "execfn"),
        AT_PLATFORM: AuxEntry(AT_PLATFORM, 0, "platform"),
    }
    return tuple(new.get(kind, AuxEntry(kind, value)) for kind, value in kernel if kind != AT_EXECFD)


def handed_over(entries: tuple[AuxEntry, ...], flags: int, execfd: bool) -> tuple[AuxEntry, ...]:
    """The same vector for a handler of binfmt_misc: AT_FLAGS, and AT_EXECFD after the platform strings.

    The descriptor's number is found in the child (steps.ChooseDescriptor).
    """
    flagged = [AuxEntry(AT_FLAGS, flags) if entry.type == AT_FLAGS else entry for entry in entries]
    if execfd:
        at = max(i for i, entry in enumerate(flagged) if entry.type in (AT_EXECFN, AT_PLATFORM, AT_BASE_PLATFORM))
        flagged.insert(at + 1, AuxEntry(AT_EXECFD, 0))
    return tuple(flagged)
