"""Templates in use: what follows the caller."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from shell_template import SHELL, same, say

import reflective
from reflective import Template
from reflective.native._core import lib
from reflective.native.faults import Faults
from reflective.template.hot import STARTS


def test_arguments_and_environment(shell: Template) -> None:
    assert say(shell, 'echo "$0 $# $1 $2"', "zero", "", "two words") == "zero 2  two words\n"
    assert say(shell, "echo $A; env | sort | tr '\\n' ' '", env={"A": "1", "PATH": "/bin:/usr/bin"}).startswith("1\nA=1 ")
    assert same(shell, "tr '\\0' '\\n' < /proc/$$/cmdline; cat /proc/$$/comm; readlink /proc/$$/exe")


def test_again_and_otherwise(tmp_path: Path) -> None:
    """What a start is given may be the same objects as the last time with other contents, or others with the same."""
    found = tmp_path / "found"
    argv = ["sh", "-c", f"tr '\\0' ' ' < /proc/$$/environ > {found}; echo $0 >> {found}"]
    env = {"A": "1", "B": "2"}

    with Template(SHELL) as shell:

        def start(env: dict[str, str] | None) -> str:
            assert os.waitpid(shell.spawn(argv, env), 0)[1] == 0
            return found.read_text()

        for _ in range(3):
            assert start(env) == "A=1 B=2 sh\n"
            assert start(dict(env)) == "A=1 B=2 sh\n"
        env["A"] = "3"
        assert start(env) == "A=3 B=2 sh\n"
        env["A"] = env.pop("A")
        for _ in range(3):
            assert start(env) == "B=2 A=3 sh\n"
        argv.append("other")
        assert start(env) == "B=2 A=3 other\n"
        for value in "xy":
            os.environ["REFLECTIVE"] = value
            try:
                assert all(f" REFLECTIVE={value} " in start(None) for _ in range(3))
            finally:
                del os.environ["REFLECTIVE"]
        assert start(env) == "B=2 A=3 other\n"


def test_directory_and_umask(shell: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(shell, "pwd; umask", cwd=tmp_path, umask=0o077) == f"{tmp_path}\n0077\n"
    monkeypatch.chdir(tmp_path)
    assert same(shell, "pwd") == f"{tmp_path}\n"
    before = os.umask(0o027)
    try:
        assert same(shell, "umask") == "0027\n"
    finally:
        os.umask(before)


def test_missing_directory(shell: Template) -> None:
    with pytest.raises(FileNotFoundError) as ours:
        shell.run(["sh"], cwd="/nowhere")
    assert ours.value.filename == "/nowhere"


def test_session(shell: Template) -> None:
    assert say(shell, "test $(ps -o sid= -p $$) = $$ && echo own", start_new_session=True) == "own\n"
    same(shell, "ps -o sid=,pgid= -p $PPID")


def test_streams_and_descriptors(shell: Template, tmp_path: Path) -> None:
    assert shell.run(["sh", "-c", "cat; echo err >&2"], input=b"in", capture_output=True).stdout == b"in"
    with (tmp_path / "file").open("w+") as file:
        fd = file.fileno()
        shell.run(["sh", "-c", f"echo passed >&{fd}; ls /proc/self/fd"], pass_fds=(fd,), stdout=subprocess.DEVNULL, check=True)
        file.seek(0)
        assert file.read() == "passed\n"
        os.set_inheritable(fd, True)
        high = os.dup2(fd, 300)
        try:
            same(shell, "ls /proc/self/fd", close_fds=False)
            same(shell, "ls /proc/self/fd")
        finally:
            os.close(high)


def test_descriptor_that_is_taken_but_not_open(shell: Template) -> None:
    """A thread in accept has a number for its connection already: it counts, and is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.accept)
        thread.start()
        os.set_inheritable(server.fileno(), True)
        for _ in range(3):
            same(shell, "ls /proc/self/fd", close_fds=False)
        socket.create_connection(server.getsockname()).close()
        thread.join()


def test_swapped_streams(shell: Template) -> None:
    """Descriptors that stand where others go."""
    read, write = os.pipe()
    with os.fdopen(read) as reader:
        pid = os.fork()
        if pid == 0:
            os.dup2(write, 0)
            status = shell.run(["sh", "-c", "echo through >&1"], stdin=subprocess.DEVNULL, stdout=0).returncode
            os._exit(status)
        os.close(write)
        os.waitpid(pid, 0)
        assert reader.read() == "through\n"


def test_signals(shell: Template) -> None:
    status = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    same(shell, status)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        same(shell, status)
        same(shell, status, restore_signals=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    same(shell, status)


def test_spawn_hands_on(shell: Template) -> None:
    """spawn hands on ignored signals and descriptors without close-on-exec, as execve does."""
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"
    command = ["bash", "-c", f"({script}) >&$FD"]
    read, write = os.pipe()
    os.set_inheritable(write, True)
    environment = {**os.environ, "FD": str(write)}
    subprocess.run(command, executable=SHELL, close_fds=False, restore_signals=False, env=environment, check=True)
    expected = os.read(read, 4096)
    assert os.waitpid(shell.spawn(command, environment), 0)[1] == 0
    assert os.read(read, 4096) == expected
    os.close(read)
    os.close(write)


def test_preexec_fn_and_others_take_the_ordinary_way(shell: Template) -> None:
    assert say(shell, "echo $PPID", preexec_fn=lambda: None).strip() == str(os.getpid())
    assert say(shell, "ps -o pgid= -p $$", process_group=0)
    if os.geteuid() == 0:
        assert say(shell, "id -u", user=65534) == "65534\n"


def test_clones_have_the_pages_that_starts_touch() -> None:
    """A start has fewer page faults once others have been looked at, and no page that it writes to is another's."""
    command = ["ls", "-l", "/"]

    def faults(template: Template) -> int:
        status, usage = os.wait4(template.spawn(command), 0)[1:]
        assert status == 0
        return int(usage.ru_minflt)

    null = os.open(os.devnull, os.O_WRONLY)
    output = os.dup(1)
    os.dup2(null, 1)
    try:
        with Template("/bin/ls") as template:
            counts = [faults(template) for _ in range(STARTS + 2)]
        with Template("/bin/ls", pool=2) as pool:
            waited = [faults(pool) for _ in range(STARTS + 5)]
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.close(null)
    if not _may_look_at_faults():
        pytest.skip("perf_event_paranoid")
    assert counts[-1] < 0.8 * counts[0]
    assert waited[-1] <= counts[-1] + 3  # and those of the template where it is told so


def _may_look_at_faults() -> bool:
    faults = Faults()
    lib.refl_faults_open(faults.struct, os.getpid())
    allowed = bool(faults)
    faults.close()
    return allowed


def test_exported() -> None:
    assert reflective.Template is Template
