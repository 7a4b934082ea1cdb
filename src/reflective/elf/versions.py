"""The versions of dynamic symbols, from what DT_VERSYM, DT_VERDEF and DT_VERNEED point to (LSB, "Symbol Versioning")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, iter_unpack

from ..values import Value

DEFINITION, DEFINITION_NAME = Struct("<HHHHIII"), Struct("<II")  # Elf64_Verdef, Elf64_Verdaux
NEED, NEED_NAME = Struct("<HHIII"), Struct("<IHHII")  # Elf64_Verneed, Elf64_Vernaux
BASE = 1  # VER_FLG_BASE: names the file, not a version
HIDDEN = 0x8000  # not the version that a plain name is bound to
MOST = HIDDEN - 1
Read = Callable[[int, int, str], bytes]  # so many bytes at an address, and which field points there


class Version(Value):
    """A symbol's version; `default` if the plain name means it."""

    name: str
    default: bool


NONE = Version("", True)


def defined(read: Read, at: int, count: int) -> Iterator[tuple[int, int]]:
    """What this file defines, from the table at an address: index, and where the name is in the string table."""
    for _ in range(min(count, MOST)):
        _, flags, index, _, _, names, forward = DEFINITION.unpack(read(at, DEFINITION.size, "DT_VERDEF"))
        if not flags & BASE:
            yield index & ~HIDDEN, DEFINITION_NAME.unpack(read(at + names, DEFINITION_NAME.size, "vd_aux"))[0]
        if not forward:
            break
        at += forward


def needed(read: Read, at: int, count: int) -> Iterator[tuple[int, int]]:
    """What this file wants of others, likewise. Raises ValueError for more versions than there are indices."""
    left = MOST
    for _ in range(min(count, MOST)):
        _, names, _, first, forward = NEED.unpack(read(at, NEED.size, "DT_VERNEED"))
        inner = at + first
        for _ in range(names):
            left -= 1
            if left < 0:
                raise ValueError(f"DT_VERNEED: more than {MOST} versions")
            _, _, index, name, further = NEED_NAME.unpack(read(inner, NEED_NAME.size, "vn_aux"))
            yield index & ~HIDDEN, name
            if not further:
                break
            inner += further
        if not forward:
            break
        at += forward


def of_symbols(table: bytes, names: dict[int, str]) -> list[Version]:
    """The version of each dynamic symbol, in the order of the symbol table. `table` is what DT_VERSYM points to."""
    indices = (index for (index,) in iter_unpack("<H", table[: len(table) & -2]))
    return [Version(names.get(index & ~HIDDEN, ""), not index & HIDDEN) for index in indices]


def string(strings: bytes, at: int) -> str:
    """The string that begins there, without its NUL. Raises ValueError if it lies outside the table."""
    if not 0 <= at < len(strings):
        raise ValueError(f"string {at:#x} lies outside the string table, which has {len(strings):#x} bytes")
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode(errors="replace")
