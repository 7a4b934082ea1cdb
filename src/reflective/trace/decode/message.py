"""Messages with buffers, addresses and control data: struct msghdr, and arrays of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .base import (
    BY_ONE,
    BY_RESULT,
    BYTES,
    FAULT,
    MESSAGE,
    MESSAGES,
    ON_ENTRY,
    ON_RETURN,
    Call,
    Kind,
    Piece,
    Signature,
    address,
    choice,
    fields,
    flags,
    named_flags,
    numbered,
    quoted,
    whole,
)
from .common import FD, U, timespec_text
from .socket import LEVELS, MESSAGE_FLAGS, socket_address

MSGHDR, MMSGHDR, HEADER = 56, 64, 16
SOL_SOCKET, SCM_RIGHTS, SCM_CREDENTIALS = 1, 1, 2
CONTROL = numbered("SCM_RIGHTS SCM_CREDENTIALS SCM_SECURITY SCM_PIDFD", 1) | {
    29: "SO_TIMESTAMP_OLD", 35: "SO_TIMESTAMPNS_OLD", 37: "SO_TIMESTAMPING_OLD",
}  # fmt: skip
NO_PIECE: Piece = (0, 0, FAULT, 0, b"")


def _control_data(level: int, kind: int, data: bytes) -> str:
    if level == SOL_SOCKET and kind == SCM_RIGHTS:
        return f"[{', '.join(str(fd) for (fd,) in struct.iter_unpack('<i', whole(data, 4)))}]"
    if level == SOL_SOCKET and kind == SCM_CREDENTIALS and len(data) >= 12:
        pid, uid, gid = struct.unpack_from("<iII", data)
        return fields(pid=str(pid), uid=str(uid), gid=str(gid))
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def _control(data: bytes) -> str:
    words, at = [], 0
    while at + HEADER <= len(data):
        length, level, kind = struct.unpack_from("<QiI", data, at)
        known = {"cmsg_len": str(length), "cmsg_level": choice(level, LEVELS, "SOL_???")}
        known["cmsg_type"] = choice(kind, CONTROL, "SCM_???") if level == SOL_SOCKET else f"{kind:#x}"
        end = min(at + length, len(data))
        if end > at + HEADER:
            known["cmsg_data"] = _control_data(level, kind, data[at + HEADER : end])
        words.append(fields(**known))
        if length < HEADER:
            break
        at += length + 7 & ~7
    return f"[{', '.join(words)}]"


def _message(head: bytes, pieces: Iterator[Piece], call: Call, left: int, namelen: int | None) -> str:
    name, size, vectors, count, control, control_size, mode = struct.unpack_from("<Qi4xQQQQi", head)
    at_name = next(pieces, NO_PIECE)[4]
    array = next(pieces, NO_PIECE)[4]
    words = []
    for base, length in struct.iter_unpack("<QQ", whole(array, 16)):
        part, used = next(pieces, NO_PIECE), min(length, left)
        left -= used
        text = address(base) if part[2] & FAULT or not base else quoted(part[4], call.limit, used > call.limit)
        words.append(fields(iov_base=text, iov_len=str(length)))
    at_control = next(pieces, NO_PIECE)[4]
    known = {"msg_name": socket_address(at_name) if len(at_name) > 1 else address(name)}
    known["msg_namelen"] = str(size) if namelen in (None, size) else f"{namelen} => {size}"
    more = ["..."] if len(words) < count else []
    known["msg_iov"] = f"[{', '.join([*words, *more])}]" if array or not vectors else address(vectors)
    if not vectors:
        known["msg_iov"] = "NULL"
    known["msg_iovlen"] = str(count)
    if control_size:
        known["msg_control"] = _control(at_control) if at_control else address(control)
    return fields(**known, msg_controllen=str(control_size), msg_flags=flags(mode & 0xFFFFFFFF, MESSAGE_FLAGS, "MSG_???"))


def _pieces(call: Call, arg: int, when: int) -> Iterator[Piece]:
    """What was copied of a message, its head first; the plain copy of the head at entry is another row of the table."""
    return iter([piece for piece in call.pieces.get(arg, ()) if piece[0] == when])


def _sent(call: Call, arg: int) -> str:
    pieces = _pieces(call, arg, ON_ENTRY)
    head = next(pieces, NO_PIECE)[4]
    return _message(head, pieces, call, 1 << 63, None) if len(head) >= MSGHDR else address(call.args[arg])


def _namelen(data: bytes) -> int:
    return int(struct.unpack_from("<i", data, 8)[0])


def _received(call: Call, arg: int) -> str:
    before = call.bytes(arg, ON_ENTRY, MSGHDR)
    if before is None or not call.returned:
        return address(call.args[arg])
    if call.error:
        return f"{{msg_namelen={_namelen(before)}}}"
    pieces = _pieces(call, arg, ON_RETURN)
    head = next(pieces, NO_PIECE)[4]
    return _message(head, pieces, call, call.ret, _namelen(before)) if len(head) >= MSGHDR else address(call.args[arg])


def _many(call: Call, arg: int, when: int, lengths: bytes, namelens: bytes | None) -> str:
    pieces, words = _pieces(call, arg, when), []
    count = call.args[2] & 0xFFFFFFFF if when == ON_ENTRY else call.ret
    for at in range(0, min(count, call.limit, 64) * MMSGHDR, MMSGHDR):
        head = next(pieces, NO_PIECE)[4]
        if len(head) < MMSGHDR:
            words.append("...")
            break
        length = int.from_bytes(lengths[at + MSGHDR : at + MSGHDR + 4], "little") if at < len(lengths) else None
        left = length if when == ON_RETURN and length is not None else 1 << 63
        namelen = _namelen(namelens[at:]) if namelens is not None and at + MMSGHDR <= len(namelens) else None
        known = {"msg_hdr": _message(head, pieces, call, left, namelen)}
        words.append(fields(**known, **({"msg_len": str(length)} if length is not None else {})))
    if count > call.limit:
        words.append("...")
    return f"[{', '.join(words)}]"


def _sent_many(call: Call, arg: int) -> str:
    if not any(piece[0] == ON_ENTRY and piece[4] for piece in call.pieces.get(arg, ())):
        return address(call.args[arg])
    after = b"" if call.error else call.bytes(arg, ON_RETURN) or b""
    return _many(call, arg, ON_ENTRY, after, None)


def _received_many(call: Call, arg: int) -> str:
    if call.error or not call.returned or not call.args[arg]:
        return address(call.args[arg])
    heads = b"".join(
        piece[4]
        for piece in call.pieces.get(arg, ())
        if piece[0] == ON_RETURN and piece[1] == BYTES and len(piece[4]) == MMSGHDR
    )
    return _many(call, arg, ON_RETURN, heads, call.bytes(arg, ON_ENTRY))


def _timeout(call: Call, arg: int) -> str:
    before, after = call.bytes(arg, ON_ENTRY, 16), call.bytes(arg, ON_RETURN, 16)
    if call.returned and not call.error:
        if call.ret == 0:
            call.note = "Timeout"
        elif after is not None and before is not None:
            call.note = f"left {timespec_text(after)}"
    return timespec_text(before) if before is not None else address(call.args[arg])


FLAGS = named_flags(MESSAGE_FLAGS, "MSG_???")
SENT = Kind(_sent, ((ON_ENTRY, MESSAGE, BY_ONE, MSGHDR),))
RECEIVED = Kind(_received, ((ON_ENTRY, BYTES, BY_ONE, MSGHDR), (ON_RETURN, MESSAGE, BY_ONE, MSGHDR)), True)
SENT_MANY = Kind(_sent_many, ((ON_ENTRY, MESSAGES, 2, MMSGHDR), (ON_RETURN, BYTES, BY_RESULT, MMSGHDR)), True)
RECEIVED_MANY = Kind(_received_many, ((ON_ENTRY, BYTES, 2, MMSGHDR), (ON_RETURN, MESSAGES, BY_RESULT, MMSGHDR)), True)
TIMEOUT = Kind(_timeout, ((ON_ENTRY, BYTES, BY_ONE, 16), (ON_RETURN, BYTES, BY_ONE, 16)))

CALLS: dict[str, Signature] = {
    "sendmsg": (FD, SENT, FLAGS), "recvmsg": (FD, RECEIVED, FLAGS), "sendmmsg": (FD, SENT_MANY, U, FLAGS),
    "recvmmsg": (FD, RECEIVED_MANY, U, FLAGS, TIMEOUT),
}  # fmt: skip
