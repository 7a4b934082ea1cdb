"""What `reflective trace` decodes, held against strace line by line; tests/programs/calls.c makes the calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from skips import needs
from support import PROGRAMS

FAMILIES = (
    "files", "terminal", "addresses", "options", "messages", "waiting", "clocks", "processes", "controls", "locks", "memory",
    "rare", "clones",
)  # fmt: skip
TRACE = [sys.executable, "-m", "reflective", "trace", "--no-pin"]
# What differs between two runs of strace, too: addresses, numbers of processes and ports, free space, times
CHANGING = (
    (r"0x[0-9a-f]{6,}", "ADDRESS"), (r"htons\([1-9]\d*\)", "PORT"), (r'sa_data="[^"]*"', "DATA"),
    (r"f_(b?free|bavail|ffree|files|blocks)=\d+", r"f_\1"), (r"tv_(sec|usec|nsec)=\d{4,}", r"tv_\1"),
    (r"\d{4}-\d\d-\d\dT[\d:]+", "DATE"),
    (r"(tms_\w+)=[^,}]*", r"\1"), (r"usec=\d+", "usec"), (r"(si_[us]time)=\d+( /\* [\d.]+ s \*/)?", r"\1"),
    (r"(uptime|loads|freeram|sharedram|bufferram|procs|freeswap)=(\[[^]]*\]|\d+)", r"\1"), (r"left \{[^}]*\}", "left"),
    (r"parent_tid=\[\w+\]", "parent_tid"), (r'getrandom\("[^"]*"', "getrandom("), (r"\b\d{10}\b", "TIME"),
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("strace", "strace")
    target = tmp_path_factory.mktemp("calls") / "calls"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Wno-unused-result", "-Wno-unused-value", "-Wno-nonnull"]
    subprocess.run([*command, PROGRAMS / "calls.c", PROGRAMS / "calls_files.c", "-o", target], check=True)
    return target


def lines(tracer: list[str], program: Path, family: str, folder: Path) -> list[str]:
    """From the program's own first call on: what C's start does before is in other tests."""
    folder.mkdir()
    out = folder.parent / f"{folder.name}.txt"
    subprocess.run(
        ["setarch", "-R", *tracer, "-o", out, program, family], cwd=folder, stdin=subprocess.DEVNULL, timeout=60, check=True
    )
    text = out.read_text()
    pid = re.search(r"set_tid_address\(.*= (\d+)", text)
    assert pid
    for at in range(3):  # the program's own number, and those of its children
        text = re.sub(rf"\b{int(pid[1]) + at}\b", f"PID{at}", text)
    text = re.sub(r"(clone3?\(.*= |wait4\(|waitid\(P_PID, |si_pid=)(\d{2,}|PID\d)", r"\1", text)
    text = re.sub(r"(wait4\(.*\) = )(\d{2,}|PID\d)", r"\1", re.sub(r"\) +=", ") =", text))
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    found = text.splitlines()
    return found[next(at for at, line in enumerate(found) if line.startswith("mprotect")) + 1 :]


@pytest.mark.parametrize("family", FAMILIES)
def test_lines_are_those_of_strace(family: str, program: Path, tmp_path: Path) -> None:
    theirs = lines(["strace"], program, family, tmp_path / "theirs")
    ours = lines(TRACE, program, family, tmp_path / "ours")
    assert ours == theirs
    assert len(ours) > 13
    assert len(set(ours)) > 12


DESCRIPTORS = """
import array, os, select, socket
a, b = socket.socketpair()
s = socket.socket()
d = os.open('/etc', os.O_RDONLY)
os.stat('passwd', dir_fd=d), os.dup(d), os.memfd_create('m'), os.eventfd(1)
r, w = os.pipe()
e = select.epoll()
e.register(r, 1), e.poll(0)
p = select.poll()
p.register(r), p.register(d), p.poll(0)
f = os.open('a<b>"c', os.O_CREAT | os.O_RDWR)
os.unlink('a<b>"c'), os.write(f, b'1'), os.fchdir(d), os.close(f)
os.pidfd_open(os.getpid())
try:
    os.close(99)
except OSError:
    pass
"""


def test_descriptors_are_written_as_by_strace(tmp_path: Path) -> None:
    needs("strace", "strace")
    found = []
    for tracer, name in ((["strace", "-y"], "theirs"), ([*TRACE, "-y"], "ours")):
        (folder := tmp_path / name).mkdir()
        words = ["/usr/bin/python3", "-ISc", DESCRIPTORS]
        out = tmp_path / f"{name}.txt"
        subprocess.run(
            ["setarch", "-R", *tracer, "-o", out, *words], cwd=folder, stdin=subprocess.DEVNULL, check=True, timeout=60
        )
        text = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", out.read_text()).replace(str(folder), "FOLDER")
        text = re.sub(r"(socket|pipe):\[\d+\]|tv_n?sec=\d+|st_size=\d+", r"\1", re.sub(r"\) +=", ") =", text))
        kept = [line for line in text.splitlines() if "<" in line and not line.startswith("getdents")]
        found.append([re.sub(r"(getpid|gettid)\(.*|pidfd_open\(\d+", r"\1", line) for line in kept])
    assert found[1] == found[0]
    assert any('a\\74b\\76\\"c>(deleted)' in line for line in found[0])
    assert sum("<" in line for line in found[0]) > 60
