"""What decoders share: a call as recorded, kinds of arguments, and how strace writes numbers, strings and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from ...values import Value

ON_ENTRY, ON_RETURN = 1, 2
STRING, BYTES, VECTOR, COUNT, IOVEC, FD, STACK, FRAMES, MESSAGE, MESSAGES, BEHIND, FDS, REGISTERS = range(1, 14)
BY_RESULT, BY_ONE, BY_WORD = 6, 7, 8
FAULT, NUL, CUT = 1, 2, 4
AT_FDCWD, RESULT = -100, 6
Piece = tuple[int, int, int, int, bytes]  # when, kind, flags, address, contents


class Call:
    """One system call: its arguments and what they pointed to."""

    __slots__ = ("args", "base16", "error", "interrupted", "limit", "name", "note", "paths", "pieces", "ret", "returned")

    def __init__(self, name: str, args: tuple[int, ...], pieces: dict[int, list[Piece]], limit: int = 32) -> None:
        self.name, self.args, self.pieces, self.limit = name, args, pieces, limit
        self.ret, self.error, self.returned = 0, False, False
        self.note = ""  # what strace puts in parentheses after the result
        self.paths = False  # descriptors are written with what they are
        self.interrupted = "system call"  # what restart_syscall goes on with
        self.base16 = False  # the result is written in hexadecimal

    def bytes(self, arg: int, when: int, least: int = 0) -> bytes | None:
        """What was copied for an argument; None if it could not be read, or is shorter than `least`."""
        for piece in self.pieces.get(arg, ()):
            if piece[0] == when and piece[1] in (BYTES, STRING, STACK):
                return piece[4] if len(piece[4]) >= least and not (least and piece[2] & FAULT) else None
        return None

    def descriptor(self, value: int, arg: int | None = None) -> str:
        """A descriptor, with what it is if that is asked for and known; `arg` where it stands, if it may be another there."""
        number = signed(value)
        text = "AT_FDCWD" if number == AT_FDCWD and arg is not None else str(number)
        if self.paths:
            for at in self.pieces if arg is None else (arg,):
                for _, kind, _, where, target in self.pieces.get(at, ()):
                    if kind == FD and where == value & 0xFFFFFFFF:
                        return text + _target(target)
        return text


def _target(target: bytes) -> str:
    path = target.removesuffix(b" (deleted)")
    text = escape(path).replace("<", "\\74").replace(">", "\\76")
    return f"<{text}>" + ("(deleted)" if path != target else "")


class Renderer(Protocol):
    """Writes one argument; None leaves it out."""

    def __call__(self, call: Call, arg: int, /) -> str | None:
        """The text of argument number `arg`."""


class Kind(Value):
    """A kind of argument: how it is written, what is copied for it (when, kind, count, size), if only the result shows it."""

    render: Renderer
    copies: tuple[tuple[int, int, int, int], ...] = ()
    out: bool = False
    grows: bool = False  # shown at the entry, and with more when the call has returned
    descriptor: bool = False
    comma: bool = True  # of an `out` argument: the comma before it belongs to the call's entry


Signature = tuple[Kind, ...]


def signed(value: int, bits: int = 32) -> int:
    """The low bits of a register as a C int."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def hexadecimal(value: int) -> str:
    """As C's %#x: zero has no prefix."""
    return f"{value:#x}" if value else "0"


def address(value: int) -> str:
    """A pointer."""
    return f"{value:#x}" if value else "NULL"


def flags(value: int, table: Mapping[int, str], unknown: str, zero: str = "0") -> str:
    """Names joined by |, in the table's order; what has no name in hexadecimal."""
    if not value:
        return table.get(0, zero)
    names, rest = [], value
    for bit, name in table.items():
        if bit and rest & bit == bit:
            names.append(name)
            rest &= ~bit
    if not names:
        return f"{value:#x} /* {unknown} */"
    return "|".join([*names, *([f"{rest:#x}"] if rest else [])])


def choice(value: int, table: Mapping[int, str], unknown: str) -> str:
    """One name of several."""
    return table.get(value) or f"{value:#x} /* {unknown} */"


_PLAIN = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_SHORT = [_PLAIN.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:o}") for byte in range(256)]
_LONG = [_PLAIN.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in range(256)]
_EASY = re.compile(rb"[ !#-\[\]-~]*").fullmatch


def escape(data: bytes) -> str:
    """Octal escapes are as short as the next character allows."""
    if _EASY(data):
        return data.decode("ascii")
    last = len(data) - 1
    return "".join((_LONG if at < last and 48 <= data[at + 1] <= 55 else _SHORT)[byte] for at, byte in enumerate(data))


def quoted(data: bytes, limit: int, more: bool = False) -> str:
    """A string as strace writes it: at most `limit` bytes, three dots if there are more."""
    return f'"{escape(data[:limit])}"' + ("..." if more or len(data) > limit else "")


def fields(**values: str) -> str:
    """A structure."""
    return "{" + ", ".join(f"{name}={value}" for name, value in values.items()) + "}"


def structure(size: int, write: Callable[[bytes, Call], str], when: int, null: str = "NULL") -> Kind:
    """A pointer to one structure: its contents, or the address if there are none."""

    def render(call: Call, arg: int) -> str:
        data = call.bytes(arg, when, size)
        return write(data[:size], call) if data is not None else (address(call.args[arg]) if call.args[arg] else null)

    return Kind(render, ((when, BYTES, BY_ONE, size),), when == ON_RETURN)


def whole(data: bytes, size: int) -> bytes:
    """As many whole elements as there are."""
    return data[: len(data) // size * size]


def named_flags(table: Mapping[int, str], unknown: str, bits: int = 32) -> Kind:
    """An argument of flags."""
    return Kind(lambda call, arg: flags(call.args[arg] & ((1 << bits) - 1), table, unknown))


def named(table: Mapping[int, str], unknown: str, bits: int = 32) -> Kind:
    """An argument that is one of several."""
    return Kind(lambda call, arg: choice(call.args[arg] & ((1 << bits) - 1), table, unknown))


def numbered(names: str, start: int = 0, prefix: str = "") -> dict[int, str]:
    """A table of names that count up; a dash leaves a number out."""
    return {number: prefix + name for number, name in enumerate(names.split(), start) if name != "-"}


def bits(names: str, prefix: str = "") -> dict[int, str]:
    """A table of names that double; a dash leaves a bit out."""
    return {1 << number: prefix + name for number, name in enumerate(names.split()) if name != "-"}
