"""Bytes from here to there without read and write, extended attributes, and the newer ways to open and make files."""

from __future__ import annotations

import struct

from .base import (
    BY_ONE,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Signature,
    address,
    bits,
    fields,
    flags,
    hexadecimal,
    named_flags,
    quoted,
    signed,
    whole,
)
from .common import DIRFD, FD, LD, LU, OFFSET, PATH, RECEIVED, STR, D, P, U, X, iovec, octal_mode, sent
from .file import AT_FLAGS, mode_text, open_flags

SPLICE = bits("SPLICE_F_MOVE SPLICE_F_NONBLOCK SPLICE_F_MORE SPLICE_F_GIFT")
READ_WRITE = bits("RWF_HIPRI RWF_DSYNC RWF_SYNC RWF_NOWAIT RWF_APPEND")
SYNC_RANGE = bits("SYNC_FILE_RANGE_WAIT_BEFORE SYNC_FILE_RANGE_WRITE SYNC_FILE_RANGE_WAIT_AFTER")
ALLOCATE = bits("KEEP_SIZE PUNCH_HOLE NO_HIDE_STALE COLLAPSE_RANGE ZERO_RANGE INSERT_RANGE UNSHARE_RANGE", "FALLOC_FL_")
RESOLVE = bits("RESOLVE_NO_XDEV RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT RESOLVE_CACHED")
_GIVEN = sent(3)
DEVICES = (0o020000, 0o060000)


def _offset(call: Call, arg: int) -> str:
    """sendfile's: where it began, and where it has got to."""
    before, after = call.bytes(arg, ON_ENTRY, 8), call.bytes(arg, ON_RETURN, 8)
    if before is None:
        return address(call.args[arg])
    first = signed(int.from_bytes(before, "little"), 64)
    if not call.returned or call.error or after is None or not call.ret:
        return f"[{first}]"
    return f"[{first}] => [{signed(int.from_bytes(after, 'little'), 64)}]"


def _attribute(call: Call, arg: int) -> str:
    """An attribute's value: without its last NUL."""
    data = call.bytes(arg, ON_RETURN)
    if call.error or not call.returned or data is None:
        return RECEIVED.render(call, arg) or ""
    whole_value = len(data) == call.ret
    return quoted(data.removesuffix(b"\0") if whole_value else data, call.limit, call.ret > call.limit)


def _given_attribute(call: Call, arg: int) -> str:
    data, size = call.bytes(arg, ON_ENTRY), call.args[3]
    if data and len(data) == size:
        return quoted(data.removesuffix(b"\0"), call.limit)
    return _GIVEN.render(call, arg) or ""


def _names(call: Call, arg: int) -> str:
    return (RECEIVED.render(call, arg) or "") if call.args[arg + 1] else address(call.args[arg])


def _remote(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_ENTRY)
    if data is None:
        return address(call.args[arg])
    words = [fields(iov_base=address(base), iov_len=str(size)) for base, size in struct.iter_unpack("<QQ", whole(data, 16))]
    return f"[{', '.join(words)}]"


def _how(call: Call, arg: int) -> str:
    """struct open_how."""
    data = call.bytes(arg, ON_ENTRY, 24)
    if data is None or call.args[3] < 24:
        return address(call.args[arg])
    mode, permissions, resolve = struct.unpack_from("<QQQ", data)
    known = {"flags": open_flags(mode)}
    if permissions or mode & 0o100 or mode & 0o20200000 == 0o20200000:
        known["mode"] = octal_mode(permissions)
    return fields(**known, resolve=flags(resolve, RESOLVE, "RESOLVE_???"))


def _device(mode_at: int) -> Kind:
    def render(call: Call, arg: int) -> str | None:
        value = call.args[arg] & 0xFFFFFFFF
        major, minor = value >> 8 & 0xFFF, (value & 0xFF) | (value >> 12 & 0xFFFFFF00)
        makes = call.args[mode_at] & 0o170000 in DEVICES
        return f"makedev({hexadecimal(major)}, {hexadecimal(minor)})" if makes else None

    return Kind(render)


MODE = Kind(lambda call, arg: mode_text(call.args[arg] & 0xFFFF))
SPLICE_FLAGS, ATTRIBUTE_FLAGS = (
    named_flags(SPLICE, "SPLICE_F_???"),
    named_flags(bits("XATTR_CREATE XATTR_REPLACE"), "XATTR_???"),
)
POSITION = Kind(_offset, ((ON_ENTRY, BYTES, BY_ONE, 8), (ON_RETURN, BYTES, BY_ONE, 8)), grows=True)
REMOTE = Kind(_remote, ((ON_ENTRY, BYTES, 4, 16),))
SET = (STR, Kind(_given_attribute, _GIVEN.copies), LU, ATTRIBUTE_FLAGS)
GOT = (STR, Kind(_attribute, RECEIVED.copies, True), LU)
LIST = (Kind(_names, RECEIVED.copies, True), LU)
HIDDEN = Kind(lambda call, arg: None)  # the high half of an offset, for 32-bit programs
VECTOR_FLAGS = named_flags(READ_WRITE, "RWF_???")
_READ_LOCAL = iovec(2, ON_RETURN)

CALLS: dict[str, Signature] = {
    "sendfile": (FD, FD, POSITION, LU), "copy_file_range": (FD, OFFSET, FD, OFFSET, LU, X),
    "splice": (FD, OFFSET, FD, OFFSET, LU, SPLICE_FLAGS), "tee": (FD, FD, LU, SPLICE_FLAGS),
    "vmsplice": (FD, iovec(2, ON_ENTRY), LU, SPLICE_FLAGS),
    "preadv2": (FD, _READ_LOCAL, LU, LD, HIDDEN, VECTOR_FLAGS),
    "pwritev2": (FD, iovec(2, ON_ENTRY), LU, LD, HIDDEN, VECTOR_FLAGS),
    "fallocate": (FD, named_flags(ALLOCATE, "FALLOC_FL_???"), LD, LD), "sync_file_range": (FD, LD, LD, named_flags(SYNC_RANGE,
        "SYNC_FILE_RANGE_???")), "readahead": (FD, LD, LU),
    "process_vm_readv": (D, Kind(_READ_LOCAL.render, _READ_LOCAL.copies, True), LU, REMOTE, LU, LU),
    "process_vm_writev": (D, iovec(2, ON_ENTRY), LU, REMOTE, LU, LU),
    "openat2": (DIRFD, PATH, Kind(_how, ((ON_ENTRY, BYTES, BY_ONE, 24),)), LU),
    "mknod": (PATH, MODE, _device(1)), "mknodat": (DIRFD, PATH, MODE, _device(2)),
    "setxattr": (PATH, *SET), "lsetxattr": (PATH, *SET), "fsetxattr": (FD, *SET),
    "getxattr": (PATH, *GOT), "lgetxattr": (PATH, *GOT), "fgetxattr": (FD, *GOT),
    "listxattr": (PATH, *LIST), "llistxattr": (PATH, *LIST), "flistxattr": (FD, *LIST),
    "removexattr": (PATH, STR), "lremovexattr": (PATH, STR), "fremovexattr": (FD, STR),
    "name_to_handle_at": (DIRFD, PATH, P, P, AT_FLAGS), "fchmodat2": (DIRFD, PATH, Kind(lambda call, arg: octal_mode(
        call.args[arg] & 0xFFFF)), AT_FLAGS), "memfd_secret": (U,),
}  # fmt: skip
