"""Starting under limits and in bad company: it works, or it is one clear error; nothing is left, nothing hangs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elfwriter import ET_DYN, exit_program
from verdict import LIBC, assert_same_verdict, public_directory, with_stack_limit

import reflective
from reflective.errors import LoadError

KIB, MIB = 1 << 10, 1 << 20
UNLIMITED = resource.RLIM_INFINITY
STRANGER = 54321  # a user of whom nothing runs
TIMEOUT_S = 120


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns, done in a forked child, which may spoil itself."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.close(reader)
            signal.alarm(TIMEOUT_S)
            with os.fdopen(writer, "wb") as file:
                pickle.dump(work(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see above"
    return pickle.loads(data)


def descriptors() -> list[str]:
    """This process's, but for the two that starts by way of a zygote keep (docs/starting.md)."""
    links = {fd: f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    return [fd for fd, link in links.items() if os.path.lexists(link) and "memfd:reflective" not in os.readlink(link)]


def outcome(program: Path) -> int | str:
    """The status of one start, or the name of the errno that it failed with. No child, no descriptor is left."""
    before = descriptors()
    try:
        pid = reflective.spawn(program, ["program"], {"A": "1"})
        result: int | str = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except LoadError as error:
        result = errno.errorcode[error.errno or 0] if error.reason else "without a reason"
    except OSError as error:
        result = f"OSError {errno.errorcode[error.errno or 0]}"
    with contextlib.suppress(ChildProcessError):
        raise AssertionError(f"a child is left: {os.waitpid(-1, os.WNOHANG)}")
    assert descriptors() == before
    return result


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return exit_program(42).write(tmp_path / "program")


def size_of_this_process() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


@pytest.mark.parametrize("path", ["static", "/bin/true"])
def test_address_space(program: Path, path: str) -> None:
    """From too little for the child's own few pages to enough."""

    def work() -> list[int | str]:
        outcome(where)  # imports all
        results = []
        for spare in (0, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 64 * MIB):
            resource.setrlimit(resource.RLIMIT_AS, (size_of_this_process() + spare, UNLIMITED))
            results.append(outcome(where))
            resource.setrlimit(resource.RLIMIT_AS, (UNLIMITED, UNLIMITED))
        return results

    where, good = (program, 42) if path == "static" else (Path(path), 0)
    results = in_child(work)
    assert results[-1] == good
    assert set(results) <= {good, "ENOMEM"}


def test_processes() -> None:
    """A fork that is refused."""

    def work() -> list[int | str]:
        results = [outcome(public)]
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return [*results, outcome(public)]

    if os.geteuid():
        pytest.skip("only root can become a user of whom nothing else runs")
    with public_directory() as directory:
        public = exit_program(42).write(directory / "program")
        assert in_child(work) == [42, "EAGAIN"]


@pytest.mark.parametrize("limit", [256 * KIB, MIB, 64 * MIB, 1 << 40, 1 << 62, UNLIMITED])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_stack(program: Path, kind: str, limit: int) -> None:
    assert_same_verdict(str(program) if kind == "static" else "/bin/true", setup=with_stack_limit(limit))


def test_map_count(program: Path) -> None:
    """This process has as many mappings as it may have, or a few fewer."""

    def work() -> list[int | str]:
        outcome(program)
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        many = mmap.mmap(-1, (most + 2) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(many))
        at = 0
        while LIBC.mprotect(ctypes.c_void_p(start + at), mmap.PAGESIZE, mmap.PROT_READ) == 0:
            at += 2 * mmap.PAGESIZE  # each splits what is left into two more
        results = []
        for _ in range(6):
            results.append(outcome(program))
            at -= 2 * mmap.PAGESIZE
            LIBC.mprotect(ctypes.c_void_p(start + at), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        return results

    results = in_child(work)
    assert set(results) <= {42, "ENOMEM", "OSError ENOMEM"}
    assert results[-1] == 42


def test_descriptors(program: Path) -> None:
    """With none to have, one, two …"""

    def work() -> list[int | str]:
        outcome(program)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = [os.dup(0) for _ in range(64 - len(os.listdir("/proc/self/fd")) + 1)]
        results: list[int | str] = []
        for fd in taken[:10]:
            try:
                pid = reflective.spawn(program, ["program"])
                results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            except OSError as error:
                results.append(errno.errorcode[error.errno or 0])
            os.close(fd)
        return results

    results = in_child(work)
    assert set(results) == {42, "EMFILE"}
    assert sorted(results, key=str, reverse=True) == results, "once there are enough it works"


def test_full_pipe(tmp_path: Path) -> None:
    """Standard output is a pipe that takes nothing more: that stops no start."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(1 << 16))
        os.set_blocking(writer, True)
        with reflective.Popen([exit_program(42).write(tmp_path / "program")], stdout=writer) as process:
            assert process.wait(20) == 42
    finally:
        os.close(reader)
        os.close(writer)


STORM = """
import os, random, signal, sys
parent = int(sys.argv[1])
random = random.Random(1)
signals = [signal.SIGSTOP, signal.SIGALRM, signal.SIGKILL, signal.SIGCONT]
print("begun", flush=True)
while os.getppid() == parent:
    children = open(f"/proc/{parent}/task/{parent}/children").read().split()
    for pid in map(int, children):
        if pid != os.getpid():
            try:
                os.kill(pid, random.choices(signals, weights=(6, 1, 1, 2))[0])
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
"""


@contextlib.contextmanager
def storm() -> Iterator[None]:
    """A process that sends signals to every other child of this one, and a timer that interrupts this one all the time."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    with subprocess.Popen([sys.executable, "-c", STORM, str(os.getpid())], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            process.kill()


@pytest.mark.slow
def test_signals_at_any_moment(program: Path) -> None:
    """2,000 starts; each child ends by itself, or of a signal that was sent. A start that is killed is not an error."""

    def work() -> Counter[int]:
        plan = reflective.plan(program)
        ends: Counter[int] = Counter()
        with storm():
            for _ in range(2000):
                pid = reflective.spawn(plan, ["program"], {})
                ends[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
        return ends

    ends = in_child(work)
    assert set(ends) <= {42, -signal.SIGKILL, -signal.SIGALRM}
    assert sum(ends.values()) == 2000
    assert ends[42] > 0
    assert ends[-signal.SIGKILL] > 0


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """`work` again and again, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def starts(program: Path, count: int) -> Counter[int | str]:
    found: Counter[int | str] = Counter()
    for _ in range(count):
        try:
            pid = reflective.spawn(program, ["program"], {})
            found[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
        except LoadError as error:
            found[errno.errorcode[error.errno or 0]] += 1
    return found


def test_file_replaced_while_it_is_loaded(tmp_path: Path) -> None:
    """By rename, between two good programs: it is always one of them, as with execve, and never an error."""
    path = exit_program(42).write(tmp_path / "program")

    def replace() -> None:
        for status, kind in ((43, ET_DYN), (42, 2)):
            exit_program(status, type=kind).write(tmp_path / "new").rename(path)

    with meanwhile(replace):
        found = starts(path, 200)
    assert set(found) == {42, 43}


def test_file_truncated_while_it_is_loaded(tmp_path: Path) -> None:
    """Written in place: an error that execve might have given as well, or death by the missing page; never a hang."""
    path = exit_program(42).write(tmp_path / "program")
    good = path.read_bytes()

    def rewrite() -> None:
        with open(path, "r+b") as file:
            for size in (0, 64, 4096):
                file.truncate(size)
            file.seek(0)
            file.write(good)
        time.sleep(0.003)

    with meanwhile(rewrite):
        found = starts(path, 300)
    assert set(found) <= {42, -signal.SIGBUS, -signal.SIGSEGV, "ENOEXEC", "ESTALE", "ETXTBSY", "EFAULT", "EIO"}
    assert found[42] > 0


def test_fifty_threads_that_allocate(program: Path) -> None:
    done = threading.Event()

    def allocate() -> None:
        text = bytes(range(256)) * 64
        while not done.wait(0.005):
            zlib.compress(text)
            bytearray(300_000)

    threads = [threading.Thread(target=allocate) for _ in range(50)]
    for thread in threads:
        thread.start()
    try:
        found = starts(program, 100)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert found == {42: 100}
