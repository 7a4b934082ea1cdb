"""`#!` scripts: what their interpreter is told, and which of them are none. The kernel is asked each time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from errno import EACCES, ELOOP
from pathlib import Path
from typing import Any

import pytest
from elfwriter import exit_program
from verdict import (
    Setup,
    Str,
    Verdict,
    as_nobody,
    assert_same_verdict,
    compile_program,
    in_directory,
    kernel_verdict,
    public_directory,
    reflective_verdict,
    verdict_agrees,
)

BINPRM_BUF_SIZE = 256
NEAR_THE_END = range(BINPRM_BUF_SIZE - 6, BINPRM_BUF_SIZE + 6)
ARGV = ("zero", "one", "two words", "", "ünï")
ENV: dict[Str, Str] = {"HOME": "/", "EMPTY": ""}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Path]:
    with public_directory() as directory:
        yield compile_program("argv", directory)


@pytest.fixture
def directory(compiled: Path) -> Iterator[Path]:
    """A directory that every user can reach, with the interpreter `argv` in it."""
    with public_directory() as path:
        shutil.copy(compiled, path / "argv")
        yield path


def write(path: Path, contents: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(contents)
    path.chmod(mode)
    return path


def padded(interp: bytes, length: int) -> bytes:
    """The same path, with so many slashes in front that it is `length` bytes long."""
    return interp.rjust(length, b"/")


def told(verdict: Verdict) -> dict[str, Any]:
    """What the interpreter was told."""
    said = json.loads(verdict.output)
    assert isinstance(said, dict)
    return said


# --- The line -------------------------------------------------------------------------------------------------

LINES: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda interp: b"#!" + interp + b"\n",
    "no newline at the end of the file": lambda interp: b"#!" + interp,
    "no newline, one argument": lambda interp: b"#!" + interp + b" -x",
    "no newline, trailing space": lambda interp: b"#!" + interp + b" ",
    "more lines": lambda interp: b"#!" + interp + b"\necho hello\n",
    "leading spaces and tabs": lambda interp: b"#! \t \t" + interp + b"\n",
    "trailing spaces and tabs": lambda interp: b"#!" + interp + b" \t \t\n",
    "one argument": lambda interp: b"#!" + interp + b" -x\n",
    "one argument after tabs": lambda interp: b"#!" + interp + b"\t\t -x\n",
    "one argument, inner spaces": lambda interp: b"#!" + interp + b" -x  --long option\t 7\n",
    "one argument, trailing spaces": lambda interp: b"#!" + interp + b" -x -y \t \n",
    "one argument, quotes": lambda interp: b"#!" + interp + b" 'a b' \"c\" \\d $HOME\n",
    "one argument, not UTF-8": lambda interp: b"#!" + interp + b" \xff\xfe\n",
    "carriage return": lambda interp: b"#!" + interp + b"\r\n",
    "carriage return after an argument": lambda interp: b"#!" + interp + b" -x\r\n",
    "form feed": lambda interp: b"#!" + interp + b"\f-x\n",
    "NUL after the path": lambda interp: b"#!" + interp + b"\0\n",
    "NUL after the path, then text": lambda interp: b"#!" + interp + b"\0 -x\n",
    "NUL after the path and a space": lambda interp: b"#!" + interp + b" \0-x\n",
    "NUL in the argument": lambda interp: b"#!" + interp + b" -x\0-y\n",
    "NUL, no newline": lambda interp: b"#!" + interp + b"\0text",
    "NUL before the path": lambda interp: b"#!\0" + interp + b"\n",
    "spaces, then NUL": lambda interp: b"#!  \0\n",
    "#! and NULs": lambda interp: b"#!" + bytes(300),
    "newline before the path": lambda interp: b"#!\n" + interp + b"\n",
    "only #!": lambda interp: b"#!",
    "only #! and newline": lambda interp: b"#!\n",
    "only #! and a space": lambda interp: b"#! ",
    "only #! and spaces and newline": lambda interp: b"#! \t \n",
    "253 spaces, no newline": lambda interp: b"#!" + b" " * 253,
    "254 spaces, no newline": lambda interp: b"#!" + b" " * 254,
    "254 spaces, then a path": lambda interp: b"#!" + b" " * 254 + interp + b"\n",
    "space between # and !": lambda interp: b"# !" + interp + b"\n",
    "space before #!": lambda interp: b" #!" + interp + b"\n",
    "interpreter missing": lambda interp: b"#!" + interp + b".missing\n",
    "interpreter missing, one argument": lambda interp: b"#!" + interp + b".missing -x\n",
    "interpreter in a missing directory": lambda interp: b"#!/nonexistent/sh\n",
    "interpreter in a file": lambda interp: b"#!" + interp + b"/sh\n",
    "interpreter is the directory": lambda interp: b"#!" + os.path.dirname(interp) + b"\n",
    "interpreter is /": lambda interp: b"#!/\n",
    "interpreter is a device": lambda interp: b"#!/dev/null\n",
    "interpreter is relative": lambda interp: b"#!argv\n",
    "interpreter is relative, with ./": lambda interp: b"#!./argv -x\n",
    "interpreter is relative, missing": lambda interp: b"#!missing\n",
    "interpreter has a trailing slash": lambda interp: b"#!" + interp + b"/\n",
    "interpreter is not searched in PATH": lambda interp: b"#!sh\n",
    "interpreter's name is too long for a file": lambda interp: b"#!/tmp/" + b"x" * 248,
    "interpreter is the script itself": lambda interp: b"#!" + os.path.dirname(interp) + b"/script\n",
    **{
        f"path up to byte {end}{what}": lambda interp, end=end, tail=tail: (  # type: ignore[misc]
            b"#!" + padded(interp, end - 2) + tail
        )
        for end in NEAR_THE_END
        for what, tail in (
            ("", b""),
            (", newline", b"\n"),
            (", space, newline", b" \n"),
            (", tab, argument", b"\t-x\n"),
            (", NUL", b"\0"),
            (", NUL, text", b"\0text text"),
        )
    },
    **{
        f"argument up to byte {end}{what}": lambda interp, end=end, tail=tail: (  # type: ignore[misc]
            (b"#!" + interp + b" ").ljust(end, b"x") + tail
        )
        for end in NEAR_THE_END
        for what, tail in (("", b""), (", newline", b"\n"), (", space, more", b" y\n"), (", spaces", b" " * 20))
    },
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_line(line: Callable[[bytes], bytes], directory: Path) -> None:
    script = write(directory / "script", line(os.fsencode(directory / "argv")))
    assert_same_verdict(str(script), ARGV, ENV, in_directory(directory))


# --- What the interpreter sees --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [(), ("",), ("x",), ("script", "a"), ("zero", "a b", "", "c"), (b"\xff", b"\xfe\xfd")],
    ids=["none", "one empty", "one", "two", "spaces", "not UTF-8"],
)
@pytest.mark.parametrize("option", [b"", b" -x y"], ids=["plain", "option"])
def test_argv(argv: tuple[Str, ...], option: bytes, directory: Path) -> None:
    script = write(directory / "script", b"#!%s%s\n" % (os.fsencode(directory / "argv"), option))
    kernel = assert_same_verdict(str(script), argv, ENV)
    expected = [str(directory / "argv"), *([option.decode().strip()] if option else []), str(script)]
    assert told(kernel)["argv"] == expected + [os.fsencode(one).decode("latin-1") for one in argv[1:]]


def test_names(directory: Path) -> None:
    """AT_EXECFN and comm are the script's, exe is the interpreter's."""
    script = write(directory / "a script with a long name", b"#!%s\n" % os.fsencode(directory / "argv"))
    said = told(assert_same_verdict(str(script), ARGV, ENV))
    assert said["execfn"] == str(script)
    assert said["comm"] == "a script with a\n"
    assert said["exe"] == str(directory / "argv")


@pytest.mark.parametrize("path", ["script", "./script", ".//./script", "link", "../{name}/script"])
def test_path_as_given(path: str, directory: Path) -> None:
    """The interpreter gets the path as the caller wrote it."""
    write(directory / "script", b"#!./argv\n")
    (directory / "link").symlink_to("script")
    path = path.format(name=directory.name)
    said = told(assert_same_verdict(path, ARGV, ENV, in_directory(directory)))
    assert said["argv"][1] == said["execfn"] == path


def test_script_name_not_utf8(directory: Path) -> None:
    path = os.fsencode(directory) + b"/\xff\xfe"
    write(Path(os.fsdecode(path)), b"#!%s\n" % os.fsencode(directory / "argv"))
    assert_same_verdict(path, ARGV, ENV)


# --- The interpreter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [b"", b" -x"], ids=["plain", "option"])
@pytest.mark.parametrize("depth", range(1, 8))
def test_chain(depth: int, option: bytes, directory: Path) -> None:
    """Scripts as interpreters of scripts, up to the kernel's depth."""
    interp = os.fsencode(directory / "argv")
    for level in range(depth):
        script = write(directory / f"script{level}", b"#!%s%s\n" % (interp, option))
        interp = os.fsencode(script)
    kernel = assert_same_verdict(interp, ARGV, ENV)
    assert kernel.errno == (0 if depth <= 5 else ELOOP)


@pytest.mark.parametrize("depth", range(1, 7))
def test_chain_that_ends_in_no_program(depth: int, directory: Path) -> None:
    interp = os.fsencode(write(directory / "text", b"text\n"))
    for level in range(depth):
        interp = os.fsencode(write(directory / f"script{level}", b"#!%s\n" % interp))
    assert_same_verdict(interp, ARGV, ENV)


INTERPRETERS: dict[str, Callable[[Path], object]] = {
    "no x bit": lambda path: exit_program().write(path, 0o644),
    "empty": lambda path: write(path, b""),
    "text": lambda path: write(path, b"text\n"),
    "static-pie": lambda path: exit_program(type=3).write(path),
    "program whose dynamic linker is missing": lambda path: exit_program().with_interp(b"/nonexistent").write(path),
    "program that the kernel kills": lambda path: exit_program().with_segment(0, memsz=1).write(path),
    "script without x bit": lambda path: write(path, b"#!/bin/true\n", 0o644),
    "script with a bad line": lambda path: write(path, b"#!\n"),
    "script whose interpreter is missing": lambda path: write(path, b"#!/nonexistent\n"),
    "FIFO": lambda path: os.mkfifo(path, 0o755),
    "dangling symlink": lambda path: path.symlink_to("missing"),
    "symlink loop": lambda path: path.symlink_to(path.name),
    "symlink": lambda path: path.symlink_to("argv"),
}


@pytest.mark.parametrize("make", INTERPRETERS.values(), ids=INTERPRETERS.keys())
def test_interpreter(make: Callable[[Path], object], directory: Path) -> None:
    make(directory / "interp")
    script = write(directory / "script", b"#!%s -x\n" % os.fsencode(directory / "interp"))
    assert_same_verdict(str(script), ARGV, ENV)


# --- Permissions ----------------------------------------------------------------------------------------------


def nobody_in(directory: Path) -> Setup:
    def setup() -> None:
        os.chdir(directory)
        as_nobody()

    return setup


def without_exe(verdict: Verdict) -> Verdict:
    """Without what needs a privilege to be set."""
    if not verdict.output:
        return verdict
    said = {key: value for key, value in told(verdict).items() if key != "exe"}
    return Verdict(verdict.errno, verdict.status, json.dumps(said).encode())


@pytest.mark.parametrize("interp_mode", [0o755, 0o711, 0o700, 0o644], ids=oct)
@pytest.mark.parametrize("mode", [0o755, 0o711, 0o700, 0o644, 0o111, 0], ids=oct)
@pytest.mark.parametrize("user", ["caller", "nobody"])
def test_modes(user: str, mode: int, interp_mode: int, directory: Path) -> None:
    script = write(directory / "script", b"#!%s\n" % os.fsencode(directory / "argv"), mode)
    (directory / "argv").chmod(interp_mode)
    setup = nobody_in(directory) if user == "nobody" else None
    kernel = kernel_verdict(str(script), ARGV, ENV, setup)
    ours = reflective_verdict(str(script), ARGV, ENV, setup)
    others = user == "nobody" and os.geteuid() == 0  # else the files are the user's own
    unreadable = (user == "nobody" or os.geteuid() != 0) and not mode & interp_mode & (0o004 if others else 0o400)
    if unreadable and kernel.errno == 0:
        # The kernel runs what the user may execute and not read; user space cannot see the file to load it.
        assert ours == Verdict(EACCES, None)
    else:
        assert verdict_agrees(without_exe(kernel), without_exe(ours)), f"kernel: {kernel}; reflective: {ours}"
