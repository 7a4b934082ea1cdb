"""`reflective trace -p` where it can't attach: one line that says why, and the way out. And what becomes of environments."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from skips import needs

from reflective.errors import SessionError
from reflective.proc.attach import refusal, tasks

TRACE = [sys.executable, "-m", "reflective", "trace"]
THIRTY_TWO = """
.globl _start
_start: mov $4, %eax
    mov $1, %ebx
    mov $text, %ecx
    mov $3, %edx
    int $0x80
    mov $3, %eax
    mov $0, %ebx
    mov %esp, %ecx
    mov $1, %edx
    int $0x80
    mov $1, %eax
    mov $7, %ebx
    int $0x80
text: .ascii "hi\\n"
"""


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def refused(pid: int, *before: str) -> str:
    done = run(*before, *TRACE, "-p", str(pid))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def program32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes, waits for its input, exits with 7."""
    needs("as", "binutils")
    folder = tmp_path_factory.mktemp("i386")
    subprocess.run(["as", "--32", "-o", folder / "o"], input=THIRTY_TWO, text=True, check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-o", folder / "program", folder / "o"], check=True)
    return folder / "program"


@pytest.fixture
def zombie() -> Iterator[int]:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


def test_a_zombie_and_its_parent_are_named(zombie: int) -> None:
    said = refused(zombie)
    assert f"process {zombie} (true) has ended" in said
    assert f"its parent {os.getpid()}" in said


def test_a_process_does_not_trace_itself() -> None:
    done = run("sh", "-c", 'exec "$@" -p $$', "sh", *TRACE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "can't trace itself" in done.stderr


@pytest.mark.skipif(not Path("/proc/2/status").exists(), reason="a process namespace without the kernel's threads")
def test_a_thread_of_the_kernel_has_no_calls() -> None:
    assert "process 2 (kthreadd) is a thread of the kernel" in refused(2)


def test_the_tracer_there_is_gets_named(sleeper: subprocess.Popen[str]) -> None:
    needs("strace", "strace")
    with subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(sleeper.pid)], stderr=subprocess.DEVNULL) as other:
        while "TracerPid:\t0" in Path(f"/proc/{sleeper.pid}/status").read_text():
            time.sleep(0.02)
        assert f"is already traced by process {other.pid} (strace)" in refused(sleeper.pid)
        other.terminate()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_is_named_with_its_owner(sleeper: subprocess.Popen[str]) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all"]
    probe = run(*nobody, sys.executable, "-m", "reflective", "--version")
    if probe.returncode:
        pytest.skip("another user can't read this installation")
    assert "is root's, and you are nobody" in refused(sleeper.pid, *nobody)


def test_one_of_several_that_refuses_is_named_and_the_other_runs_on(sleeper: subprocess.Popen[str], zombie: int) -> None:
    done = run(*TRACE, "-o", "/dev/null", "-p", str(sleeper.pid), "-p", str(zombie))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"process {zombie} (true) has ended" in done.stderr
    assert sleeper.stdout is not None
    assert sleeper.stdout.read(10) == "." * 10
    assert "TracerPid:\t0" in Path(f"/proc/{sleeper.pid}/status").read_text()


def test_what_ended_meanwhile_is_said_in_one_sentence() -> None:
    with pytest.raises(SessionError, match="there is no process 4194303"):
        tasks([4194303], False)
    assert refusal(4194303, PermissionError(1, "Operation not permitted")).startswith("process 4194303 has just ended")


def test_a_32_bit_process_is_said_to_be_one(program32: Path) -> None:
    with subprocess.Popen([program32], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(3) == b"hi\n"
        with subprocess.Popen([*TRACE, "-p", str(process.pid)], stderr=subprocess.PIPE, text=True) as tracer:
            while "TracerPid:\t0" in Path(f"/proc/{process.pid}/status").read_text():
                time.sleep(0.02)
            process.stdin.close()
            _, said = tracer.communicate(timeout=30)
        assert process.wait() == 7
    assert said.splitlines()[0].endswith(f"its calls are shown by number; strace -p {process.pid} names them")
    assert said.splitlines()[-1] == "+++ exited with 7 +++"


def test_a_32_bit_program_is_started_by_the_kernel(program32: Path) -> None:
    done = run(*TRACE, str(program32), stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (7, "hi\n")
    assert [line.partition("(")[0] for line in done.stderr.splitlines()[1:4]] == [
        "i386_syscall_0x4", "i386_syscall_0x3", "i386_syscall_0x1",
    ]  # fmt: skip
    refusing = run(*TRACE, "--via", "reflective", str(program32))
    assert (refusing.returncode, refusing.stderr.count("\n")) == (126, 1)
    assert "32-bit programs need the kernel's own execve" in refusing.stderr


def test_the_program_gets_the_environment_that_trace_got() -> None:
    """CPython adds LC_CTYPE to its own in the C locale; and two variables of one name are two strings."""
    code = "import os; os.execve({!r}, {!r}, {{'PATH': '/usr/bin:/bin', 'A': '1'}})"
    for via in ("kernel", "reflective"):
        words = [*TRACE, "--via", via, "-o", "/dev/null", "cat", "/proc/self/environ"]
        done = run(sys.executable, "-c", code.format(words[0], words))
        assert done.stdout == "PATH=/usr/bin:/bin\0A=1\0", via


def test_no_program_is_a_line() -> None:
    for name, said in (("/dev/null", "is not a regular file"), ("/etc/passwd", "no execute permission"), ("none", "PATH")):
        done = run(*TRACE, name)
        assert (done.returncode, done.stderr.count("\n")) == (127 if name == "none" else 126, 1)
        assert said in done.stderr


def test_a_tracer_that_is_killed_takes_the_program_with_it(tmp_path: Path) -> None:
    with subprocess.Popen([*TRACE, "-o", tmp_path / "out", "sleep", "1000"]) as tracer:
        while "sleep" not in (tmp_path / "out").read_text() if (tmp_path / "out").exists() else True:
            time.sleep(0.02)
        pids = [int(pid) for pid in Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()]
        assert pids
        tracer.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


THREADED = """
import threading, time
def run():
    while True: time.sleep(0.02)
for _ in range(2): threading.Thread(target=run, daemon=True).start()
print("x", flush=True)
run()
"""


def attached(command: list[str], pid: int, folder: Path) -> tuple[str, str]:
    """What a tracer says first, and all of the screen: attached to a process until its calls come, then interrupted."""
    screen = folder / "screen"
    with screen.open("w") as file, subprocess.Popen([*command, "-p", str(pid)], stderr=file) as tracer:
        deadline = time.monotonic() + 30
        while screen.read_text().count("clock_nanosleep") < 30:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)
    text = screen.read_text()
    return next(line.partition(": ")[2] for line in text.splitlines() if "attached" in line), text


def test_what_comes_and_goes_is_said_as_by_strace(tmp_path: Path) -> None:
    """-p -f on a process with threads: all of them are seen, and let go."""
    needs("strace", "strace")
    with subprocess.Popen([sys.executable, "-c", THREADED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        theirs, _ = attached(["strace", "-f"], process.pid, tmp_path)
        ours, text = attached([*TRACE, "-f"], process.pid, tmp_path)
        tids = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")}
        states = [Path(f"/proc/{process.pid}/task/{tid}/status").read_text() for tid in tids]
        process.kill()
    assert ours == theirs == f"Process {process.pid} attached with 3 threads"
    assert {int(tid) for tid in re.findall(r"^\[pid +(\d+)\]", text, re.M)} == tids
    assert {int(tid) for tid in re.findall(r"^reflective: Process (\d+) detached", text, re.M)} == tids
    assert text.count("<detached ...>") <= 1
    assert all("TracerPid:\t0" in state for state in states)


def test_a_call_that_goes_on_without_us_is_detached(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        screen = tmp_path / "screen"
        with screen.open("w") as file, subprocess.Popen([*TRACE, "-p", str(process.pid)], stderr=file) as tracer:
            while not screen.stat().st_size or "State:\tS" not in Path(f"/proc/{process.pid}/status").read_text():
                time.sleep(0.02)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
        process.kill()
    lines = screen.read_text().splitlines()
    assert lines[0] == f"reflective: Process {process.pid} attached"
    assert re.fullmatch(r"restart_syscall\(<\.\.\. resuming interrupted system call \.\.\.> <detached \.\.\.>", lines[1])
    assert lines[2] == f"reflective: Process {process.pid} detached"


def test_children_are_announced() -> None:
    done = run(*TRACE, "-f", "sh", "-c", "/bin/true; exit 0")
    pids = re.findall(r"^reflective: Process (\d+) attached$", done.stderr, re.M)
    assert pids == re.findall(r"v?fork.* = (\d+)$", done.stderr, re.M)
