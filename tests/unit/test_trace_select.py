"""What -e trace= selects, and the table it selects from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reflective.trace.numbers import NAMES
from reflective.trace.syscalls import NUMBERS, error_text, name_of, select

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


def names(expression: str) -> set[str]:
    return {NAMES[number] for number in select(expression)}


def test_names_add_up() -> None:
    assert names("openat,close") == names("trace=openat,close") == {"openat", "close"}


def test_classes_and_exceptions() -> None:
    chosen = names("trace=%file,read,!access")
    assert {"openat", "read", "execve"} <= chosen
    assert "access" not in chosen
    assert "write" not in chosen


def test_a_leading_exclamation_mark_leaves_all_but_these() -> None:
    assert names("trace=!mmap,close") == NUMBERS.keys() - {"mmap", "close"}


@pytest.mark.parametrize("expression", ["opne", "%flie", "trace=openat,", "signal=SIGINT"])
def test_unknown_names_are_errors(expression: str) -> None:
    with pytest.raises(ValueError, match=r"is no|only trace="):
        select(expression)


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers")
def test_the_table_has_all_that_the_header_has() -> None:
    found = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", HEADER.read_text())}
    assert found.items() <= NUMBERS.items()


def test_newest_and_unknown_calls() -> None:
    assert (name_of(469), name_of(0x1C3), name_of(0x3E7)) == ("file_setattr", "cachestat", "syscall_0x3e7")


def test_errors_have_strace_names() -> None:
    assert error_text(2) == "-1 ENOENT (No such file or directory)"
    assert error_text(11) == "-1 EAGAIN (Resource temporarily unavailable)"
    assert error_text(95) == "-1 EOPNOTSUPP (Operation not supported)"
    assert error_text(512) == "? ERESTARTSYS (To be restarted if SA_RESTART is set)"
