"""Calls that wait for descriptors: select, poll, epoll, and the descriptors made for that."""

from __future__ import annotations

import struct

from .base import (
    BEHIND,
    BY_ONE,
    BY_RESULT,
    BYTES,
    FDS,
    IOVEC,
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
    named_flags,
    numbered,
    signed,
    whole,
)
from .common import FD, LU, PATH, TIMESPEC, D, U, timespec_text, timeval_text
from .signal import MASK, signal_set

POLL = bits(
    "POLLIN POLLPRI POLLOUT POLLERR POLLHUP POLLNVAL POLLRDNORM POLLRDBAND POLLWRNORM POLLWRBAND POLLMSG - - POLLRDHUP"
)
EPOLL = bits("EPOLLIN EPOLLPRI EPOLLOUT EPOLLERR EPOLLHUP - EPOLLRDNORM EPOLLRDBAND EPOLLWRNORM EPOLLWRBAND EPOLLMSG "
             "- - EPOLLRDHUP") | {
    1 << 28: "EPOLLEXCLUSIVE", 1 << 29: "EPOLLWAKEUP", 1 << 30: "EPOLLONESHOT", 1 << 31: "EPOLLET",
}  # fmt: skip
NOTIFY = bits("IN_ACCESS IN_MODIFY IN_ATTRIB IN_CLOSE_WRITE IN_CLOSE_NOWRITE IN_OPEN IN_MOVED_FROM IN_MOVED_TO IN_CREATE "
              "IN_DELETE IN_DELETE_SELF IN_MOVE_SELF - IN_UNMOUNT IN_Q_OVERFLOW IN_IGNORED - - - - - - - - "
              "IN_ONLYDIR IN_DONT_FOLLOW IN_EXCL_UNLINK - IN_MASK_CREATE IN_MASK_ADD IN_ISDIR IN_ONESHOT")  # fmt: skip
CLOEXEC, NONBLOCK, SET_MOST = 0o2000000, 0o4000, 128
EPOLL_EVENT = 12  # bytes, packed


def _poll_items(call: Call, data: bytes, revents: bool) -> list[str]:
    items = []
    for fd, asked, got in struct.iter_unpack("<ihh", whole(data, 8)):
        if not revents:
            items.append(
                fields(fd=call.descriptor(fd), **({"events": flags(asked & 0xFFFF, POLL, "POLL???")} if fd >= 0 else {}))
            )
        elif got and fd >= 0:
            items.append(fields(fd=str(fd), revents=flags(got & 0xFFFF, POLL, "POLL???")))
    return items


def _poll(call: Call, arg: int) -> str:
    asked, got = call.bytes(arg, ON_ENTRY), call.bytes(arg, ON_RETURN)
    if call.returned and not call.error:
        call.note = f"[{', '.join(_poll_items(call, got or b'', True))}]" if call.ret else "Timeout"
    if asked is None:
        return address(call.args[arg])
    items = _poll_items(call, asked, False)
    return "[" + ", ".join([*items[: call.limit], *(["..."] if len(items) > call.limit else [])]) + "]"


def _left_timespec(call: Call, arg: int) -> str:
    """The timeout as given; what is left of it stands behind the result."""
    before, after = call.bytes(arg, ON_ENTRY, 16), call.bytes(arg, ON_RETURN, 16)
    if call.returned and not call.error and call.ret and after:
        call.note += (", " if call.note else "") + f"left {timespec_text(after)}"
    return timespec_text(before) if before is not None else address(call.args[arg])


def _left_timeval(call: Call, arg: int) -> str:
    before, after = call.bytes(arg, ON_ENTRY, 16), call.bytes(arg, ON_RETURN, 16)
    if call.returned and not call.error and call.ret and after:
        call.note += (", " if call.note else "") + f"left {timeval_text(after)}"
    return timeval_text(before) if before is not None else address(call.args[arg])


def _members(call: Call, arg: int, when: int) -> list[int] | None:
    count = max(signed(call.args[0]), 0)
    data = call.bytes(arg, when) or b""
    if not call.args[arg] or len(data) < min((count + 63) // 64 * 8, SET_MOST):
        return None
    return [fd for fd in range(min(count, SET_MOST * 8)) if data[fd // 8] >> fd % 8 & 1]


def _set(label: str) -> Kind:
    def render(call: Call, arg: int) -> str:
        asked = _members(call, arg, ON_ENTRY)
        if call.returned and not call.error:
            got = _members(call, arg, ON_RETURN) if call.ret else None
            if got:
                call.note += (", " if call.note else "") + f"{label} [{' '.join(map(str, got))}]"
            elif not call.ret:
                call.note = "Timeout"
        return address(call.args[arg]) if asked is None else f"[{' '.join(map(str, asked))}]"

    return Kind(render, ((ON_ENTRY, BYTES, BY_ONE, SET_MOST), (ON_RETURN, BYTES, BY_ONE, SET_MOST)))


def _masked(call: Call, arg: int) -> str:
    """pselect6's last argument: a pointer to a pointer to a signal set, and its size."""
    head = call.bytes(arg, ON_ENTRY, 16)
    if head is None:
        return address(call.args[arg])
    pointer, size = struct.unpack_from("<QQ", head)
    data = next((piece[4] for piece in call.pieces[arg] if piece[1] == IOVEC), b"")
    return fields(sigmask=signal_set(data) if len(data) == 8 else address(pointer), sigsetsize=str(size))


def _epoll(data: bytes) -> str:
    events, value = struct.unpack_from("<IQ", data)
    return fields(events=flags(events, EPOLL, "EPOLL???"), data=fields(u32=str(value & 0xFFFFFFFF), u64=str(value)))


def _epoll_given(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_ENTRY, EPOLL_EVENT)
    return _epoll(data) if data and call.args[1] & 0xFFFFFFFF != 2 else address(call.args[arg])


def _epoll_got(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN) or b""
    if call.error or not call.returned or (call.ret and not data):
        return address(call.args[arg])
    events = [_epoll(data[at : at + EPOLL_EVENT]) for at in range(0, len(whole(data, EPOLL_EVENT)), EPOLL_EVENT)]
    return "[" + ", ".join([*events[: call.limit], *(["..."] if len(events) > call.limit else [])]) + "]"


def _operation(call: Call, arg: int) -> str:
    return choice(call.args[arg] & 0xFFFFFFFF, OPERATIONS, "EPOLL_CTL_???")


OPERATIONS = numbered("EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD", 1)
POLL_FDS = Kind(_poll, ((ON_ENTRY, BYTES, 1, 8), (ON_RETURN, BYTES, 1, 8), (ON_ENTRY, FDS, 1, 8)))
BOTH = ((ON_ENTRY, BYTES, BY_ONE, 16), (ON_RETURN, BYTES, BY_ONE, 16))
LEFT, LEFT_TIMEVAL = Kind(_left_timespec, BOTH), Kind(_left_timeval, BOTH)
SETS = (_set("in"), _set("out"), _set("except"))
READY = Kind(_epoll_got, ((ON_RETURN, BYTES, BY_RESULT, EPOLL_EVENT),), True)


def _descriptor_flags(prefix: str, more: dict[int, str] | None = None, unknown: str = "") -> Kind:
    table = (more or {}) | {CLOEXEC: f"{prefix}_CLOEXEC", NONBLOCK: f"{prefix}_NONBLOCK"}
    return named_flags(table, unknown or f"{prefix}_???")


CALLS: dict[str, Signature] = {
    "poll": (POLL_FDS, U, D), "ppoll": (POLL_FDS, U, LEFT, MASK, LU), "select": (D, *SETS, LEFT_TIMEVAL),
    "pselect6": (D, *SETS, LEFT, Kind(_masked, ((ON_ENTRY, BEHIND, BY_ONE, 8),))),
    "epoll_create": (D,), "epoll_create1": (named_flags({CLOEXEC: "EPOLL_CLOEXEC"}, "EPOLL_???"),),
    "epoll_ctl": (FD, Kind(_operation), FD, Kind(_epoll_given, ((ON_ENTRY, BYTES, BY_ONE, EPOLL_EVENT),))),
    "epoll_wait": (FD, READY, D, D), "epoll_pwait": (FD, READY, D, D, MASK, LU),
    "epoll_pwait2": (FD, READY, D, TIMESPEC, MASK, LU),
    "eventfd": (U,), "eventfd2": (U, _descriptor_flags("EFD", {1: "EFD_SEMAPHORE"})),
    "signalfd": (FD, MASK, LU), "signalfd4": (FD, MASK, LU, _descriptor_flags("SFD")),
    "inotify_init": (), "inotify_init1": (named_flags({NONBLOCK: "IN_NONBLOCK", CLOEXEC: "IN_CLOEXEC"}, "IN_???"),),
    "inotify_add_watch": (FD, PATH, named_flags(NOTIFY, "IN_???")), "inotify_rm_watch": (FD, D),
}  # fmt: skip
