"""got-watch --live, on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from gotprograms import compiled

from reflective.observe import got
from reflective.observe.got.events import Exit

GOT_WATCH = [sys.executable, "-m", "reflective", "got-watch"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "TERM": "xterm-256color"}
LAZY = ("-Wl,-z,lazy",)
PROGRAM = """#include <stdio.h>
int main(int argc, char **argv) { printf("%d\\n", argc); return argc > 1 ? puts(argv[0]) : 5; }"""


def on_a_terminal(*words: str | Path) -> tuple[int, str]:
    """Exit status and what got-watch draws on a terminal of its own; the program's output goes elsewhere."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    command = [*GOT_WATCH, "--live", *map(str, words)]
    with subprocess.Popen(command, stdin=slave, stdout=subprocess.DEVNULL, stderr=slave, env=ENVIRONMENT) as watcher:
        os.close(slave)
        drawn = b""
        with contextlib.suppress(OSError):  # EIO: the last one has closed it
            while part := os.read(master, 65536):
                drawn += part
        os.close(master)
        return watcher.wait(60), drawn.decode()


def test_live_shows_what_is_not_bound_yet_dwindle(tmp_path: Path) -> None:
    path = compiled(PROGRAM, tmp_path / "program", *LAZY)
    status, drawn = on_a_terminal("--object", "program", "--", path)
    assert status == 5
    assert "\x1b[1A" in drawn, "drawn in place"
    assert "\x1b[32m━" in drawn, "bound, green"
    assert "\x1b[33m━" in drawn, "not yet, yellow"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    left = [int(number) for number in re.findall(r"^program +partial.* (\d+) +━+\s*$", plain, re.M)]
    assert (left[0], left[-1]) == (2, 1), plain
    assert left == sorted(left, reverse=True)
    with contextlib.closing(got.watch([str(path)])) as events:
        end = next(event for event in events if isinstance(event, Exit))
    assert next(one.unbound for one in end.objects if one.object == str(path)) == left[-1]


def test_live_follows_children_and_passes_their_status_on() -> None:
    status, drawn = on_a_terminal("--", "sh", "-c", "ls / & wait; exit 4")
    assert status == 4
    assert re.search(r"process +.*object", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn))


@pytest.mark.parametrize("words", [["--live", "--json"], ["--live", "--summary"], ["--live"]])
def test_live_is_for_terminals(words: list[str]) -> None:
    command = [*GOT_WATCH, *words, "--", "true"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"--live" in done.stderr


def test_a_terminal_that_goes_away_does_not_stop_the_program() -> None:
    master, slave = os.openpty()
    command = [*GOT_WATCH, "--live", "--", "sh", "-c", "ls /; echo end"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, env=ENVIRONMENT) as watcher:
        os.close(slave)
        assert os.read(master, 1)
        os.close(master)
        printed, _ = watcher.communicate(timeout=60)
    assert printed.endswith(b"end\n")
    assert watcher.returncode == 1, "the events can't be written"
