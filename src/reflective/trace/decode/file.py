"""Calls about files: opening, reading, status, directories, descriptors."""

from __future__ import annotations

import struct
from collections.abc import Callable

from .base import (
    BY_ONE,
    BY_RESULT,
    BYTES,
    ON_ENTRY,
    ON_RETURN,
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
    named_flags,
    numbered,
    signed,
    structure,
)
from .common import (
    ARGV,
    CWD,
    DIRFD,
    FD,
    FD_PAIR,
    ID,
    LD,
    LINK,
    LU,
    MODE,
    PATH,
    RECEIVED,
    STR,
    P,
    U,
    X,
    date,
    iovec,
    octal_mode,
    sent,
)
from .signal import signal_name

ACCESS_MODES = {0: "O_RDONLY", 1: "O_WRONLY", 2: "O_RDWR", 3: "O_ACCMODE"}
OPEN = {
    0o100: "O_CREAT", 0o200: "O_EXCL", 0o400: "O_NOCTTY", 0o1000: "O_TRUNC", 0o2000: "O_APPEND", 0o4000: "O_NONBLOCK",
    0o4010000: "O_SYNC", 0o10000: "O_DSYNC", 0o20000: "O_ASYNC", 0o40000: "O_DIRECT", 0o100000: "O_LARGEFILE",
    0o400000: "O_NOFOLLOW", 0o1000000: "O_NOATIME", 0o2000000: "O_CLOEXEC", 0o10000000: "O_PATH",
    0o20200000: "O_TMPFILE", 0o200000: "O_DIRECTORY",
}  # fmt: skip
FILE_TYPES = {
    0o140000: "S_IFSOCK", 0o120000: "S_IFLNK", 0o100000: "S_IFREG", 0o060000: "S_IFBLK", 0o040000: "S_IFDIR",
    0o020000: "S_IFCHR", 0o010000: "S_IFIFO",
}  # fmt: skip
AT = {0x100: "AT_SYMLINK_NOFOLLOW", 0x200: "AT_REMOVEDIR", 0x400: "AT_SYMLINK_FOLLOW", 0x800: "AT_NO_AUTOMOUNT",
      0x1000: "AT_EMPTY_PATH"}  # fmt: skip
AT_ACCESS = {0x100: "AT_SYMLINK_NOFOLLOW", 0x200: "AT_EACCESS", 0x1000: "AT_EMPTY_PATH"}
ACCESS = {0: "F_OK", 4: "R_OK", 2: "W_OK", 1: "X_OK"}
STATX_SYNC = {0: "AT_STATX_SYNC_AS_STAT", 0x2000: "AT_STATX_FORCE_SYNC", 0x4000: "AT_STATX_DONT_SYNC",
              0x6000: "AT_STATX_SYNC_TYPE"}  # fmt: skip
STATX_MASK = {0xFFF: "STATX_ALL", 0x7FF: "STATX_BASIC_STATS"} | bits(
    "STATX_TYPE STATX_MODE STATX_NLINK STATX_UID STATX_GID STATX_ATIME STATX_MTIME STATX_CTIME STATX_INO STATX_SIZE "
    "STATX_BLOCKS STATX_BTIME STATX_MNT_ID STATX_DIOALIGN"
)
STATX_ATTRIBUTES = {
    4: "STATX_ATTR_COMPRESSED", 0x10: "STATX_ATTR_IMMUTABLE", 0x20: "STATX_ATTR_APPEND", 0x40: "STATX_ATTR_NODUMP",
    0x800: "STATX_ATTR_ENCRYPTED", 0x1000: "STATX_ATTR_AUTOMOUNT", 0x2000: "STATX_ATTR_MOUNT_ROOT",
    0x100000: "STATX_ATTR_VERITY", 0x200000: "STATX_ATTR_DAX",
}  # fmt: skip
WHENCE = numbered("SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE")
FADVISE = numbered(
    "POSIX_FADV_NORMAL POSIX_FADV_RANDOM POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED POSIX_FADV_DONTNEED POSIX_FADV_NOREUSE"
)
FCNTL = numbered("F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN F_SETSIG F_GETSIG") | {
    15: "F_SETOWN_EX", 16: "F_GETOWN_EX", 36: "F_OFD_GETLK", 37: "F_OFD_SETLK", 38: "F_OFD_SETLKW", 1024: "F_SETLEASE",
    1025: "F_GETLEASE", 1026: "F_NOTIFY", 1030: "F_DUPFD_CLOEXEC", 1031: "F_SETPIPE_SZ", 1032: "F_GETPIPE_SZ",
    1033: "F_ADD_SEALS", 1034: "F_GET_SEALS",
}  # fmt: skip
LOCKS = numbered("F_RDLCK F_WRLCK F_UNLCK")
DESCRIPTOR, OWNERS = {1: "FD_CLOEXEC"}, numbered("F_OWNER_TID F_OWNER_PID F_OWNER_PGRP")
SEALS = bits("F_SEAL_SEAL F_SEAL_SHRINK F_SEAL_GROW F_SEAL_WRITE F_SEAL_FUTURE_WRITE")
F_GETSIG, F_GETLEASE, F_GET_SEALS, OWNER_SET, OWNER_GET = 11, 1025, 1034, 15, 16
ANSWERS = (1, 3, 9, F_GETSIG, F_GETLEASE, 1032, F_GET_SEALS)
LOCKING, ASKING = (5, 6, 7, 36, 37, 38), (5, 36, OWNER_GET)
FLOCK = {1: "LOCK_SH", 2: "LOCK_EX", 8: "LOCK_UN", 4: "LOCK_NB"}
RENAME = bits("RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT")
FILE_SYSTEMS = {
    0xEF53: "EXT2_SUPER_MAGIC", 0x01021994: "TMPFS_MAGIC", 0x9FA0: "PROC_SUPER_MAGIC", 0x62656572: "SYSFS_MAGIC",
    0x794C7630: "OVERLAYFS_SUPER_MAGIC", 0x58465342: "XFS_SUPER_MAGIC", 0x9123683E: "BTRFS_SUPER_MAGIC",
    0x6969: "NFS_SUPER_MAGIC", 0x27E0EB: "CGROUP_SUPER_MAGIC", 0x63677270: "CGROUP2_SUPER_MAGIC", 0x1CD1: "DEVPTS_SUPER_MAGIC",
    0x74726163: "TRACEFS_MAGIC", 0x64626720: "DEBUGFS_MAGIC", 0x73636673: "SECURITYFS_MAGIC", 0xCAFE4A11: "BPF_FS_MAGIC",
    0x6165676C: "PSTOREFS_MAGIC", 0x958458F6: "HUGETLBFS_MAGIC", 0x858458F6: "RAMFS_MAGIC", 0xDE5E81E4: "EFIVARFS_MAGIC",
    0x73717368: "SQUASHFS_MAGIC", 0x65735546: "FUSE_SUPER_MAGIC", 0xF97CFF8C: "SELINUX_MAGIC", 0x0187: "AUTOFS_SUPER_MAGIC",
    0x42494E4D: "BINFMTFS_MAGIC", 0x6E736673: "NSFS_MAGIC", 0x01021997: "V9FS_MAGIC", 0x9660: "ISOFS_SUPER_MAGIC",
    0x4D44: "MSDOS_SUPER_MAGIC",
}  # fmt: skip
STAT_FS = {0x20: "ST_VALID"} | bits(
    "ST_RDONLY ST_NOSUID ST_NODEV ST_NOEXEC ST_SYNCHRONOUS ST_VALID ST_MANDLOCK - - - ST_NOATIME ST_NODIRATIME ST_RELATIME"
)


def open_flags(value: int) -> str:
    """The access mode, and flags."""
    names, rest = ACCESS_MODES[value & 3], value & ~3
    return f"{names}|{flags(rest, OPEN, '').partition(' ')[0]}" if rest else names


GIVEN: dict[int, Callable[[int], str]] = {
    2: lambda value: flags(value, DESCRIPTOR, "FD_???"), 4: open_flags, 10: signal_name,
    1024: lambda value: choice(value, LOCKS, "F_???"), 1033: lambda value: flags(value, SEALS, "F_SEAL_???"),
}  # fmt: skip


def mode_text(mode: int) -> str:
    """st_mode: type, special bits, permissions."""
    special = [name for bit, name in ((0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX")) if mode & bit]
    kind = mode & 0o170000
    names = [FILE_TYPES.get(kind, f"{kind:#o}".replace("0o", "0"))] if kind else []
    return "|".join([*names, *special, octal_mode(mode & 0o777)])


def _device(major: int, minor: int) -> str:
    return f"makedev({hexadecimal(major)}, {hexadecimal(minor)})"


def _stat(data: bytes, call: Call) -> str:
    mode, device, size = struct.unpack_from("<24xI12xQq", data)
    major, minor = (device >> 8 & 0xFFF) | (device >> 32 & ~0xFFF), (device & 0xFF) | (device >> 12 & 0xFFFFFF00)
    special = mode & 0o170000 in (0o020000, 0o060000)
    what = f"st_rdev={_device(major, minor)}" if special else f"st_size={size}"
    return f"{{st_mode={mode_text(mode)}, {what}, ...}}"


def _statx(data: bytes, call: Call) -> str:
    mask, _, attributes, mode, size = struct.unpack_from("<IIQ12xH10xQ", data)
    known, special = flags(mask, STATX_MASK, "STATX_???"), flags(attributes, STATX_ATTRIBUTES, "STATX_ATTR_???")
    return f"{{stx_mask={known}, stx_attributes={special}, stx_mode={mode_text(mode)}, stx_size={size}, ...}}"


def _statfs(data: bytes, call: Call) -> str:
    kind, block, *counts, fsid0, fsid1, name, fragment, mount = struct.unpack_from("<qqQQQQQiiqqq", data)
    names = ("f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
    return fields(
        f_type=choice(kind, FILE_SYSTEMS, "???").replace(" /* ??? */", ""),
        f_bsize=str(block),
        **{label: str(count) for label, count in zip(names, counts, strict=True)},
        f_fsid=f"{{val=[{hexadecimal(fsid0 & 0xFFFFFFFF)}, {hexadecimal(fsid1 & 0xFFFFFFFF)}]}}",
        f_namelen=str(name),
        f_frsize=str(fragment),
        f_flags=flags(mount, STAT_FS, "ST_???"),
    )


def _entries(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN)
    if data is None:
        return address(call.args[arg]) + (" /* 0 entries */" if call.returned and not call.error else "")
    at = count = 0
    while at + 18 < len(data):
        size = int.from_bytes(data[at + 16 : at + 18], "little")
        at, count = at + max(size, 19), count + 1
    return f"{call.args[arg]:#x} /* {count} entries */"


def _fcntl_argument(call: Call, arg: int) -> str | None:
    command, value = call.args[1] & 0xFFFFFFFF, call.args[arg]
    if command in ANSWERS:
        if call.returned and not call.error:
            _fcntl_note(call, command)
        return None
    if command in GIVEN:
        return GIVEN[command](value & 0xFFFFFFFF)
    if command in LOCKING or command in (OWNER_GET, OWNER_SET):
        asks = command in ASKING
        data = call.bytes(arg, ON_RETURN if asks and call.returned else ON_ENTRY) or b""
        if (asks and call.error) or len(data) < 32:
            return address(value)
        return _owner(data) if command in (OWNER_GET, OWNER_SET) else _lock(data, command in (5, 36))
    return str(signed(value)) if command in (0, 8, 1030, 1031) else hexadecimal(value)


def _owner(data: bytes) -> str:
    kind, pid = struct.unpack_from("<ii", data)
    return fields(type=choice(kind, OWNERS, "F_OWNER_???"), pid=str(pid))


def _lock(data: bytes, asked: bool) -> str:
    kind, whence, start, length, pid = struct.unpack_from("<hh4xqqi", data)
    known = {"l_type": LOCKS.get(kind, hex(kind)), "l_whence": WHENCE.get(whence, hex(whence)), "l_start": str(start)}
    return fields(**known, l_len=str(length), **({"l_pid": str(pid)} if asked else {}))


def _fcntl_note(call: Call, command: int) -> None:
    """What the result means. Zero is said only where it has a name."""
    value = call.ret
    if command == F_GETSIG:
        call.note = signal_name(value) if value else ""
        return
    texts = {1: flags(value, DESCRIPTOR, "FD_???"), 3: open_flags(value), 1034: flags(value, SEALS, "F_SEAL_???")}
    if command == F_GETLEASE:
        call.base16, call.note = True, choice(value, LOCKS, "F_???")
    elif command in texts and (value or command == 3):
        call.base16, call.note = True, ("seals " if command == F_GET_SEALS else "flags ") + texts[command]


def _creation_mode(flag_arg: int) -> Kind:
    def render(call: Call, arg: int) -> str | None:
        given = call.args[flag_arg]
        return octal_mode(call.args[arg] & 0xFFFF) if given & 0o100 or given & 0o20200000 == 0o20200000 else None

    return Kind(render)


def _utimes(data: bytes, call: Call) -> str:
    words = []
    for seconds, rest in struct.iter_unpack("<qq", data):
        special = {(1 << 30) - 1: "UTIME_NOW", (1 << 30) - 2: "UTIME_OMIT"}.get(rest)
        words.append(special or fields(tv_sec=str(seconds), tv_nsec=str(rest)) + f" /* {date(seconds, rest)} */")
    return f"[{', '.join(words)}]"


def _statx_flags(call: Call, arg: int) -> str:
    value = call.args[arg] & 0xFFFFFFFF
    rest = flags(value & ~0x6000, AT, "AT_???") if value & ~0x6000 else ""
    return "|".join(filter(None, (STATX_SYNC[value & 0x6000], rest)))


OPENING = Kind(lambda call, arg: open_flags(call.args[arg] & 0xFFFFFFFF))
STAT = structure(144, _stat, ON_RETURN)
AT_FLAGS = named_flags(AT, "AT_???")
ACCESS_MODE = named_flags(ACCESS, "?_OK")
FCNTL_ARG = Kind(_fcntl_argument, ((ON_ENTRY, BYTES, BY_ONE, 32), (ON_RETURN, BYTES, BY_ONE, 32)), True, False)
WHENCE_ARG, UTIMES = named(WHENCE, "SEEK_???"), structure(32, _utimes, ON_ENTRY)
STATFS = structure(120, _statfs, ON_RETURN)
DIRENTS = Kind(_entries, ((ON_RETURN, BYTES, BY_RESULT, 0),), True)

CALLS: dict[str, Signature] = {
    "read": (FD, RECEIVED, LU), "write": (FD, sent(2), LU), "pread64": (FD, RECEIVED, LU, LD),
    "pwrite64": (FD, sent(2), LU, LD),
    "readv": (FD, iovec(2, ON_RETURN), LU), "writev": (FD, iovec(2, ON_ENTRY), LU),
    "preadv": (FD, iovec(2, ON_RETURN), LU, LD), "pwritev": (FD, iovec(2, ON_ENTRY), LU, LD),
    "open": (PATH, OPENING, _creation_mode(1)), "openat": (DIRFD, PATH, OPENING, _creation_mode(2)), "creat": (PATH, MODE),
    "close": (FD,),
    "close_range": (U, U, named_flags({2: "CLOSE_RANGE_UNSHARE", 4: "CLOSE_RANGE_CLOEXEC"}, "CLOSE_RANGE_???")),
    "stat": (PATH, STAT), "lstat": (PATH, STAT), "fstat": (FD, STAT), "newfstatat": (DIRFD, PATH, STAT, AT_FLAGS),
    "statx": (DIRFD, PATH, Kind(_statx_flags), named_flags(STATX_MASK, "STATX_???"), structure(256, _statx, ON_RETURN)),
    "statfs": (PATH, STATFS), "fstatfs": (FD, STATFS), "access": (PATH, ACCESS_MODE), "faccessat": (DIRFD, PATH, ACCESS_MODE),
    "faccessat2": (DIRFD, PATH, ACCESS_MODE, named_flags(AT_ACCESS, "AT_???")), "lseek": (FD, LD, WHENCE_ARG),
    "getdents64": (FD, DIRENTS, LU), "getcwd": (CWD, LU), "chdir": (PATH,), "fchdir": (FD,), "chroot": (PATH,),
    "readlink": (PATH, LINK, LU), "readlinkat": (DIRFD, PATH, LINK, LU), "unlink": (PATH,), "rmdir": (PATH,),
    "unlinkat": (DIRFD, PATH, AT_FLAGS), "mkdir": (PATH, MODE), "mkdirat": (DIRFD, PATH, MODE), "rename": (PATH, PATH),
    "renameat": (DIRFD, PATH, DIRFD, PATH), "renameat2": (DIRFD, PATH, DIRFD, PATH, named_flags(RENAME, "RENAME_???")),
    "link": (PATH, PATH), "linkat": (DIRFD, PATH, DIRFD, PATH, AT_FLAGS), "symlink": (PATH, PATH),
    "symlinkat": (PATH, DIRFD, PATH), "chmod": (PATH, MODE), "fchmod": (FD, MODE), "fchmodat": (DIRFD, PATH, MODE),
    "chown": (PATH, ID, ID), "lchown": (PATH, ID, ID), "fchown": (FD, ID, ID), "fchownat": (DIRFD, PATH, ID, ID, AT_FLAGS),
    "umask": (Kind(lambda call, arg: octal_mode(call.args[arg] & 0xFFFF)),), "truncate": (PATH, LD), "ftruncate": (FD, LD),
    "fsync": (FD,), "fdatasync": (FD,), "sync": (), "syncfs": (FD,),
    "fadvise64": (FD, LD, LD, named(FADVISE, "POSIX_FADV_???")),
    "flock": (FD, named_flags(FLOCK, "LOCK_???")),
    "utimensat": (DIRFD, PATH.replace(render=lambda call, arg: PATH.render(call, arg)), UTIMES, AT_FLAGS),
    "dup": (FD,), "dup2": (FD, FD), "dup3": (FD, FD, named_flags({0o2000000: "O_CLOEXEC"}, "O_???")),
    "pipe": (FD_PAIR,), "pipe2": (FD_PAIR, Kind(lambda call, arg: flags(call.args[arg], OPEN, "O_???"))),
    "fcntl": (FD, named(FCNTL, "F_???"), FCNTL_ARG),
    "memfd_create": (STR, named_flags(bits("MFD_CLOEXEC MFD_ALLOW_SEALING MFD_HUGETLB"), "MFD_???")),
    "pivot_root": (PATH, PATH), "swapon": (PATH, X), "acct": (PATH,), "uselib": (PATH,),
    "execveat": (DIRFD, PATH, ARGV, P, AT_FLAGS),
}  # fmt: skip
