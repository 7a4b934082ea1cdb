"""The first line of a script. What the kernel makes of such lines is compared in tests/kernel/test_scripts.py."""

from __future__ import annotations

import errno

import pytest

from reflective.errors import LoadError
from reflective.plan.script import BUFFER, Shebang, parse

LONG = b"/" + b"x" * (BUFFER - 4)  # as long as a path in 256 bytes can be, with "#!" before it and a newline behind


@pytest.mark.parametrize(
    ("line", "interpreter", "argument"),
    [
        (b"#!/bin/sh\n", b"/bin/sh", None),
        (b"#!/bin/sh", b"/bin/sh", None),
        (b"#! \t /bin/sh \t\n", b"/bin/sh", None),
        (b"#!/usr/bin/env python3\n", b"/usr/bin/env", b"python3"),
        (b"#!/usr/bin/env -S a  b \n", b"/usr/bin/env", b"-S a  b"),
        (b"#!/bin/sh\t-e\n", b"/bin/sh", b"-e"),
        (b"#!/bin/sh\r\n", b"/bin/sh\r", None),
        (b"#!sh\n", b"sh", None),
        (b"#!/bin/sh -e\nexit\n", b"/bin/sh", b"-e"),
        (b"#!/bin/sh\0-e\n", b"/bin/sh", None),
        (b"#!/\xff\n", b"/\xff", None),
        (b"#!" + LONG + b"\n", LONG, None),
        (b"#!", b"", None),  # the buffer's first NUL ends an empty path, which then is not found
        (b"#!/bin/sh " + b"a" * 300, b"/bin/sh", b"a" * (BUFFER - 1 - 10)),
    ],
)
def test_accepted(line: bytes, interpreter: bytes, argument: bytes | None) -> None:
    assert parse(line, "script") == Shebang(interpreter, argument)


@pytest.mark.parametrize("line", [b"#!\n", b"#! \t\n", b"#!" + b" " * 300, b"#!" + b"x" * 300, b"#!" + LONG + b"x\n"])
def test_refused(line: bytes) -> None:
    with pytest.raises(LoadError) as refusal:
        parse(line, "script")
    assert refusal.value.errno == errno.ENOEXEC
    assert refusal.value.filename == "script"
    assert "#!" in refusal.value.reason


def test_only_256_bytes_are_seen() -> None:
    line = b"#!/bin/sh " + b"a" * 400
    assert parse(line, "script") == parse(line[:BUFFER], "script")
