"""What the commands say: a line an error, whatever a file is called; and how they end when nobody listens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "reflective")
PROGRAM_COMMANDS = (
    ("exec",),
    ("exec", "-v"),
    ("plan",),
    ("trace",),
    ("stack",),
    ("maps", "--at", "entry"),
    ("aslr", "-n", "10"),
)
# what it is called, and how that is written
NAMES = {
    b"a b": "a b",
    b"a\nb": r"a\nb",
    b"a\x1b[31m": r"a\x1b[31m",
    b"\xff\xc3\xa4": r"\xffä",
    "a\u2028b".encode(): r"a\xe2\x80\xa8b",
}


def run(*words: str | bytes | Path, shell: str = 'exec "$@"', locale: str = "C.UTF-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": locale}
    return subprocess.run(
        ["bash", "-c", shell, "sh", *COMMAND, *words], capture_output=True, timeout=60, check=False, env=environment,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("words", PROGRAM_COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_an_odd_name_that_is_missing(name: bytes, words: Sequence[str], locale: str, tmp_path: Path) -> None:
    done = run(*words, os.fsencode(tmp_path) + b"/" + name, locale=locale)
    assert done.returncode == 127
    assert done.stderr.decode() == f"reflective: {tmp_path}/{NAMES[name]}: No such file or directory\n"


@pytest.mark.parametrize(
    "words", [("exec", "-v"), ("plan",), ("stack",), ("maps", "--at", "entry"), ("aslr", "-n", "10")], ids=" ".join
)
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_an_odd_name_that_is_there(name: bytes, words: Sequence[str], tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    shutil.copy(b"/bin/true", path)
    done = run(*words, path)
    assert done.returncode == 0
    shown = (done.stdout + done.stderr).decode()
    assert f"{tmp_path}/{NAMES[name]}" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("trace", "-o", "/nowhere/out", "true"), "/nowhere/out: No such file or directory"),
        (("trace", "-o", "/", "true"), "/: Is a directory"),
        (("trace", "-o", "/dev/full", "true"), "/dev/full: No space left on device"),
        (("trace", "--perfetto", "/dev/full", "true"), "/dev/full: No space left on device"),
        (("exec", "--chdir", "/nowhere", "true"), "/nowhere: No such file or directory"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_file_is_named(words: Sequence[str], line: str) -> None:
    assert run(*words).stderr.decode() == f"reflective: {line}\n"


@pytest.mark.parametrize(
    "words", [("--help",), ("trace", "--help"), ("--version",), ("plan", "true"), ("trace", "--json", "true")], ids=" ".join
)
def test_output_that_has_no_room(words: Sequence[str]) -> None:
    done = run(*words, shell='exec "$@" >/dev/full')
    assert (done.returncode, done.stderr) == (1, b"reflective: the output can't be written: No space left on device\n")


def test_a_program_whose_trace_has_no_room_runs_to_its_end() -> None:
    done = run("trace", "-o", "/dev/full", "sh", "-c", "sleep 0.3; echo ended")
    assert (done.returncode, done.stdout) == (1, b"ended\n")


def test_the_trace_does_not_take_the_place_of_standard_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("trace", "-o", out, "--", "sh", "-c", "echo wrong >&2; exit 3", shell='exec "$@" 2>&-')
    assert done.returncode == 3
    assert "\nwrong" not in out.read_text()
    assert "+++ exited with 3 +++" in out.read_text()
    assert run("trace", "-o", out, "/nowhere", shell='exec "$@" 2>&-').stdout == b""
    assert out.read_bytes() == b""


@pytest.mark.parametrize(
    "words", [("aslr", "-n", "10", "true"), ("trace", "sh", "-c", "exit 3"), ("maps", "99999999")], ids=" ".join
)
def test_without_standard_error(words: Sequence[str]) -> None:
    done, closed = run(*words), run(*words, shell='exec "$@" 2>&-')
    assert closed.returncode == done.returncode
    assert bool(closed.stdout) == bool(done.stdout)


@pytest.mark.parametrize(
    "words", [("plan", "true"), ("stack", "--json", "true"), ("maps", "--json", "--at", "main", "true")], ids=" ".join
)
def test_nobody_reads_on(words: Sequence[str]) -> None:
    """It ends as other programs do, of SIGPIPE."""
    done = run(*words, shell='"$@" | true; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    "words", [("aslr", "-n", "1000000", "true"), ("maps", "--at", "exit", "--", "sleep", "60")], ids=" ".join
)
def test_interrupted_it_dies_of_the_signal(words: Sequence[str]) -> None:
    """A shell ends its loop only if what it runs died of SIGINT."""
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("command", ["exec", "trace", "stack", "maps", "aslr", "plan"])
def test_an_unknown_option_is_its_commands(command: str) -> None:
    done = run(command, "--nonsense", "true")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"reflective {command}: unrecognized arguments: --nonsense (see reflective {command} --help)\n"
    )


ARGUMENTS = (["--"], ["--", "x"], ["x", "--", "y"], ["--", "--", "--help"], ["-v", "--", "-p"])


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
@pytest.mark.parametrize("dashes", [(), ("--",)], ids=["", "--"])
@pytest.mark.parametrize("words", [("exec",), ("exec", "-u", "X"), ("trace", "-o", "/dev/null")], ids=" ".join)
def test_dashes_behind_the_program_are_its_own(words: Sequence[str], dashes: Sequence[str], arguments: Sequence[str]) -> None:
    done = run(*words, *dashes, "printf", "%s|", "%", *arguments)
    assert done.stdout.decode() == "".join(f"{one}|" for one in ["%", *arguments])
    done = run(*words, *dashes, "/usr/bin/echo", *arguments)
    assert done.stdout.decode() == " ".join(arguments) + "\n"


def test_counts_as_json() -> None:
    """The table's numbers; with -e of the calls that were asked for alone."""
    words = ("trace", "-c", "-e", "openat,close", "cat", "/nowhere", "/etc/passwd")
    rows = [
        json.loads(line) for line in run(words[0], "--json", *words[1:]).stdout.splitlines() if line.startswith(b'{"schema"')
    ]
    assert {row["schema"] for row in rows} == {"reflective.trace-count/1"}
    table = [line.split() for line in run(*words).stderr.decode().splitlines() if line.endswith((" openat", " close"))]
    assert {row["name"]: row["calls"] for row in rows} == {line[-1]: int(line[3]) for line in table}
    assert {row["name"]: row["errors"] for row in rows}["openat"] == next(
        int(line[4]) for line in table if line[-1] == "openat"
    )
    assert all(row["time_ns"] > 0 for row in rows)
