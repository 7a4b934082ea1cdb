"""The versions of dynamic symbols, from what DT_VERSYM, DT_VERDEF and DT_VERNEED point to (LSB, "Symbol Versioning")."""

from __future__ import annotations

from struct import Struct, iter_unpack

from ..values import Value

DEFINITION, DEFINITION_NAME = Struct("<HHHHIII"), Struct("<II")  # Elf64_Verdef, Elf64_Verdaux
NEED, NEED_NAME = Struct("<HHIII"), Struct("<IHHII")  # Elf64_Verneed, Elf64_Vernaux
BASE = 1  # VER_FLG_BASE: names the file, not a version
HIDDEN = 0x8000  # not the version that a plain name is bound to


class Version(Value):
    """A symbol's version; `default` if the plain name means it."""

    name: str
    default: bool


NONE = Version("", True)


def defined(data: bytes, count: int, strings: bytes) -> dict[int, str]:
    """What this file defines, by index. Raises struct.error if the table ends early."""
    found: dict[int, str] = {}
    at = 0
    for _ in range(count):
        _, flags, index, _, _, names, forward = DEFINITION.unpack_from(data, at)
        if not flags & BASE:
            found[index & ~HIDDEN] = string(strings, DEFINITION_NAME.unpack_from(data, at + names)[0])
        if not forward:
            break
        at += forward
    return found


def needed(data: bytes, count: int, strings: bytes) -> dict[int, str]:
    """What this file wants of others, by index. Raises struct.error if the table ends early."""
    found: dict[int, str] = {}
    at = 0
    for _ in range(count):
        _, names, _, first, forward = NEED.unpack_from(data, at)
        inner = at + first
        for _ in range(names):
            _, _, index, name, further = NEED_NAME.unpack_from(data, inner)
            found[index & ~HIDDEN] = string(strings, name)
            if not further:
                break
            inner += further
        if not forward:
            break
        at += forward
    return found


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
