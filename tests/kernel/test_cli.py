"""`reflective exec` and `reflective plan` as commands: status, messages, every option, and input that makes no sense."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from elfwriter import exit_program
from skips import needs, needs_mounts
from support import ENVIRONMENT, PROGRAMS
from verdict import as_nobody, public_directory

REFLECTIVE = (sys.executable, "-m", "reflective")
EXEC = (*REFLECTIVE, "exec")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become nobody")
FATAL = [
    number
    for number in range(1, 65)
    if number not in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)  # ignored by default
    and number not in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, 32, 33)  # stop; are the libc's own
]

Done = subprocess.CompletedProcess[str]


def cli(*words: str | bytes | Path, **keywords: Any) -> Done:
    """Runs a command line; text in, text out."""
    settings = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 20, "env": ENVIRONMENT}
    return subprocess.run(list(words), **{**settings, **keywords}, check=False)


def run(*words: str | bytes | Path, **keywords: Any) -> Done:
    """`reflective exec WORDS`."""
    return cli(*EXEC, *words, **keywords)


def assert_refused(done: Done, status: int, *parts: str | Path) -> None:
    """That status, nothing on stdout, and one line on stderr that has all the parts."""
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("reflective"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert str(part) in done.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 42, 126, 127, 128, 255])
def test_status(status: int) -> None:
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", FATAL)
def test_death_by_signal(number: int) -> None:
    """reflective dies of what the program dies of, and leaves no core of its own."""
    command = ("sh", "-c", f"ulimit -c 0; kill -{number} $$")
    assert run(*command).returncode == cli(*command).returncode == -number


def test_dash_dash() -> None:
    """Only the first is ours."""
    assert run("--", "echo", "--", "-v").stdout == "-- -v\n"
    assert run("echo", "--", "-v").stdout == "-- -v\n"
    assert run("-v", "--", "echo", "--", "-E").stdout == "-- -E\n"
    assert run("-v", "echo", "-v", "--strict").stdout == "-v --strict\n"


def test_argv0() -> None:
    assert run("--argv0", "other", "cat", "/proc/self/cmdline").stdout == "other\0/proc/self/cmdline\0"
    assert run("--argv0", "", "cat", "/proc/self/cmdline").stdout == "\0/proc/self/cmdline\0"


def test_environment_options() -> None:
    """As env(1) has them."""
    assert run("env", env={"A": "1", "B": "2"}).stdout == "A=1\nB=2\n"
    for options in (("-u", "A"), ("-i",), ("-i", "-u", "A")):
        words = [*options, "env"]
        assert run(*words, env={"A": "1", "B": "2"}).stdout == cli("env", *words, env={"A": "1", "B": "2"}).stdout
    assert run("-E", "C=3", "env", env={"A": "1"}).stdout == "A=1\nC=3\n"
    assert run("-E", "A=3", "-E", "A=4", "env", env={"A": "1"}).stdout.splitlines()[-1] == "A=4"
    assert run("-i", "-E", "A=x=y", "-E", "B=", "env").stdout == "A=x=y\nB=\n"
    assert run("-i", "-E", b"A=\xff", "env", encoding="latin-1").stdout == "A=\xff\n"


def test_chdir(tmp_path: Path) -> None:
    assert run("--chdir", tmp_path, "pwd").stdout == f"{tmp_path}\n"
    exit_program(5).write(tmp_path / "here")
    assert run("--chdir", tmp_path, "./here").returncode == 5
    assert_refused(run("--chdir", "/no/such", "true"), 126, "/no/such", "No such file")


def test_interp(tmp_path: Path) -> None:
    """Another dynamic linker, without a change to the file."""
    copy = shutil.copy("/lib64/ld-linux-x86-64.so.2", tmp_path / "other-linker")
    assert str(copy) in run("--interp", copy, "cat", "/proc/self/maps").stdout
    assert "ld-linux" not in run("--interp", copy, "cat", "/proc/self/maps").stdout
    assert_refused(run("--interp", "/no/such", "true"), 127, "/no/such")
    assert_refused(run("--interp", "/etc/passwd", "true"), 126, "/etc/passwd")
    static = exit_program(4).write(tmp_path / "static")
    assert_refused(run("--interp", copy, static), 126, "names no interpreter")


def test_base_of_a_program_that_has_one(tmp_path: Path) -> None:
    """Not ignored: what was asked for can't be done."""
    fixed = exit_program(4).write(tmp_path / "fixed")
    assert_refused(run("--base", "0x10000000", fixed), 126, "goes to 0x400000")


def test_nothing_as_a_program() -> None:
    assert run("").stderr == "reflective: '': No such file or directory\n"


def test_in_place() -> None:
    """The same pid, the same parent; its status is the program's."""
    command = [*EXEC, "--in-place", "sh", "-c", "echo $$ $PPID; exit 3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=20)[0] == f"{process.pid} {os.getpid()}\n"
    assert process.returncode == 3
    assert run("--in-place", "sh", "-c", "kill -9 $$").returncode == -9
    assert_refused(run("--in-place", "/no/such"), 127, "/no/such")
    listing = ("ls", "/proc/self/fd")
    assert run("--in-place", *listing).stdout == cli(*listing).stdout
    state = ("grep", "-E", "^(Sig[BIC]|Threads|Seccomp)", "/proc/self/status")
    assert run("--in-place", *state).stdout == cli(*state).stdout


@ROOT
def test_strict() -> None:
    assert run("--strict", "echo", "x").stdout == "x\n"
    refused = as_user("--strict", "true")
    assert_refused(refused, 126, "true", "exe")


def as_user(*words: str | Path, before: Callable[[], object] = as_nobody) -> Done:
    """`reflective exec WORDS` as nobody, who may not read where this Python lies: main() in a forked child."""
    import reflective.cli
    import reflective.cli.exec
    import reflective.cli.options.exec
    import reflective.cli.parser
    import reflective.views.lines

    streams = [os.memfd_create(name) for name in ("out", "err")]
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(streams[0], 1)
            os.dup2(streams[1], 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
            before()
            os.chdir("/")
            status = reflective.cli.main(["exec", *map(str, words)])
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 98
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    out, err = (os.pread(fd, 1 << 20, 0).decode() for fd in streams)
    for fd in streams:
        os.close(fd)
    return subprocess.CompletedProcess(words, status, out, err)


@ROOT
def test_set_user_id_gives_nothing() -> None:
    """It runs as the user who started it, and -v says so."""
    with public_directory() as directory:
        program = Path(shutil.copy("/usr/bin/id", directory / "set-user-id"))
        program.chmod(0o4755)
        natively = subprocess.run([program, "-u"], preexec_fn=as_nobody, capture_output=True, text=True, check=True)
        assert natively.stdout == "0\n", "the test's own premise: natively it is root"
        done = as_user("-v", program, "-u")
        assert (done.returncode, done.stdout) == (0, "65534\n"), done
        assert "set-user-ID" in done.stderr
        assert_refused(as_user("--strict", program), 126, "set-user-ID")


def test_verbose() -> None:
    """What was done, each line marked, on stderr only."""
    done = run("-v", "echo", "hi")
    assert done.stdout == "hi\n"
    assert all(line.startswith("reflective: ") for line in done.stderr.splitlines())
    for word in ("process", "/usr/bin/echo", "load bias 0x", "interpreter", "heap", "stack", "vdso"):
        assert word in done.stderr


def test_script(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $0 $1\n")
    script.chmod(0o755)
    assert run(script, "x").stdout == f"{script} x\n"
    assert "script: run by /bin/sh" in run("-v", script).stderr


def test_path_is_searched(tmp_path: Path) -> None:
    """As execvp does: a directory, and a file that may not be executed, are passed over."""
    (tmp_path / "one" / "program").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "program").write_text("#!/bin/sh\n")
    (tmp_path / "three").mkdir()
    exit_program(5).write(tmp_path / "three" / "program")
    path = ":".join(str(tmp_path / name) for name in ("none", "one", "two", "three"))
    assert run("program", env={"PATH": path}).returncode == 5
    assert_refused(run("program", env={"PATH": f"{tmp_path}/two:{tmp_path}/none"}), 126, tmp_path / "two" / "program")
    assert_refused(run("program", env={"PATH": str(tmp_path / "none")}), 127, "program", "not found in PATH")
    assert run("program", env={"PATH": ""}, cwd=tmp_path / "three").returncode == 5, "an empty entry is the current directory"
    assert run("true", env={}).returncode == 0, "without PATH there is a default"


def text(path: Path) -> Path:
    path.write_text("text\n")
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    path.chmod(0o755)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "missing": (lambda path: path, 127, "No such file"),
    "directory": (lambda path: path.parent, 126, "is a directory"),
    "below a file": (lambda path: Path("/etc/passwd/x"), 126, "Not a directory"),
    "not executable": (text, 126, "has no execute permission"),
    "FIFO": (fifo, 126, "is not a regular file"),
    "device": (lambda path: Path("/dev/null"), 126, "is not a regular file"),
    "wrong machine": (lambda path: Path(PROGRAMS / "argv.c"), 126, "has no execute permission"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_program(tmp_path: Path, name: str) -> None:
    """One line: the path and the reason; the same from `plan`."""
    make, status, reason = BAD[name]
    path = make(tmp_path / "bad")
    assert_refused(run(path), status, path, reason)
    assert_refused(run("-v", path), status, path, reason)
    assert_refused(cli(*REFLECTIVE, "plan", path), status, path, reason)


def test_noexec_mount(tmp_path: Path) -> None:
    """In a mount namespace of its own."""
    needs_mounts()
    mount = f"mount -t tmpfs -o noexec none {tmp_path} && cp /bin/true {tmp_path} && exec"
    unshare = ("unshare", "-m", *(["-r"] if os.geteuid() else []), "sh", "-c")
    done = cli(*unshare, f"{mount} {' '.join(EXEC)} {tmp_path}/true")
    assert_refused(done, 126, tmp_path / "true", "mounted noexec")
    natively = cli(*unshare, f"{mount} {tmp_path}/true")
    assert natively.returncode == 126


@pytest.mark.parametrize(
    "words",
    ["", "exec", "exec --", "exec -v", "exec --argv0", "exec --no-such-option true", "exec -E x true", "plan",
     "exec --base x true", "exec --base 0x1001 true", "exec --base -4096 true", "no-such-command",
     "exec --seed x true", "exec -u A=B true", "plan --color red true", "plan true --json x"],
)  # fmt: skip
def test_wrong_usage(words: str) -> None:
    assert_refused(cli(*REFLECTIVE, *words.split()), 2, "--help")


@pytest.mark.parametrize("words", [("--help",), ("exec", "--help"), ("plan", "--help"), ("--version",)], ids=" ".join)
def test_help(words: Sequence[str]) -> None:
    done = cli(*REFLECTIVE, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reflective" in done.stdout


def test_huge_arguments() -> None:
    """The limits are the kernel's: 128 KiB each, and 6 MiB in all."""
    assert len(run("echo", "x" * 131071).stdout) == 131072
    with pytest.raises(OSError, match="too long"):
        run("echo", "x" * 131072)  # which this test itself can't pass on
    code = "import sys; from reflective.cli import main; sys.exit(main(['exec', 'echo', 'x' * 131072]))"
    assert_refused(cli(sys.executable, "-c", code), 126, "131072")
    code = "import sys; from reflective.cli import main; sys.exit(main(['exec', 'echo', *['x' * 100000] * 70]))"
    assert_refused(cli(sys.executable, "-c", code), 126)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams(closed: Sequence[int]) -> None:
    """They stay closed for the program, and none of reflective's own descriptors takes their numbers."""
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    listing = "ls /proc/self/fd > /dev/null" if 1 in closed else "ls /proc/self/fd"
    script = f"exec 9>&1; {{}} sh -c '{listing}; ls /proc/self/fd >&9; exit 3' {redirections}"
    kernel, ours = cli("bash", "-c", script.format("")), cli("bash", "-c", script.format(" ".join(EXEC)))
    assert (ours.returncode, ours.stdout) == (kernel.returncode, kernel.stdout)
    assert ours.returncode == 3


def test_full_device() -> None:
    """What can't be written is one line on stderr, and a status."""
    with open("/dev/full", "w") as full:
        keywords = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        kernel, ours = (cli(*way, "sh", "-c", "echo x", **keywords) for way in ((), EXEC))
        assert (ours.returncode, ours.stderr) == (kernel.returncode, kernel.stderr)
        done = cli(*REFLECTIVE, "plan", "true", **keywords)
        assert done.returncode not in (0, 127)
        assert done.stderr.count("\n") == 1, done.stderr
        done = cli(*EXEC, "true", capture_output=False, stdout=full, stderr=full)
        assert done.returncode == 0


def test_plan_into_a_closed_pipe() -> None:
    done = cli("bash", "-c", f"{' '.join(REFLECTIVE)} plan --json true | head -c 1; echo ${{PIPESTATUS[0]}}")
    assert done.stderr == ""


def test_plan_json() -> None:
    """One object a line, its addresses integers."""
    for program in ("true", "/usr/bin/python3.11", "/usr/bin/busybox", "/usr/bin/ldd"):
        done = cli(*REFLECTIVE, "plan", "--json", program)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
        told = json.loads(done.stdout)
        assert told["schema"] == "reflective.plan/1"
        assert [step["step"] for step in told["steps"]] == list(range(len(told["steps"])))
        maps = [step for step in told["steps"] if step["kind"] == "map-file"]
        assert len(maps) >= 2
        for step in maps:
            assert all(type(step[name]) is int for name in ("size", "prot", "offset", "segment"))
            assert type(step["at"]["offset"]) is int
        assert told["steps"][-1]["kind"] == "jump"


def test_plan_color() -> None:
    """Escapes on a terminal, or if asked for, and nowhere else."""
    ways = ((), ("--color", "never"), ("--color", "always"))
    plain, never, always = (cli(*REFLECTIVE, "plan", *more, "true").stdout for more in ways)
    assert plain == never
    assert "\x1b[" not in plain
    assert "\x1b[" in always
    for word in ("map-file", "jump", "/usr/bin/true", "unmap-old"):
        assert word in plain


def test_plan_interp(tmp_path: Path) -> None:
    copy = shutil.copy("/lib64/ld-linux-x86-64.so.2", tmp_path / "other")
    assert str(copy) in cli(*REFLECTIVE, "plan", "--interp", copy, "true").stdout


def test_plan_changes_nothing() -> None:
    """It makes no process."""
    needs("strace", "strace")
    command = ["strace", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork,execve", *REFLECTIVE, "plan", "true"]
    done = cli(*command)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "(" in line and "execve" not in line] == []
