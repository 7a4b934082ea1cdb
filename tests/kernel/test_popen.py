"""Streams, descriptors, children, threads: what a process and its starter have of each other, as subprocess has it."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import ENVIRONMENT
from test_process import NAMED_FDS, SEE, SH, Module, N, P, S, both, outcome, run
from verdict import as_nobody, public_directory

import reflective
from reflective.errors import Degraded, LoadError


def test_files_and_descriptors_as_streams(tmp_path: Path) -> None:
    """A file object, a file without fileno, a number; one for two streams."""
    (tmp_path / "in").write_bytes(b"input\n")

    def act(module: Module) -> Any:
        out, err = tmp_path / "out", tmp_path / "err"
        with (tmp_path / "in").open("rb") as source, out.open("wb") as first, err.open("wb") as second:
            one = module.call(SEE, stdin=source, stdout=first, stderr=second.fileno())
            source.seek(0)
            two = module.call(SEE, stdin=source.fileno(), stdout=second, stderr=second)
        return one, two, out.read_bytes(), err.read_bytes()

    assert both(act)[:2] == (3, 3)
    assert both(lambda module: module.run(["true"], stdin=io.BytesIO()))[0] == "OSError"


def in_child(act: Callable[[], Any]) -> Any:
    """What act() returns in a forked process."""
    answer = os.memfd_create("answer")
    os.set_inheritable(answer, False)
    high = os.dup2(answer, 500, inheritable=False)
    os.close(answer)
    pid = os.fork()
    if pid == 0:
        try:
            result = act()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.pwrite(high, pickle.dumps(result), 0)
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        return pickle.loads(os.pread(high, 1 << 20, 0))
    finally:
        os.close(high)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize(
    "keywords",
    [
        {"stdout": P},
        {"stdout": P, "stderr": P, "input": b"x"},
        {"stdout": P, "stderr": S},
        {"stdout": P, "preexec_fn": lambda: None},
        {"stdin": N, "stdout": P, "stderr": N},
    ],
    ids=["out", "all", "err to out", "preexec", "devnull"],
)  # fmt: skip
def test_closed_standard_streams(closed: Sequence[int], keywords: dict[str, Any]) -> None:
    """The parent has no 0, 1 or 2: pipes and the loader's own descriptors get these numbers."""

    def act(module: Module) -> Any:
        def close_and_run() -> Any:
            for fd in closed:
                os.close(fd)
            return outcome(run(NAMED_FDS, **keywords), module)

        return in_child(close_and_run)

    told = both(act)
    assert told[1] == 0, told


@pytest.mark.parametrize("keywords", [{}, {"close_fds": False}], ids=["closed", "kept"])
def test_descriptors(keywords: dict[str, Any]) -> None:
    """pass_fds, and close_fds=False with inheritable and other descriptors."""
    with open("/dev/null", "rb") as private, open("/dev/zero", "rb") as shared:
        os.set_inheritable(shared.fileno(), True)
        high = os.dup2(private.fileno(), 123, inheritable=False)
        try:
            numbers = f"{private.fileno()} {shared.fileno()} {high}"
            listing = [SH, "-c", f"for fd in {numbers}; do [ -e /proc/self/fd/$fd ] && echo $fd; done; true"]
            told = both(run(listing, stdout=P, **keywords))
            assert told[2] == (f"{shared.fileno()}\n".encode() if keywords else b"")
            if not keywords:
                passed = both(run(listing, stdout=P, pass_fds=(high, private.fileno())))
                assert passed[2] == f"{private.fileno()}\n{high}\n".encode()
                assert both(run(listing, stdout=P, pass_fds=(high,), preexec_fn=lambda: None))[2] == b"123\n"
            assert not os.get_inheritable(high)
        finally:
            os.close(high)


def test_popen_is_a_popen() -> None:
    with reflective.Popen(["cat"], stdin=P, stdout=P, text=True) as process:
        assert isinstance(process, subprocess.Popen)
        assert process.poll() is None
        assert Path(f"/proc/{process.pid}/comm").read_text() == "cat\n"
        assert process.communicate("x") == ("x", None)
    assert process.returncode == 0
    assert repr(process).startswith("<Popen: returncode: 0 args: ['cat']>")
    assert reflective.PIPE is subprocess.PIPE
    assert reflective.CompletedProcess is subprocess.CompletedProcess


def test_timeout_kills() -> None:
    """run() kills what does not end in time, and has what it printed until then; wait() does not."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        reflective.run("echo $$; exec sleep 60", shell=True, timeout=0.3, stdout=P)
    with pytest.raises(ProcessLookupError):
        os.kill(int(caught.value.stdout or 0), 0)
    process = reflective.Popen(["sleep", "60"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.poll() is None
    process.terminate()
    assert process.wait(5) == -signal.SIGTERM


def test_signals_and_status() -> None:
    def act(module: Module) -> Any:
        process = module.Popen(["sleep", "60"])
        process.send_signal(signal.SIGSTOP)
        stopped = os.waitpid(process.pid, os.WUNTRACED)[1]
        process.kill()
        return stopped, process.wait(), process.poll(), process.send_signal(15)

    assert both(act)[1] == -9


def test_the_child_is_the_callers() -> None:
    """os.waitpid finds it, by its number and among all; Popen takes it as subprocess does that somebody else did."""

    def act(module: Module) -> Any:
        first, second = module.Popen(["/bin/sh", "-c", "exit 3"]), module.Popen(["true"])
        one = os.waitpid(first.pid, 0)[1]
        other = os.waitpid(-1, 0)
        return one, other[0] == second.pid, first.wait(), second.wait(), first.returncode

    assert in_child(lambda: both(act))[:2] == (3 << 8, True)
    pid = reflective.spawn("/bin/true", ["true"])
    assert os.waitpid(pid, 0) == (pid, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_spawn_is_posix_spawn() -> None:
    """Arguments and environment arrive, errors are the same."""

    def status(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    code = ["sh", "-c", '[ "$A $*" = "1 x y" ] && exit 4', "name", "x", "y"]
    assert status(reflective.spawn(SH, code, {"A": "1"})) == status(os.posix_spawn(SH, code, {"A": "1"})) == 4
    for path in ("/no/such", "/etc", "/etc/passwd", "/etc/passwd/x", "sh", ""):
        with pytest.raises(OSError) as kernel:  # noqa: PT011 - its errno is compared
            os.posix_spawn(path, ["x"], {})
        with pytest.raises(LoadError) as ours:
            reflective.spawn(path, ["x"], {})
        assert (ours.value.errno, ours.value.filename) == (kernel.value.errno, kernel.value.filename)
        assert isinstance(ours.value, type(kernel.value))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run as root")
def test_execute_permission_is_the_new_users() -> None:
    """A program that root may execute and the user may not."""
    with public_directory() as directory:
        private = shutil.copy("/bin/true", directory / "private")
        os.chmod(private, 0o700)
        for keywords in ({"user": 65534}, {"user": 65534, "preexec_fn": lambda: None}, {"preexec_fn": as_nobody}):
            assert both(run([private], cwd="/", **keywords)) == ("PermissionError", errno.EACCES, private)
        assert both(run([private], cwd="/", group=65534))[1] == 0


def test_the_first_in_path_that_can_be_executed(tmp_path: Path) -> None:
    """subprocess goes on after any error, and reports the first that is not "not found"."""
    for name, text, mode in (
        ("one", "text", 0o755),
        ("two", "#!/bin/sh\n", 0o644),
        ("three", "#!/bin/sh\necho three\n", 0o755),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "found").write_text(text)
        (tmp_path / name / "found").chmod(mode)
    for names in ("one two three", "two three", "none three", "one two", "two one", "none two", "none", ""):
        path = ":".join(str(tmp_path / name) for name in names.split())
        told = both(run(["found"], stdout=P, env={"PATH": path}))
        assert ("three" in names) == (b"three\n" in told), names


def test_run_does_not_wait_for_grandchildren() -> None:
    """Killed for its timeout, a shell leaves a child that keeps the pipe open."""

    def act(module: Module) -> Any:
        begin = time.monotonic()
        try:
            module.run("sleep 8 & echo x; sleep 8", shell=True, timeout=0.3, stdout=P)
        except subprocess.TimeoutExpired as error:
            return error.stdout, time.monotonic() - begin < 5
        return None

    assert both(act) == (b"x\n", True)


def test_strict_as_nobody() -> None:
    """Without privilege /proc/PID/exe can't be set: that is said, and with strict it is refused before anything is started."""

    def act() -> Any:
        as_nobody()
        with reflective.Popen(["/bin/true"]) as process:
            degraded = [item.what for item in process.degraded]
        try:
            reflective.spawn("/bin/true", ["true"], strict=True)
        except Degraded as error:
            return process.returncode, degraded, error.filename, "exe" in str(error), error.errno
        return "not refused"

    status, degraded, filename, told, number = in_child(act)
    assert (status, filename, told, number) == (0, "/bin/true", True, errno.EXDEV)
    assert "exe" in degraded
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has nothing degraded: run as root")
def test_strict_as_root() -> None:
    with reflective.Popen(["/bin/true"]) as process:
        assert process.degraded == ()
    assert os.waitpid(reflective.spawn("/bin/true", ["true"], strict=True), 0)[1] == 0


def test_from_many_threads() -> None:
    """Eight at once, each with its own pipe: nobody gets another's output, and no pipe stays open in another's child."""
    told: dict[int, bytes] = {}

    def act(number: int) -> None:
        for _ in range(10):
            told[number] = (
                told.get(number, b"") + reflective.run(["cat"], input=str(number).encode(), stdout=P, timeout=20).stdout
            )

    threads = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {number: str(number).encode() * 10 for number in range(8)}


def test_interrupt_while_waiting() -> None:
    """A signal handler that raises while run() waits: the program is killed, as subprocess does."""

    def act(module: Module) -> Any:
        signal.signal(signal.SIGALRM, lambda *_: 1 // 0)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.monotonic()
        try:
            module.run(["sleep", "30"])
        except ZeroDivisionError:
            return time.monotonic() - begin < 10
        return None

    assert in_child(lambda: both(act)) is True


def test_environment_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What os.environ has now, not at the start."""
    monkeypatch.setenv("REFLECTIVE_TEST", "now")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(sys, "flags", sys.flags)
    told = both(run(["env"], stdout=P))[2]
    assert b"REFLECTIVE_TEST=now\n" in told
    assert ENVIRONMENT
    assert b"HOME=" not in told
