"""The stack's parts, from bytes made here."""

from __future__ import annotations

from struct import pack

import pytest

from reflective.errors import SessionError
from reflective.observe.stack import items

BASE = 0x7FFC_0000_0000
TABLES = 8 * (1 + 2 + 2) + 16 * 3


def image(argv: int, random: int) -> bytes:
    strings = BASE + TABLES
    words = pack("<QQQQQ", 1, argv, 0, strings + 4, 0) + pack("<QQQQQQ", 25, random, 999, 5, 0, 0)
    return words + b"arg\0A=1\0" + bytes(range(16)) + bytes(8)


def test_parts() -> None:
    found = items(image(BASE + TABLES, BASE + TABLES + 8), BASE, ())
    assert [(item.kind, item.name, item.text) for item in found] == [
        ("argc", "argc", "1"),
        ("argv", "argv[0]", "arg"),
        ("argv", "argv[1]", "NULL: the end"),
        ("envp", "envp[0]", "A=1"),
        ("envp", "envp[1]", "NULL: the end"),
        ("auxv", "AT_RANDOM", "16 random bytes: stack canary and pointer guard come from them"),
        ("auxv", "type 999", ""),
        ("auxv", "AT_NULL", "the end of the vector"),
        ("argument", "", "arg"),
        ("environment", "", "A=1"),
        ("random", "", bytes(range(16)).hex(" ")),
        ("unused", "", "zeros"),
    ]
    assert sum(item.size for item in found) == len(image(0, 0))


@pytest.mark.parametrize(
    "memory", [b"", pack("<Q", 1), pack("<QQ", 1, 5), image(BASE - 1, BASE), image(BASE + TABLES, BASE + 10**6)]
)
def test_no_stack(memory: bytes) -> None:
    with pytest.raises(SessionError, match="no initial stack"):
        items(memory, BASE, ())
