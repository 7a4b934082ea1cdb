"""`got-watch --engine=python` gives the events of the C loop: without address randomization even the addresses are equal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gotprograms import compiled
from support import PROGRAMS as SOURCES

# Two runs of a program with threads or children are never quite the same: the scheduler has a say in every one.
pytestmark = pytest.mark.flaky(reruns=3)

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0"}
LAZY, NOW = ("-Wl,-z,lazy",), ("-Wl,-z,now",)
HELLO = '#include <stdio.h>\nint main(int argc, char **argv) { printf("%d\\n", argc); return puts("x") < 0; }'
DLOPEN = (
    '#include <dlfcn.h>\nint main(void) { for (int i = 0; i < 3; i++) { void *h = dlopen("libm.so.6", RTLD_LAZY | (i & 1));'
    '((double (*)(double))dlsym(h, "sin"))(1); dlclose(h); } return 3; }'
)
FORK = (
    "#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\nint main(void) { int status; if (fork() == 0) "
    'exit(atoi("4")); wait(&status); if (vfork() == 0) _exit(5); wait(&status); alarm(0); '
    'return execlp("sh", "sh", "-c", "exit 6", NULL); }'
)
LONGJMP = (
    "#include <setjmp.h>\n#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\nstatic jmp_buf back;\n"
    "static void handler(int n) { (void)n; alarm(0); longjmp(back, 1); }\n"
    'int main(void) { signal(SIGUSR1, handler); if (!setjmp(back)) raise(SIGUSR1); return getenv("x") != 0; }'
)
THREAD_EXECS = (
    "#include <pthread.h>\n#include <unistd.h>\n"
    'static void *run(void *p) { execl("/bin/sh", "sh", "-c", "exit 7", (char *)0); return p; }\n'
    "int main(void) { pthread_t one; pthread_create(&one, 0, run, 0); for (;;) pause(); }"
)
WAITING = (
    "#include <pthread.h>\n#include <stdlib.h>\n#include <unistd.h>\nstatic void *wait_on(void *p) { pause(); return p; }\n"
    "int main(void) { pthread_t one; char letter; pthread_create(&one, 0, wait_on, 0); while (read(0, &letter, 1) == 1) {\n"
    "if (letter == 'a') alarm(0); if (letter == 'b') getppid(); write(1, &letter, 1); } return 9; }"
)
COMMANDS = {
    "ls": ["ls", "-l", "/usr/bin/ls"],
    "perl": ["perl", "-MPOSIX", "-e", "print floor(1.5)"],
    "static": ["/usr/sbin/ldconfig", "--version"],
    "killed": ["sh", "-c", "kill -9 $$"],
    "shell": ["sh", "-c", "true | cat; (exit 3)"],
    "vfork": ["/usr/bin/python3", "-S", "-c", "import subprocess; subprocess.run(['true'], check=True)"],
}
COMPILED = {
    "lazy": (HELLO, LAZY),
    "now": (HELLO, NOW),
    "fno-plt": (HELLO, ("-fno-plt", *LAZY)),
    "static-pie": (HELLO, ("-static-pie", "-fPIE")),
    "dlopen": (DLOPEN, LAZY),
    "fork": (FORK, LAZY),
    "longjmp": (LONGJMP, LAZY),
    "thread-execs": (THREAD_EXECS, ("-pthread", *LAZY)),
    "traps": ((SOURCES / "traps.c").read_text(), LAZY),
    "threads": ((SOURCES / "threads.c").read_text(), ("-pthread", *LAZY)),
}
TIMES = re.compile(r'"(t_ns|took_ns)": \d+')
ENGINES = ("c", "python")
GOT_WATCH = (sys.executable, "-m", "reflective", "got-watch")


def watch(engine: str, output: Path, *words: str) -> tuple[int, bytes, list[dict[str, Any]]]:
    command = [
        "setarch",
        "-R",
        sys.executable,
        "-m",
        "reflective",
        "got-watch",
        "--engine",
        engine,
        "--json",
        "-o",
        str(output),
    ]
    done = subprocess.run(
        [*command, "--", *words], env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b""
    return done.returncode, done.stdout, [json.loads(TIMES.sub(r'"\1": 0', line)) for line in output.read_text().splitlines()]


def by_task(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Tasks by the order in which they were made; their numbers replaced by it."""
    tids = sorted({event["tid"] for event in events} | {event["child"] for event in events if event["event"] == "fork"})
    order = {tid: at for at, tid in enumerate(tids)}
    for event in events:
        event |= {name: order[event[name]] for name in ("pid", "tid", "child") if name in event}
    return [[event for event in events if event["tid"] == at] for at in range(len(tids))]


@pytest.mark.parametrize("name", [*COMMANDS, *COMPILED])
def test_both_engines_give_the_same_events(name: str, tmp_path: Path) -> None:
    words = COMMANDS.get(name) or [str(compiled(COMPILED[name][0], tmp_path / name, *COMPILED[name][1]))]
    (mine, said, ours), (other, spoke, theirs) = (watch(engine, tmp_path / engine, *words) for engine in ENGINES)
    assert (mine, said) == (other, spoke)
    if name == "threads":  # which of 64 binds a symbol first is chance; that somebody does is not
        assert {(event["event"], event.get("symbol")) for event in ours} == {
            (event["event"], event.get("symbol")) for event in theirs
        }
        assert len({event["tid"] for event in ours}) > 1
        return
    assert by_task(ours) == by_task(theirs)
    assert len(ours) > 2


def test_a_process_that_runs_is_watched_and_left_alone_by_both(tmp_path: Path) -> None:
    program = compiled(WAITING, tmp_path / "program", "-pthread", *LAZY)
    found = []
    for engine in ENGINES:
        with subprocess.Popen(["setarch", "-R", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:

            def tell(letter: bytes, process: subprocess.Popen[bytes] = process) -> None:
                assert process.stdin
                assert process.stdout
                process.stdin.write(letter)
                assert process.stdout.read(1) == letter

            tell(b"-")
            cpus = os.sched_getaffinity(process.pid)
            command = [*GOT_WATCH, "--engine", engine, "--json", "-p", str(process.pid)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
                assert watcher.stdout
                lines = [next(watcher.stdout)]
                while '"resolver"' not in lines[-1]:
                    lines.append(next(watcher.stdout))
                tell(b"a")
                watcher.send_signal(signal.SIGINT)
                lines += watcher.stdout.readlines()
                assert watcher.wait(30) == 0
            assert os.sched_getaffinity(process.pid) == cpus
            assert "TracerPid:\t0" in Path(f"/proc/{process.pid}/status").read_text()
            tell(b"b")  # would run into a breakpoint that was left
            assert process.stdin
            process.stdin.close()
            assert process.wait(30) == 9
        found.append(by_task([json.loads(TIMES.sub(r'"\1": 0', line)) for line in lines]))
    assert found[0] == found[1]
    assert [event["symbol"] for event in found[0][0] if event["event"] == "bind"] == ["alarm"]
    assert [event["event"] for event in found[0][1]] == ["detach"]


def test_an_interrupt_ends_a_program_that_was_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reflective", "got-watch", "--engine=python", "--json", "--", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        lines = iter(watcher.stdout)
        pid = next(json.loads(line)["pid"] for line in lines if b'"exec"' in line)
        assert any(b'"how": "lazy"' in line for line in lines)
        watcher.send_signal(signal.SIGINT)
        assert len(list(lines)) >= 1
        assert watcher.wait(20) == -signal.SIGINT
    assert not Path(f"/proc/{pid}").exists()
