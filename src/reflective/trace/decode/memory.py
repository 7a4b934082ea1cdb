"""Calls about memory."""

from __future__ import annotations

from .base import (
    BY_ONE,
    BYTES,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    bits,
    flags,
    hexadecimal,
    named,
    named_flags,
    numbered,
)
from .common import FD, LU, D, P

PROT = (
    {0: "PROT_NONE"}
    | bits("PROT_READ PROT_WRITE PROT_EXEC PROT_SEM")
    | {0x01000000: "PROT_GROWSDOWN", 0x02000000: "PROT_GROWSUP"}
)
MAP_TYPES = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}
MAP = {
    0x10: "MAP_FIXED", 0x20: "MAP_ANONYMOUS", 0x40: "MAP_32BIT", 0x4000: "MAP_NORESERVE", 0x8000: "MAP_POPULATE",
    0x10000: "MAP_NONBLOCK", 0x100: "MAP_GROWSDOWN", 0x800: "MAP_DENYWRITE", 0x1000: "MAP_EXECUTABLE", 0x2000: "MAP_LOCKED",
    0x20000: "MAP_STACK", 0x40000: "MAP_HUGETLB", 0x80000: "MAP_SYNC", 0x100000: "MAP_FIXED_NOREPLACE",
}  # fmt: skip
ADVICE = numbered("MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED - - - MADV_FREE MADV_REMOVE "
        "MADV_DONTFORK "
                  "MADV_DOFORK MADV_MERGEABLE MADV_UNMERGEABLE MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTDUMP MADV_DODUMP "
                  "MADV_WIPEONFORK MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT MADV_POPULATE_READ MADV_POPULATE_WRITE "
                  "MADV_DONTNEED_LOCKED MADV_COLLAPSE")  # fmt: skip


def _map_flags(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    kind, rest = MAP_TYPES.get(value & 15, hexadecimal(value & 15)), value & ~15
    return f"{kind}|{flags(rest, MAP, '').partition(' ')[0]}" if rest else kind


def _remapped(call: Call, arg: int) -> str | None:
    return P.render(call, arg) if call.args[3] & 6 else None


def _resident(call: Call, arg: int) -> str:
    pages, data = -(-call.args[1] // 4096), call.bytes(arg, ON_RETURN) or b""
    if call.error or not call.returned or len(data) < min(pages, call.limit):
        return address(call.args[arg])
    more = ["..."] if pages > call.limit else []
    return f"[{', '.join([*(str(byte) for byte in data[: min(pages, call.limit)]), *more])}]"


RESIDENT = Kind(_resident, ((ON_RETURN, BYTES, BY_ONE, 1024),), True)
ADVICE_ARG = named(ADVICE, "MADV_???")
PROTECTION = named_flags(PROT, "PROT_???")
OFFSET = Kind(lambda call, arg: hexadecimal(call.args[arg]))
REMAP = named_flags(bits("MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP"), "MREMAP_???")

CALLS: dict[str, Signature] = {
    "brk": (P,), "mmap": (P, LU, PROTECTION, Kind(_map_flags), FD, OFFSET), "munmap": (P, LU), "mprotect": (P, LU, PROTECTION),
    "madvise": (P, LU, ADVICE_ARG), "mremap": (P, LU, LU, REMAP, Kind(_remapped)),
    "msync": (P, LU, named_flags(bits("MS_ASYNC MS_INVALIDATE MS_SYNC"), "MS_???")), "mlock": (P, LU), "munlock": (P, LU),
    "mlock2": (P, LU, named_flags({1: "MLOCK_ONFAULT"}, "MLOCK_???")), "mincore": (P, LU, RESIDENT), "munlockall": (),
    "mlockall": (named_flags(bits("MCL_CURRENT MCL_FUTURE MCL_ONFAULT"), "MCL_???"),),
    "pkey_mprotect": (P, LU, PROTECTION, D),
    "pkey_alloc": (LU, named_flags(bits("PKEY_DISABLE_ACCESS PKEY_DISABLE_WRITE"), "PKEY_???")),
    "pkey_free": (D,), "mseal": (P, LU, LU),
}  # fmt: skip
