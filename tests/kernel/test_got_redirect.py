"""Slots pointed to another function: a program whose puts prints something else, and everything that is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_got_list import LAZY, build, namespace, running, slot, tell

from reflective.cli import got_list
from reflective.cli.got_redirect import redirect
from reflective.errors import SessionError
from reflective.observe.got.listing import ODD
from reflective.observe.got.redirect import parse

COMMAND = """
import argparse, sys
from reflective.cli.got_redirect import redirect
program, *rest = sys.argv[1:]
force = rest[:1] == ["--force"]
sys.exit(redirect(argparse.Namespace(
    pid=None, program=program, arguments=[], json=False, color="never", force=force, redirect=rest[force:])))
"""
NOW = ("-pie", "-fPIE", "-Wl,-z,now")


def under(program: Path, *words: str, letters: str = "h") -> subprocess.CompletedProcess[str]:
    """The program with its puts redirected, which then gets the letters."""
    command = [sys.executable, "-c", COMMAND, str(program), *words]
    return subprocess.run(command, input=letters, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "flags", [LAZY, ("-no-pie", "-fno-pie", "-Wl,-z,lazy"), ("-pie", "-fPIE", "-fno-plt", "-Wl,-z,norelro")]
)
def test_a_program_of_ours_calls_another_function(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = build(tmp_path, *flags)
    done = under(program, "puts=impostor", letters="hh")
    assert (done.returncode, done.stdout) == (0, "ready\nimpostor: hello\nimpostor: hello\n")
    assert " puts@GLIBC_2.2.5  0x" in done.stderr
    assert " slots impostor\n" in done.stderr


def test_relro_refuses_unless_forced(tmp_path: Path) -> None:
    program = build(tmp_path, *NOW)
    done = under(program, "puts=impostor")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not redirected: puts@GLIBC_2.2.5: it is read-only (RELRO) (--force does it nevertheless)" in done.stderr
    done = under(program, "--force", "puts=impostor")
    assert (done.returncode, done.stdout) == (0, "ready\nimpostor: hello\n")
    assert "forced: it is read-only (RELRO)" in done.stderr


def test_a_running_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        assert tell(process, "h") == "hello"
        before = slot(got_list.look(process.pid), "puts", program)
        assert redirect(namespace(pid=process.pid, redirect=["puts=impostor"], force=False)) == 0
        [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert tell(process, "h") == "impostor: hello"
        after = slot(got_list.look(process.pid), "puts", program)
        assert (row["slot"], row["before"], row["after"]) == (after.address, before.value, after.value)
        assert (row["target_symbol"], row["target_object"], row["forced"]) == ("impostor", str(program), [])
        assert after.state == ODD
        with pytest.raises(SessionError, match="it holds what the dynamic linker did not write"):
            redirect(namespace(pid=process.pid, redirect=["puts=libc.so.6:puts"], force=False))
        assert redirect(namespace(pid=process.pid, redirect=["puts=libc.so.6:puts@GLIBC_2.2.5"], force=True)) == 0
        assert tell(process, "h") == "hello"
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "TracerPid:\t0\n" in status


def test_by_address(tmp_path: Path) -> None:
    program = build(tmp_path, "-no-pie", "-fno-pie", "-Wl,-z,lazy")  # its functions are where the file says
    symbols = subprocess.run(["nm", str(program)], capture_output=True, text=True, check=True).stdout
    [impostor] = [int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(" impostor")]
    refused = {
        f"puts={impostor + 4}": r"0x4 bytes into impostor, not where a function begins",
        f"puts={0x400000 + 64:#x}": r"0x400040 is not executable",
        "puts=0x1000": "nothing is mapped at 0x1000",
    }
    with running(program) as process:
        for text, words in refused.items():
            with pytest.raises(SessionError, match=words):
                redirect(namespace(pid=process.pid, redirect=[text], force=False))
        assert tell(process, "h") == "hello"
        assert redirect(namespace(pid=process.pid, redirect=[f"puts={impostor:#x}"], force=False, json=False)) == 0
        assert tell(process, "h") == "impostor: hello"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing=impostor", "slots has no slot for nothing"),
        ("malloc=impostor", "slots has no slot for malloc; .*libc.so.6.* has: say OBJECT:malloc"),
        ("puts@GLIBC_9=impostor", "has no slot for puts@GLIBC_9"),
        ("puts=nowhere", "no loaded file has a symbol nowhere"),
        ("puts=ld*:puts", "no loaded file like ld\\* has a symbol puts"),
        ("puts=strlen", "strlen is an IFUNC"),
        ("puts=environ", "is not executable"),
        ("puts=stdout", "is not executable"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_changed(tmp_path: Path, text: str, words: str) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        with pytest.raises(SessionError, match=words):
            redirect(namespace(pid=process.pid, redirect=["write=puts", text], force=False))
        assert tell(process, "h") == "hello"


@pytest.mark.parametrize("text", ["puts", "=impostor", "puts=", "a:b:c=d", "puts=0x10000000000000000", "puts=0"])
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(ValueError, match="--redirect"):
        parse(text)


def test_before_the_linker_has_come_it_is_refused(tmp_path: Path) -> None:
    program = build(tmp_path, *NOW)
    with pytest.raises(SessionError, match="the dynamic linker has not come to it"):
        redirect(namespace(str(program), at="interpreter", redirect=["puts=impostor"], force=False))


def test_a_library_calls_another_function(tmp_path: Path) -> None:
    """A slot of another object's, and a static function's target."""
    (tmp_path / "library.c").write_text('#include <stdio.h>\nvoid greet(void) { puts("hello"); }')
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nvoid greet(void);\n"
        '__attribute__((used)) static int hidden(const char *text) { return printf("hidden %s\\n", text); }\n'
        "int main(void) { greet(); return 3; }"
    )
    flags = ["-O1", "-Wl,-z,lazy"]
    library, program = tmp_path / "libgreet.so", tmp_path / "main"
    subprocess.run(["gcc", *flags, "-shared", "-fPIC", str(tmp_path / "library.c"), "-o", str(library)], check=True)
    search = [f"-L{tmp_path}", "-lgreet", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), *search, "-o", str(program)], check=True)
    done = under(program, "libgreet.so:puts=hidden")
    assert (done.returncode, done.stdout) == (3, "hidden hello\n")


def test_death_by_a_signal_is_passed_on(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    done = under(program, "puts=abort")
    assert done.returncode == -signal.SIGABRT
    assert done.stdout == "ready\n"


def test_all_threads_are_held_while_it_is_written(tmp_path: Path) -> None:
    """Threads that call through the slot all the time, while it is changed again and again: none is lost or killed."""
    (tmp_path / "threads.c").write_text(
        "#include <pthread.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "int other(void) { return 1; }\nvolatile int stop;\n"
        "void *work(void *arg) { while (!stop) getppid(); return arg; }\n"
        "int main(void) { pthread_t all[8]; for (int i = 0; i < 8; i++) pthread_create(all + i, 0, work, 0);\n"
        'puts("ready"); fflush(stdout); getchar(); stop = 1; for (int i = 0; i < 8; i++) pthread_join(all[i], 0); return 7; }'
    )
    program = tmp_path / "threads"
    subprocess.run(["gcc", "-O1", "-Wl,-z,lazy", "-pthread", str(tmp_path / "threads.c"), "-o", str(program)], check=True)
    with running(program) as process:
        for target in ("other", "getppid", "other"):
            assert redirect(namespace(pid=process.pid, redirect=[f"getppid={target}"], force=True, json=False)) == 0
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert process.wait(60) == 7


def test_a_stopped_process_stays_stopped(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert redirect(namespace(pid=process.pid, redirect=["puts=impostor"], force=False, json=False)) == 0
        # Let go by its tracer, it takes up its stop again on its own time (kernel/ptrace.c: __ptrace_unlink).
        end = time.monotonic() + 30
        while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
            assert time.monotonic() < end
        os.kill(process.pid, signal.SIGCONT)
        assert tell(process, "h") == "impostor: hello"
