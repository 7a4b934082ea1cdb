"""Starts by way of a zygote: that there is one, that nothing is left behind, and that what goes wrong is a start anyway."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from elfwriter import exit_program

import reflective
from reflective.native import zygote
from reflective.native.child import Setup

PF_FORKNOEXEC = 0x40  # set by fork, cleared by execve: the zygote has been executed
FLAGS = 8  # field of /proc/PID/stat, counted from 0
STARTS = 1000
TIMEOUT = 30


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def printed(spawn: Callable[[], int]) -> bytes:
    """What the started program writes to descriptor 1."""
    saved, file = os.dup(1), os.memfd_create("printed")
    try:
        os.dup2(file, 1)
        try:
            pid = spawn()
        finally:
            os.dup2(saved, 1)
        assert status_of(pid) == 0
        return os.pread(file, 1 << 22, 0)
    finally:
        os.close(saved)
        os.close(file)


def has_zygote(spawn: Callable[[str, list[str]], int]) -> bool:
    stat = printed(lambda: spawn("/bin/cat", ["cat", "/proc/self/stat"]))
    return not int(stat.rpartition(b")")[2].split()[FLAGS - 2]) & PF_FORKNOEXEC


def in_child(act: Callable[[], Any]) -> None:
    """Runs it in a forked process, and fails if it fails there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    assert status_of(pid) == 0


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def test_there_is_one() -> None:
    assert has_zygote(reflective.spawn)
    assert has_zygote(lambda path, argv: reflective.spawn(reflective.plan(path), argv, dict(os.environ)))
    assert b"[anon:reflective" not in printed(lambda: reflective.spawn("/bin/cat", ["cat", "/proc/self/maps"]))


def test_addresses_are_drawn_for_each_start() -> None:
    """Executable, heap, libraries, vdso and stack: nothing is where it was, and nothing depends on the caller."""
    starts = [printed(lambda: reflective.spawn("/bin/cat", ["cat", "/proc/self/maps"])).decode() for _ in range(6)]
    for name in ("/cat", "[heap]", "/libc.so.6", "[vdso]", "[stack]"):
        places = [next(line.partition("-")[0] for line in text.splitlines() if line.endswith(name)) for text in starts]
        assert len(set(places)) == len(places), name


def test_program_becomes_a_fifo(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    program = exit_program(3).write(tmp_path / "program")
    assert status_of(reflective.spawn(program, ["x"])) == 3
    program.unlink()
    os.mkfifo(program, 0o755)
    with pytest.raises(PermissionError, match="not a regular file"):
        reflective.spawn(program, ["x"])


def test_popen_has_one() -> None:
    code = "import os; print(open('/proc/self/stat').read().rpartition(')')[2].split()[6])"
    done = reflective.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd="/", start_new_session=True, umask=0o27)
    assert not int(done.stdout) & PF_FORKNOEXEC


def limited(kind: int, soft: int) -> None:
    resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


FORKED: dict[str, Callable[[], object]] = {
    "address space": lambda: limited(resource.RLIMIT_AS, 4 << 30),
    "data": lambda: limited(resource.RLIMIT_DATA, 4 << 30),
    "file size": lambda: limited(resource.RLIMIT_FSIZE, 8192),  # the shared memory is a file
    "descriptors": lambda: limited(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 8),
}


@pytest.mark.parametrize("name", FORKED)
def test_without_room_there_is_a_fork(name: str) -> None:
    """Or a zygote nevertheless; the program runs."""

    def act() -> None:
        FORKED[name]()
        assert status_of(reflective.spawn("/bin/true", ["true"])) == 0

    in_child(act)


def test_environment() -> None:
    """C's own, none, and one of strings and bytes; a name can't have "="."""
    os.environ["ZYGOTE_TEST"] = "ü=x"
    try:
        assert "ZYGOTE_TEST=ü=x\n".encode() in printed(lambda: reflective.spawn("/usr/bin/env", ["env"]))
    finally:
        del os.environ["ZYGOTE_TEST"]
    assert b"ZYGOTE_TEST" not in printed(lambda: reflective.spawn("/usr/bin/env", ["env"]))
    assert printed(lambda: reflective.spawn("/usr/bin/env", ["env"], {})) == b""
    for env in ({"A": "é", "B": ""}, {b"A": "é".encode(), "B": Path("")}, {"A": b"\xc3\xa9", "B": b""}):
        expected = b"A=\xc3\xa9\nB=" + (b".\n" if isinstance(env["B"], Path) else b"\n")
        assert printed(lambda env=env: reflective.spawn("/usr/bin/env", ["env"], env)) == expected  # type: ignore[misc]
    for wrong in ({"A=B": "c"}, {"A": "b\0c"}, {b"A=B": b"c"}):
        with pytest.raises(ValueError, match=r"illegal environment variable name|embedded null byte"):
            reflective.spawn("/bin/true", ["true"], wrong)
    with pytest.raises(TypeError):
        reflective.spawn("/bin/true", ["true"], {"A": 5})


def test_many_arguments() -> None:
    """More than a slot holds, and more than the zygote takes at all."""
    for size in (10, 100_000, 400_000, 1_500_000):
        words = ["echo", *["x" * 999] * (size // 1000), "end"]
        assert printed(lambda words=words: reflective.spawn("/bin/echo", words)) == " ".join(words[1:]).encode() + b"\n"  # type: ignore[misc]


def test_program_that_changes(tmp_path: Path) -> None:
    """Each start is of the file that is there now, also of a script, and of a script whose interpreter is another."""
    program = tmp_path / "program"
    for code in (3, 4):
        exit_program(code).write(program)
        assert status_of(reflective.spawn(program, ["x"])) == code
    program.unlink()
    with pytest.raises(FileNotFoundError):
        reflective.spawn(program, ["x"])
    for line in ("#!/bin/echo one\n", "#!/bin/echo two words\n", "#!/bin/cat\n"):
        program.write_text(line)
        program.chmod(0o755)
        printed_now = printed(lambda: reflective.spawn(program, ["x"]))
        assert printed_now == (line.encode() if "cat" in line else f"{line[12:-1]} {program}\n".encode())
    program.chmod(0o644)
    with pytest.raises(PermissionError):
        reflective.spawn(program, ["x"])


def test_plan_of_a_file_that_changes(tmp_path: Path) -> None:
    """A plan is of one file: ESTALE, as without a zygote."""
    path = exit_program(3).write(tmp_path / "program")
    plan = reflective.plan(path)
    assert status_of(reflective.spawn(plan, ["x"])) == 3
    exit_program(4).write(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="changed") as caught:
        reflective.spawn(plan, ["x"])
    assert caught.value.errno == errno.ESTALE


def test_somebody_closes_all_descriptors() -> None:
    """And opens others under their numbers."""

    def act() -> None:
        assert has_zygote(reflective.spawn)
        os.closerange(3, 64)
        others = [os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC) for _ in range(8)]
        for _ in range(3):
            assert has_zygote(reflective.spawn)
        assert all(os.readlink(f"/proc/self/fd/{fd}") == "/dev/zero" for fd in others)

    in_child(act)


def test_fork_in_the_caller() -> None:
    """A forked child has zygotes of its own, while the parent goes on; so has its child."""
    assert has_zygote(reflective.spawn)
    before = len(os.listdir("/proc/self/fd"))

    def grandchild() -> None:
        assert has_zygote(reflective.spawn)
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    def child() -> None:
        in_child(grandchild)
        grandchild()
        in_child(grandchild)

    pids = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                child()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
        assert has_zygote(reflective.spawn)
    assert [status_of(pid) for pid in pids] == [0] * 4


def test_programs_planned_after_a_fork(tmp_path: Path) -> None:
    """Each process writes down its programs where no other does."""
    names = [f"cat-{number}" for number in range(7)]
    for name in names:
        shutil.copy("/bin/cat", tmp_path / name)

    def act(number: int) -> None:
        for path in [tmp_path / name for name in (names[0], *names[number::2]) * 2]:
            argv = [path.name, "/proc/self/comm"]
            assert printed(partial(reflective.spawn, path, argv)) == os.fsencode(f"{path.name}\n")

    act(0)
    zygote._recipes.clear()
    here, there = socket.socketpair()

    def child() -> None:
        act(1)
        there.send(b"x")
        there.recv(1)
        act(1)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    with here, there:
        here.recv(1)
        act(2)
        here.send(b"x")
        assert status_of(pid) == 0
    act(2)


def test_many_programs(tmp_path: Path) -> None:
    """More than are kept, and more than one file has places for; the descriptors do not become more."""
    zygote._recipes.clear()
    for number in range(zygote.KEPT + 8):
        program = tmp_path / f"exit-{number}"
        exit_program(number % 100).write(program)
        assert status_of(reflective.spawn(program, ["x"])) == number % 100
    assert len([name for name in descriptors() if "reflective" in name]) <= 2
    assert len(os.listdir("/proc/self/fd")) < 64


def test_a_thousand_at_once(tmp_path: Path) -> None:
    """From 32 threads: more than there are slots. Each pid is another, each status its own, and nothing stays."""
    programs = [exit_program(code).write(tmp_path / f"exit-{code}") for code in range(8)]
    assert status_of(reflective.spawn(programs[1], ["x"])) == 1
    before, running, wrong = descriptors(), [], []
    barrier = threading.Barrier(32)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(STARTS // 32 + 1):
            code = (number + turn) % 8
            running.append((reflective.spawn(programs[code], ["x"]), code))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pid for pid, _ in running}) == len(running) >= STARTS
    wrong = [(pid, code) for pid, code in running if status_of(pid) != code]
    assert not wrong
    assert descriptors() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_handlers_do_not_run_in_the_child(number: signal.Signals) -> None:
    """Signals that come in the midst of a start are the caller's: none is lost, none handled twice."""
    count, done = 0, threading.Event()

    def handler(*_: object) -> None:
        nonlocal count
        count += 1

    def send() -> None:
        while not done.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            time.sleep(0.0005)

    before = signal.signal(number, handler)
    sender = threading.Thread(target=send)
    try:
        sender.start()
        for _ in range(100):
            assert status_of(reflective.spawn("/bin/true", ["true"])) == 0
    finally:
        done.set()
        sender.join()
        signal.signal(number, before)
    assert count > 0


@contextlib.contextmanager
def stopped_at_each_call(pid: int) -> Iterator[None]:
    """Nothing but time: a loaded machine. The caller is stopped and goes on, again and again."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.001)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


MANY = """
import os, sys, reflective
for _ in range(150):
    pid = reflective.spawn("/bin/true", ["true"])
    assert os.waitpid(pid, 0) == (pid, 0)
os.write(1, b"all")
"""


def test_a_caller_that_is_stopped_and_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", MANY], stdout=subprocess.PIPE) as caller:
        with stopped_at_each_call(caller.pid):
            assert caller.stdout is not None
            assert caller.stdout.read() == b"all"
        assert caller.wait() == 0


FOREVER = """
import os, sys, threading, reflective
os.setsid()
def work():
    while True:
        os.waitpid(reflective.spawn("/bin/true", ["true"]), 0)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
os.write(1, b"x")
threading.Event().wait()
"""


def session_of(leader: int) -> list[str]:
    """The processes of its session."""
    members = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.getsid(int(entry)) == leader:
                members.append(Path(f"/proc/{entry}/stat").read_text())
    return [stat for stat in members if stat.rpartition(")")[2].split()[0] != "Z"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_killed_caller(number: signal.Signals) -> None:
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", FOREVER], stdout=subprocess.PIPE) as caller:
            assert caller.stdout is not None
            caller.stdout.read(1)
            time.sleep(0.02)  # into the midst of its starts; whenever, the assertion holds
            caller.send_signal(number)
            caller.wait()
        deadline = time.monotonic() + TIMEOUT
        while session_of(caller.pid):
            assert time.monotonic() < deadline, session_of(caller.pid)
            time.sleep(0.01)


def test_interpreter_shutdown() -> None:
    """A thread that starts programs while Python ends does no harm."""
    code = FOREVER.replace("threading.Event().wait()", "import time; time.sleep(0.05)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_wishes_that_fail_are_named() -> None:
    """What the caller wants of the child and can't have: as without a zygote."""
    with pytest.raises(FileNotFoundError) as caught:
        reflective.spawn("/bin/true", ["true"], setup=Setup(cwd="/no/such"))
    assert caught.value.filename == "/no/such"
    with pytest.raises(OSError, match="fcntl") as bad:
        reflective.spawn("/bin/true", ["true"], setup=Setup(pass_fds=(999,)))
    assert bad.value.errno == errno.EBADF


def test_descriptors_of_the_child(tmp_path: Path) -> None:
    """It inherits what is not close-on-exec, and nothing of the zygote's."""
    with (tmp_path / "kept").open("w") as kept, (tmp_path / "other").open("w"):
        os.set_inheritable(kept.fileno(), True)
        listed = printed(lambda: reflective.spawn("/bin/ls", ["ls", "-l", "/proc/self/fd"])).decode()
        expected = printed(lambda: os.posix_spawn("/bin/ls", ["ls", "-l", "/proc/self/fd"], os.environ)).decode()
    pairs = [[line.partition(":")[2][3:] for line in text.splitlines() if "/proc/" not in line] for text in (listed, expected)]
    assert pairs[0] == pairs[1]
    assert "kept" in listed
    assert "reflective" not in listed


def test_unprivileged(tmp_path: Path) -> None:
    """Without the privilege to set /proc/PID/exe there is a zygote too, and what differs is said."""
    shutil.copy("/bin/cat", tmp_path / "cat")
    tmp_path.chmod(0o755)

    def act() -> None:
        os.setresuid(65534, 65534, 65534)
        assert has_zygote(reflective.spawn)
        started = zygote.start("/bin/true", b"true\0", 1, None, 0)
        assert started is not None
        assert [item.what for item in started[1]] == ["exe"]
        assert status_of(started[0]) == 0

    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    in_child(act)
