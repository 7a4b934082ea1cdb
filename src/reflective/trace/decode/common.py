"""Kinds of arguments that many calls have."""

from __future__ import annotations

import struct
import time

from .base import (
    AT_FDCWD,
    BY_ONE,
    BY_RESULT,
    BYTES,
    COUNT,
    CUT,
    FAULT,
    FDS,
    IOVEC,
    NUL,
    ON_ENTRY,
    ON_RETURN,
    STRING,
    VECTOR,
    Call,
    Kind,
    address,
    fields,
    hexadecimal,
    quoted,
    signed,
    structure,
    whole,
)

PATH_MAX = 4096

D = Kind(lambda call, arg: str(signed(call.args[arg])))
LD = Kind(lambda call, arg: str(signed(call.args[arg], 64)))
U = Kind(lambda call, arg: str(call.args[arg] & 0xFFFFFFFF))
LU = Kind(lambda call, arg: str(call.args[arg]))
X = Kind(lambda call, arg: hexadecimal(call.args[arg] & 0xFFFFFFFF))
LX = Kind(lambda call, arg: hexadecimal(call.args[arg]))
P = Kind(lambda call, arg: address(call.args[arg]))
P_OUT = P.replace(out=True)
ID = Kind(lambda call, arg: str(-1) if call.args[arg] & 0xFFFFFFFF == 0xFFFFFFFF else str(call.args[arg] & 0xFFFFFFFF))
FD = Kind(lambda call, arg: _plain_descriptor(call, arg), descriptor=True)  # its own kind: %desc asks for it
DIRFD = Kind(lambda call, arg: call.descriptor(call.args[arg], arg), descriptor=True)


def _plain_descriptor(call: Call, arg: int) -> str:
    value = call.args[arg]
    return str(AT_FDCWD) if signed(value) == AT_FDCWD else call.descriptor(value, arg)


def octal_mode(value: int) -> str:
    """Permissions: at least three digits, the first of which is 0."""
    text = f"{value:o}"
    return text if len(text) >= 3 and text[0] == "0" else ("0" + text).rjust(3, "0")


def _path(call: Call, arg: int) -> str:
    for _, kind, mode, _, data in call.pieces.get(arg, ()):
        if kind == STRING and not mode & FAULT:
            return quoted(data, PATH_MAX - 1, not mode & NUL)
    return address(call.args[arg])


def _string(call: Call, arg: int) -> str:
    for _, kind, mode, _, data in call.pieces.get(arg, ()):
        if kind == STRING and not mode & FAULT:
            return quoted(data, call.limit, bool(mode & CUT))
    return address(call.args[arg])


PATH = Kind(_path, ((ON_ENTRY, STRING, BY_ONE, PATH_MAX),))
STR = Kind(_string, ((ON_ENTRY, STRING, BY_ONE, 0),))


def sent(length: int) -> Kind:
    """Bytes that the call reads; argument `length` says how many."""

    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, ON_ENTRY)
        size = call.args[length]
        if data is None or len(data) < min(size, call.limit):
            return '""' if call.args[arg] and not size else address(call.args[arg])
        return quoted(data, call.limit, size > call.limit)

    return Kind(render, ((ON_ENTRY, BYTES, length, 1),))


def _received(call: Call, arg: int) -> str:
    data = call.bytes(arg, ON_RETURN)
    if call.error or not call.returned or data is None:
        return '""' if call.returned and not call.error and call.args[arg] and not call.ret else address(call.args[arg])
    return quoted(data, call.limit, call.ret > call.limit)


RECEIVED = Kind(_received, ((ON_RETURN, BYTES, BY_RESULT, 1),), True)


def _written_path(call: Call, arg: int) -> str:
    """A path that the call writes, of as many bytes as it returns; getcwd counts its NUL."""
    data = call.bytes(arg, ON_RETURN)
    if call.error or data is None:
        return address(call.args[arg])
    return quoted(
        data.removesuffix(b"\0") if call.name == "getcwd" else data, PATH_MAX if call.name == "getcwd" else call.limit
    )


def _vector(call: Call, arg: int) -> str:
    pieces = call.pieces.get(arg, ())
    count = next((int.from_bytes(piece[4], "little") for piece in pieces if piece[1] == COUNT), None)
    if count is None:
        return address(call.args[arg])
    strings = [piece for piece in pieces if piece[1] == STRING]
    words = [quoted(piece[4], call.limit, bool(piece[2] & CUT)) for piece in strings[: call.limit]]
    return "[" + ", ".join(words + (["..."] if count > call.limit else [])) + "]"


def _environment(call: Call, arg: int) -> str:
    count = next((int.from_bytes(piece[4], "little") for piece in call.pieces.get(arg, ()) if piece[1] == COUNT), None)
    if count is None:
        return address(call.args[arg])
    return f"{call.args[arg]:#x} /* {count} var{'' if count == 1 else 's'} */"


ARGV = Kind(_vector, ((ON_ENTRY, VECTOR, BY_ONE, 1),))
ENVP = Kind(_environment, ((ON_ENTRY, COUNT, BY_ONE, 1),))
CWD = Kind(_written_path, ((ON_RETURN, BYTES, BY_RESULT, 0),), True)
LINK = Kind(_received, ((ON_RETURN, BYTES, BY_RESULT, 1),), True)


def iovec(count: int, when: int) -> Kind:
    """An array of buffers; argument `count` says how many."""

    def render(call: Call, arg: int) -> str:
        head = call.bytes(arg, when)
        if head is None:
            return address(call.args[arg]) if call.args[count] or not call.args[arg] else "[]"
        parts = [piece for piece in call.pieces[arg] if piece[1] == IOVEC]
        left, words = (call.ret if when == ON_RETURN else 1 << 63), []
        for (base, size), part in zip(struct.iter_unpack("<QQ", whole(head, 16)), parts, strict=False):
            used = min(size, left)
            left -= used
            text = address(base) if part[2] & FAULT else quoted(part[4], call.limit, used > call.limit)
            words.append(fields(iov_base=text, iov_len=str(size)))
        more = len(words) < call.args[count]
        return "[" + ", ".join(words + (["..."] if more else [])) + "]"

    return Kind(render, ((when, IOVEC, count, 1),), when == ON_RETURN)


def timespec_text(data: bytes) -> str:
    """struct timespec."""
    seconds, rest = struct.unpack_from("<qq", data)
    return fields(tv_sec=str(seconds), tv_nsec=str(rest))


def timeval_text(data: bytes) -> str:
    """struct timeval."""
    seconds, rest = struct.unpack_from("<qq", data)
    return fields(tv_sec=str(seconds), tv_usec=str(rest))


def date(seconds: int, part: int) -> str:
    """A moment as strace writes it behind a number, nanoseconds only if there are any."""
    moment = time.localtime(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + (f".{part:09}" if part else "") + time.strftime("%z", moment)


TIMESPEC = structure(16, lambda data, call: timespec_text(data), ON_ENTRY)
TIMESPEC_OUT = structure(16, lambda data, call: timespec_text(data), ON_RETURN)
TIMEVAL = structure(16, lambda data, call: timeval_text(data), ON_ENTRY)
TIMEVAL_OUT = structure(16, lambda data, call: timeval_text(data), ON_RETURN)
INT_OUT = structure(4, lambda data, call: f"[{signed(int.from_bytes(data, 'little'))}]", ON_RETURN)
OFFSET_OUT = structure(8, lambda data, call: f"[{signed(int.from_bytes(data, 'little'), 64)}]", ON_RETURN)
OFFSET = structure(8, lambda data, call: f"[{signed(int.from_bytes(data, 'little'), 64)}]", ON_ENTRY)
_PAIR = structure(8, lambda data, call: "[{}, {}]".format(*map(call.descriptor, struct.unpack("<ii", data))), ON_RETURN)
FD_PAIR = _PAIR.replace(copies=(*_PAIR.copies, (ON_RETURN, FDS, BY_ONE, 2 << 16 | 4)))
MODE = Kind(lambda call, arg: octal_mode(call.args[arg] & 0xFFFF))
