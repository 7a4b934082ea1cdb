"""A program on a terminal, under a shell with job control: the shell can't tell whether reflective stands in between."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PROGRAMS

# Real programs with children, threads and clocks: two native runs differ too, once in a while.
pytestmark = pytest.mark.flaky(reruns=2)

TIMEOUT_S = 15.0
PREFIXES = {
    "exec": f"{sys.executable} -m reflective exec ",
    "verbose": f"{sys.executable} -m reflective exec -v ",
    "in place": f"{sys.executable} -m reflective exec --in-place ",
}


class Terminal:
    """An interactive bash on a terminal of its own. `run` starts tty.c, by reflective or not."""

    def __init__(self, program: Path, prefix: str) -> None:
        self.run = f"{prefix}{program}"
        self.master, slave = os.openpty()
        self.seen = ""
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
            env={"PATH": "/usr/bin:/bin", "PS1": "", "PS2": "", "TERM": "dumb", "LANG": "C.UTF-8"},
        )
        os.close(slave)
        self.line("stty -echo; ulimit -c 0")
        assert self.ask("echo '<'started'>'", r"<started>")

    def key(self, what: str) -> None:
        """^C is "\\x03", ^Z "\\x1a"."""
        os.write(self.master, what.encode())

    def line(self, what: str) -> None:
        self.key(what + "\n")

    def until(self, pattern: str) -> str:
        """Reads until the pattern has been seen, and returns what it matched, or its first group."""
        end = time.monotonic() + TIMEOUT_S
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern} not seen in {TIMEOUT_S} s, but {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode()
        self.seen = self.seen[found.end() :]
        return found[found.re.groups and 1]

    def ask(self, command: str, pattern: str) -> str:
        """Types a line and waits for what shall come of it."""
        self.line(command)
        return self.until(pattern)

    def status(self) -> str:
        """$? of what ran last."""
        return self.ask('echo "<status $?>"', r"<status (\d+)>")

    def jobs(self) -> list[str]:
        """The states of the shell's jobs, as `jobs` has them in POSIX mode: Running, Stopped(SIGTTIN) …"""
        told = self.ask("set -o posix; jobs; set +o posix; echo '<'end'>'", r"(?s)(.*?)<end>")
        return re.findall(r"\[\d\][+ -] +(Running|Done(?:\(\d+\))?|Terminated|Stopped\([A-Z]+\))", told)

    def wait_for_job(self, state: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not any(job.startswith(state) for job in self.jobs()):
            assert time.monotonic() < end, f"no job is {state}"
            time.sleep(0.02)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def members(self) -> list[str]:
        """Processes of the session, but for the shell."""
        found = []
        for directory in Path("/proc").glob("[1-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                name, rest = (directory / "stat").read_text(errors="replace").rsplit(")", 1)
                if int(rest.split()[3]) == self.shell.pid and int(directory.name) != self.shell.pid:
                    found.append(f"{name}){rest[:2]}")
        return found

    def close(self) -> None:
        for directory in Path("/proc").glob("[1-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getsid(int(directory.name)) == self.shell.pid:
                    os.kill(int(directory.name), signal.SIGKILL)
        self.shell.wait()
        os.close(self.master)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "tty"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", PROGRAMS / "tty.c", "-o", path], check=True)
    return path


@contextlib.contextmanager
def session(program: Path, prefix: str) -> Iterator[Terminal]:
    """A terminal, on which nothing may be running at the end."""
    terminal = Terminal(program, prefix)
    try:
        yield terminal
        end = time.monotonic() + TIMEOUT_S
        while (left := terminal.members()) and time.monotonic() < end:
            time.sleep(0.02)
        assert left == []
    finally:
        terminal.close()


def interrupt(t: Terminal) -> object:
    """^C kills the program, and the shell sees that."""
    ready = t.ask(f"{t.run} wait", r"<ready (\d)>")
    t.key("\x03")
    return ready, t.status()


def quit_key(t: Terminal) -> object:
    t.ask(f"{t.run} wait", "<ready 1>")
    t.key("\x1c")
    return t.status()


def interrupt_a_loop(t: Terminal) -> object:
    """A program that dies of ^C ends the shell's loop."""
    t.ask(f"for i in 1 2 3; do {t.run} wait; done", "<ready 1>")
    t.key("\x03")
    return t.status(), "ready" in t.seen


def caught_in_a_loop(t: Terminal) -> object:
    """One that handles it does not; and it gets it once, although the terminal sends it to reflective as well."""
    t.ask(f"for i in 1 2; do {t.run} count 2; done", "<ready 0>")
    t.key("\x03")
    first = t.until(r"<caught (\d)>")
    t.until("<ready 0>")
    t.key("\x03")
    return first, t.until(r"<caught (\d)>"), t.status()


def suspend(t: Terminal) -> object:
    """^Z, fg, ^Z, fg, ^C."""
    told = []
    t.ask(f"{t.run} wait", "<ready 1>")
    for _ in range(2):
        t.key("\x1a")
        told += [t.status(), *t.jobs()]
        t.line("fg")
        t.until("tty wait")
        time.sleep(0.1)
    t.key("\x03")
    return told, t.status(), t.jobs()


def background(t: Terminal) -> object:
    """^Z, bg, kill."""
    t.ask(f"{t.run} wait", "<ready 1>")
    t.key("\x1a")
    stopped = t.jobs()
    t.line("bg")
    t.wait_for_job("Running")
    running = t.jobs()
    return stopped, running, t.ask('kill %1; wait %1; echo "<status $?>"', r"<status (\d+)>")


def stop_itself(t: Terminal) -> object:
    """kill(0, SIGSTOP): the shell sees it stopped, fg continues it."""
    t.ask(f"{t.run} stop", "<ready 0>")
    status, jobs = t.status(), t.jobs()
    return status, jobs, t.ask("fg", r"<continued (\d)>"), t.status()


def read_in_background(t: Terminal) -> object:
    """SIGTTIN stops it; in the foreground it reads on."""
    t.line(f"{t.run} read &")
    t.wait_for_job("Stopped")
    jobs = t.jobs()
    t.line("fg")
    t.until("tty read")
    t.line("hello")
    return jobs, t.until("<hello 0>"), t.status()


def write_in_background(t: Terminal) -> object:
    """With `stty tostop` SIGTTOU does."""
    t.line("stty tostop")
    t.line(f"{t.run} wait &")
    t.wait_for_job("Stopped")
    jobs = t.jobs()
    t.line("fg")
    ready = t.until(r"<ready \d>")
    t.key("\x03")
    return jobs, ready, t.status()


def signalled(number: int) -> Callable[[Terminal], object]:
    def scenario(t: Terminal) -> object:
        """A signal to the one process that the shell knows reaches the program, once."""
        t.line(f"{t.run} count {number} & child=$!")
        t.until("<ready 0>")
        t.line(f"kill -{number} $child")
        return t.until(r"<caught (\d)>"), t.ask('wait $child; echo "<status $?>"', r"<status (\d+)>")

    return scenario


def stopped_by_kill(t: Terminal) -> object:
    """kill -TSTP and -CONT, to the process that the shell knows."""
    t.line(f"{t.run} wait & child=$!")
    t.until("<ready 0>")
    t.line("kill -TSTP $child")
    t.wait_for_job("Stopped")
    stopped = t.jobs()
    t.line("kill -CONT $child")
    t.wait_for_job("Running")
    running = t.jobs()
    t.line("kill $child")
    return stopped, running, t.ask('wait $child; echo "<status $?>"', r"<status (\d+)>")


def resized(t: Terminal) -> object:
    """SIGWINCH, once, and the new size."""
    t.ask(f"{t.run} size", "<ready 0>")
    t.resize(111)
    return t.until(r"<caught (\d)>"), t.until(r"<columns (\d+)>"), t.status()


def pipeline(t: Terminal) -> object:
    """In a pipeline, all its processes get ^C, and all die of it."""
    t.ask(f"{t.run} wait | cat", "<ready 1>")
    t.key("\x03")
    return t.ask('echo "<status ${PIPESTATUS[*]}>"', r"<status ([\d ]+)>")


def hangup(t: Terminal) -> object:
    """The terminal goes away: nothing is left (session() looks)."""
    t.ask(f"{t.run} wait", "<ready 1>")
    os.close(t.master)
    t.master = os.open(os.devnull, os.O_RDWR)
    return t.shell.wait(TIMEOUT_S)


SCENARIOS: dict[str, Callable[[Terminal], object]] = {
    "interrupt": interrupt,
    "quit": quit_key,
    "interrupt a loop": interrupt_a_loop,
    "caught in a loop": caught_in_a_loop,
    "suspend": suspend,
    "background": background,
    "stop itself": stop_itself,
    "read in background": read_in_background,
    "write in background": write_in_background,
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGHUP": signalled(signal.SIGHUP),
    "SIGINT": signalled(signal.SIGINT),
    "SIGUSR1": signalled(signal.SIGUSR1),
    "stopped by kill": stopped_by_kill,
    "resized": resized,
    "pipeline": pipeline,
    "hangup": hangup,
}
EXPECTED = {"interrupt": ("1", "130"), "quit": "131", "SIGTERM": ("1", "5"), "resized": ("1", "111", "0")}


@pytest.fixture(scope="module")
def native_outcomes(program: Path) -> dict[str, object]:
    """What the shell makes of each without reflective."""
    found = {}
    for name, scenario in SCENARIOS.items():
        with session(program, "") as terminal:
            found[name] = scenario(terminal)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_terminal(program: Path, native_outcomes: dict[str, object], name: str) -> None:
    with session(program, PREFIXES["exec"]) as terminal:
        told = SCENARIOS[name](terminal)
    assert told == native_outcomes[name]
    assert told == EXPECTED.get(name, told)


@pytest.mark.parametrize("way", ["verbose", "in place"])
@pytest.mark.parametrize("name", ["interrupt", "suspend", "caught in a loop", "stop itself"])
def test_terminal_with_options(program: Path, native_outcomes: dict[str, object], name: str, way: str) -> None:
    with session(program, PREFIXES[way]) as terminal:
        assert SCENARIOS[name](terminal) == native_outcomes[name]
