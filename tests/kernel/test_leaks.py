"""Starting many leaves nothing behind: no descriptor, no child, no thread, no memory."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from elfwriter import exit_code, exit_program, program

import reflective
from reflective.plan.build import LoadPlan

STARTS = 20_000
WARM_UP = 2_000
SPAWNERS = 4
ALLOCATORS = 2
SLACK_KB = 2048  # of heap fragmentation, for all 18,000 starts: a leak of one page each would be 72,000


@dataclass(frozen=True)
class Usage:
    """What this process has."""

    descriptors: tuple[str, ...]
    threads: int
    maps: int
    rss_kb: int
    children: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        smaps = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return cls(
            descriptors=tuple(sorted(set(os.listdir("/proc/self/fd")) - {str(_directory_fd())})),
            threads=int(status["Threads"]),
            maps=len(Path("/proc/self/maps").read_bytes().splitlines()),
            rss_kb=next(int(line.split()[1]) for line in smaps if line.startswith("Anonymous:")),
            children=sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children")),
        )


def _directory_fd() -> int:
    """The number that os.listdir("/proc/self/fd") itself uses: the lowest that is free."""
    fd = os.open("/", os.O_RDONLY)
    os.close(fd)
    return fd


@contextlib.contextmanager
def allocating() -> Iterator[None]:
    """Threads that allocate and release all the time, so that a fork finds their locks taken."""
    done = threading.Event()

    def work() -> None:
        text = bytes(range(256)) * 64
        while not done.wait(0.002):
            zlib.compress(text)  # which allocates and releases 256 KiB, and holds no lock of Python's meanwhile

    threads = [threading.Thread(target=work) for _ in range(ALLOCATORS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def spawn_many(path: Path, count: int) -> None:
    """From several threads, half of them by a plan made before; each start is waited for and its status checked."""
    plan = reflective.plan(path)
    wrong: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work(program: Path | LoadPlan, share: int) -> None:
        try:
            for _ in range(share):
                pid = reflective.spawn(program, ["tiny", "argument"], {"A": "1"})
                ended, status = os.waitpid(pid, 0)
                if ended != pid or status != 3 << 8:
                    wrong.put(f"{pid} ended with {status}")
        except BaseException as error:
            wrong.put(repr(error))

    threads = [threading.Thread(target=work, args=((path, plan)[n % 2], count // SPAWNERS)) for n in range(SPAWNERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong.empty(), wrong.get()


def assert_nothing_left(before: Usage, after: Usage) -> None:
    assert after.children <= before.children, "those of other tests of this process apart"
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads
    assert after.maps <= before.maps + 8, "arenas of malloc come and go, but not by the thousand"
    assert after.rss_kb <= before.rss_kb + SLACK_KB


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A static program that does nothing but exit(3)."""
    return exit_program(3).write(tmp_path / "tiny")


@pytest.mark.slow
def test_20000_starts(tiny: Path) -> None:
    with allocating():
        spawn_many(tiny, WARM_UP)
    before, begin = Usage.now(), time.monotonic()
    with allocating():
        spawn_many(tiny, STARTS - WARM_UP)
    print(f"{STARTS - WARM_UP} starts in {time.monotonic() - begin:.1f} s")
    assert_nothing_left(before, Usage.now())


def fail_many(failing: dict[str, Path], count: int) -> None:
    for _ in range(count):
        for path in failing.values():
            with pytest.raises(OSError, match=r"missing|text"):
                reflective.spawn(path, ["x"])


@pytest.fixture
def failing(tmp_path: Path) -> dict[str, Path]:
    """Programs that can't be loaded, for reasons found early and late; the last one only by the child."""
    text = tmp_path / "text"
    text.write_bytes(b"text")
    text.chmod(0o755)
    bad_interpreter = exit_program().with_interp(bytes(text)).write(tmp_path / "badly-interpreted")
    return {"missing": tmp_path / "missing", "text": text, "bad": bad_interpreter}


def test_500_failing_starts(failing: dict[str, Path]) -> None:
    fail_many(failing, 20)
    before = Usage.now()
    fail_many(failing, 500 // len(failing))
    assert_nothing_left(before, Usage.now())


def test_500_starts_that_fail_in_the_child(tiny: Path) -> None:
    """chdir is done by the child, which reports that it can't, and is waited for."""
    from reflective.native.child import Setup

    def fail(count: int) -> None:
        for _ in range(count):
            with pytest.raises(FileNotFoundError, match="/no/such"):
                reflective.spawn(tiny, ["x"], setup=Setup(cwd="/no/such"))

    fail(20)
    before = Usage.now()
    fail(500)
    assert_nothing_left(before, Usage.now())


def test_popen_that_fails_closes_its_pipes(failing: dict[str, Path]) -> None:
    def fail(count: int) -> None:
        for _ in range(count):
            for path in failing.values():
                with pytest.raises(OSError, match=path.name):
                    reflective.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    fail(10)
    before = Usage.now()
    fail(100)
    assert_nothing_left(before, Usage.now())


def test_the_program_inherits_nothing_of_the_loader(tmp_path: Path) -> None:
    """A program that runs while others are started has no descriptor of those starts, though they are not locked out."""
    sleeper = program(b"\xb8\x22\0\0\0\x0f\x05" + exit_code(0)).write(tmp_path / "sleeper")  # pause()
    pids: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(25):
            pid = reflective.spawn(sleeper, ["sleeper"])
            with lock:
                pids.append(pid)

    threads = [threading.Thread(target=work) for _ in range(SPAWNERS)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        inherited = sorted(fd for fd in os.listdir("/proc/self/fd") if fd.isdigit() and _is_inheritable(int(fd)))
        for pid in pids:
            assert sorted(os.listdir(f"/proc/{pid}/fd")) == inherited
        assert len(pids) == 25 * SPAWNERS
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
