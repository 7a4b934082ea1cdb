"""Arguments and environment: what arrives, and how much is too much, to the byte. The kernel is asked each time."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import E2BIG
from pathlib import Path
from typing import Any

import pytest
from elfwriter import exit_program
from verdict import (
    Setup,
    Str,
    Verdict,
    assert_same_verdict,
    c_strings,
    compile_program,
    kernel_verdict,
    own_environment,
    public_directory,
    reflective_verdict,
    verdict_agrees,
    with_stack_limit,
)

KIB, MIB = 1 << 10, 1 << 20
MAX_ARG_STRLEN = 128 * KIB  # counts the NUL
CHUNK = 100_000  # the longest string of those tests that are not about the length of one string


@pytest.fixture(scope="module")
def shows() -> Iterator[Path]:
    """A program that shows its arguments."""
    with public_directory() as directory:
        yield compile_program("argv", directory)


@pytest.fixture(scope="module")
def exits() -> Iterator[Path]:
    """A program that exits with 42, whatever its arguments."""
    with public_directory() as directory:
        yield exit_program().write(directory / "exits")


def told(verdict: Verdict) -> dict[str, Any]:
    said = json.loads(verdict.output)
    assert isinstance(said, dict)
    return said


# --- What arrives ---------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Sequence[Str]] = {
    "none": (),
    "one empty": ("",),
    "several empty": ("", "", ""),
    "one": ("x",),
    "spaces and quotes": ("a b", " ", "'\"\\$`", "\t\n\r"),
    "every byte": [bytes(range(1, 256))],
    "not UTF-8": (b"\xff", b"\xc3", b"\xed\xa0\x80"),
    "surrogateescape": ("\udcff",),
    "beyond ASCII": ("ünïcode", "日本語", "🙂"),
    "600": [f"argument {i}" for i in range(600)],
    "50,000": [f"{i}" for i in range(50_000)],
    "100 of 10,000 bytes": ["x" * 10_000] * 100,
    "one of 128 KiB - 1": ["x" * (MAX_ARG_STRLEN - 1)],
}

ENVIRONMENTS: dict[str, Mapping[Str, Str]] = {
    "empty": {},
    "one": {"HOME": "/root"},
    "empty value": {"A": ""},
    "empty name": {"": "value"},
    "= in the value": {"A": "b=c=d"},
    "spaces": {"a b": " c "},
    "not UTF-8": {b"\xff": b"\xfe"},
    "order": {"B": "1", "A": "2", "C": "3"},
    "600": {f"V{i}": str(i) for i in range(600)},
    "20,000": {f"V{i}": str(i) for i in range(20_000)},
    "value of 100,000 bytes": {"A": "x" * 100_000},
}


@pytest.mark.parametrize("argv", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_arrive(argv: Sequence[Str], shows: Path) -> None:
    kernel = assert_same_verdict(str(shows), argv)
    assert told(kernel)["argv"] == [os.fsencode(one).decode("latin-1") for one in argv or [""]]


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_environment_arrives(env: Mapping[Str, Str], shows: Path) -> None:
    assert_same_verdict(str(shows), ("x",), env)


def test_environment_of_the_caller(shows: Path) -> None:
    assert_same_verdict(str(shows), ("x",), None)


def test_environment_of_the_caller_as_it_is(shows: Path) -> None:
    """Not what os.environ makes of it: strings without "=" and second values are passed on too."""
    strings = [b"NOEQUALS", b"A=b", b"", b"=", b"TWICE=1", b"TWICE=2"]
    array = c_strings(strings)

    def setup() -> None:
        own_environment().value = ctypes.addressof(array)

    kernel = assert_same_verdict(str(shows), ("x",), None, setup)
    assert told(kernel)["env"] == [string.decode() for string in strings]


@pytest.mark.parametrize(
    ("path", "argv", "env"),
    [
        ("{}", ["x", "a\0b"], {}),
        ("{}", [b"a\0b"], {}),
        ("{}", ["x"], {"A": "a\0b"}),
        ("{}", ["x"], {"A\0": "b"}),
        ("{}\0", ["x"], {}),
        ("{}", ["x"], {"A=B": "c"}),
    ],
    ids=["argument", "bytes", "value", "name", "path", "= in a name"],
)
def test_what_no_string_can_hold(path: str, argv: list[Str], env: dict[str, str], exits: Path) -> None:
    """The same exception as from subprocess, and nothing started."""
    import reflective

    path = path.format(exits)
    with pytest.raises(ValueError, match=r"embedded null byte|illegal environment variable name") as theirs:
        subprocess.run(argv, executable=path, env=env, check=False)
    with pytest.raises(ValueError, match=f"^{theirs.value}$"):
        reflective.spawn(path, argv, dict(env))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# --- How much is too much -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One execve, whose size is a number."""

    argv: Sequence[Str] = ("x",)
    env: Mapping[Str, Str] = field(default_factory=dict)


Grow = Callable[[int], Attempt]


def chunks(total: int) -> list[str]:
    """Strings of so many bytes altogether, without their NULs."""
    full, rest = divmod(total, CHUNK)
    return ["x" * CHUNK] * full + ["x" * rest]


GROWING: dict[str, Grow] = {
    "bytes of arguments": lambda size: Attempt(argv=chunks(size)),
    "bytes of environment": lambda size: Attempt(env={f"V{i:02}": one for i, one in enumerate(chunks(size))}),
    "bytes of arguments, no argv[0]": lambda size: Attempt(argv=(), env={"A": "x", "B": "y" * size}),
    "one-byte arguments": lambda size: Attempt(argv=["x"] * size),
    "empty arguments": lambda size: Attempt(argv=[""] * size),
    "short variables": lambda size: Attempt(env={f"{i:x}": "" for i in range(size)}),
    "arguments and environment": lambda size: Attempt(argv=["x" * 50] * (size // 100), env={"A": "x" * size}),
}

STRING: dict[str, Grow] = {
    "argument": lambda size: Attempt(argv=["x", "y" * size]),
    "argv[0]": lambda size: Attempt(argv=["x" * size]),
    "variable": lambda size: Attempt(env={"A": "x" * size}),
    "variable's name": lambda size: Attempt(env={"A" * size: ""}),
}

UNLIMITED = resource.RLIM_INFINITY
STACK_LIMITS = {
    "unlimited": UNLIMITED, "64 MiB": 64 * MIB, "24 MiB": 24 * MIB, "8 MiB": 8 * MIB, "8 MiB - 1": 8 * MIB - 1,
    "1 MiB": MIB, "513 KiB": 513 * KIB, "512 KiB": 512 * KIB, "256 KiB": 256 * KIB,
}  # fmt: skip


def too_big(verdict: Verdict) -> bool:
    return verdict.errno == E2BIG


def boundary(refused: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number in low … high that is refused; `low` is not, `high` is."""
    assert not refused(low), "the lower end of the search is refused"
    assert refused(high), "the upper end of the search is accepted"
    while high - low > 1:
        middle = (low + high) // 2
        if refused(middle):
            high = middle
        else:
            low = middle
    return high


def assert_same_boundary(path: Str, grow: Grow, setup: Setup | None, low: int, high: int) -> int:
    """The kernel and reflective refuse from the same size on. Returns it."""

    def kernel(size: int) -> Verdict:
        attempt = grow(size)
        return kernel_verdict(path, attempt.argv, attempt.env, setup)

    def ours(size: int) -> Verdict:
        attempt = grow(size)
        return reflective_verdict(path, attempt.argv, attempt.env, setup)

    first = boundary(lambda size: too_big(kernel(size)), low, high)
    last = first - 1
    if not verdict_agrees(kernel(last), ours(last)) or not too_big(ours(first)):
        their = boundary(lambda size: too_big(ours(size)), low, high)
        pytest.fail(
            f"kernel: {first} is too big, and {last} {kernel(last)}; reflective: {their} is too big, and {last} {ours(last)}"
        )
    return first


@pytest.mark.parametrize("grow", STRING.values(), ids=STRING.keys())
def test_longest_string(grow: Grow, exits: Path) -> None:
    first = assert_same_boundary(str(exits), grow, None, MAX_ARG_STRLEN - 1000, MAX_ARG_STRLEN + 1000)
    attempt = grow(first)
    strings = [*attempt.argv, *(f"{key!s}={value!s}" for key, value in attempt.env.items())]
    assert max(len(one) for one in strings) == MAX_ARG_STRLEN


@pytest.mark.parametrize("limit", [16 * KIB, 64 * KIB, 100 * KIB + 1])
def test_total_by_a_small_stack_limit(limit: int, exits: Path) -> None:
    """The strings must fit the stack itself. (Where they just do, and the vectors do not, the kernel kills with EFAULT.)"""
    for size in (10, 3000, limit - 20 * KIB, limit + 100, 120_000):
        if size > 0:
            assert_same_verdict(str(exits), ["x", "y" * size], setup=with_stack_limit(limit))


@pytest.mark.parametrize("limit", STACK_LIMITS.values(), ids=STACK_LIMITS.keys())
def test_total_by_stack_limit(limit: int, exits: Path) -> None:
    assert_same_boundary(str(exits), GROWING["bytes of arguments"], with_stack_limit(limit), 0, 7 * MIB)


# The stack limit, and a size that is too big under it.
KINDS = {
    "bytes of environment": (MIB, MIB),
    "bytes of arguments, no argv[0]": (512 * KIB, MAX_ARG_STRLEN - 10),
    "one-byte arguments": (MIB, 35_000),
    "empty arguments": (MIB, 35_000),
    "short variables": (MIB, 35_000),
    "arguments and environment": (512 * KIB, MAX_ARG_STRLEN - 10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_total_by_kind(kind: str, exits: Path) -> None:
    limit, too_much = KINDS[kind]
    assert_same_boundary(str(exits), GROWING[kind], with_stack_limit(limit), 0, too_much)


@pytest.mark.parametrize("length", [40, 41, 47, 48, 49, 255, 4000])
def test_total_counts_the_path(length: int, exits: Path) -> None:
    padded = str(exits).rjust(length, "/")  # not a Path, which would drop the slashes
    assert_same_boundary(padded, GROWING["bytes of arguments"], with_stack_limit(MIB), 0, MIB)


@pytest.mark.parametrize("option", ["", " -x  option"], ids=["plain", "option"])
def test_total_of_a_script(option: str, exits: Path) -> None:
    """What a script adds to the arguments counts too."""
    with public_directory() as directory:
        script = directory / "script"
        script.write_text(f"#!{exits}{option}\n")
        script.chmod(0o755)
        assert_same_boundary(str(script), GROWING["bytes of arguments"], with_stack_limit(MIB), 0, MIB)
