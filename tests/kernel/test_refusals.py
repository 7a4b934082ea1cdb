"""What `maps`, `addr` and `stack` say when a process or program can't be looked at: one line, with a way out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from elfwriter import EM_386, exit_program
from skips import needs

COMMAND = (sys.executable, "-m", "reflective")
CAPLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NARROW = ".globl _start\n_start: movl $29, %eax\nint $0x80\njmp _start\n"  # pause()
EXECS = '#include <unistd.h>\n%sint f(void) { return execl("/bin/cat", "cat", "/dev/null", (char *)0); }\n%s'
DEAD_LEADER = """
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *other(void *leader)
{
    pthread_join(*(pthread_t *)leader, NULL);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
int main(void)
{
    static pthread_t leader, id;
    leader = pthread_self();
    pthread_create(&id, NULL, other, &leader);
    pthread_exit(NULL);
}
"""


def said(*words: str | int | Path, before: tuple[str, ...] = (), status: int = 1) -> str:
    """The one line on stderr, without the program's name."""
    command = [*before, *COMMAND, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (status, "", 1), done.stderr
    assert done.stderr.startswith("reflective: ")
    return done.stderr.removeprefix("reflective: ").rstrip("\n")


def built(place: Path, text: str, *options: str) -> Path:
    (place / "a.c").write_text(text)
    subprocess.run(["gcc", *options, place / "a.c", "-o", place / "program"], check=True, timeout=60)
    return place / "program"


@pytest.fixture
def zombie() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


@pytest.mark.parametrize("words", [("maps",), ("addr", "main")], ids=lambda words: words[0])
def test_a_zombie(words: tuple[str, ...], zombie: int) -> None:
    expected = f"process {zombie} has ended (a zombie): its parent, {os.getpid()}, has not waited for it yet"
    assert said(words[0], zombie, *words[1:]) == expected


def test_a_process_whose_first_thread_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen([built(tmp_path, DEAD_LEADER, "-pthread")], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        message = said("maps", child.pid)
        other = int(message.rpartition(" ")[2])
        assert message == f"process {child.pid}: its first thread has ended, others have not: give the number of one, {other}"
        done = subprocess.run(
            [*COMMAND, "maps", "--json", str(other)], capture_output=True, text=True, check=False, timeout=60
        )
        child.kill()
    assert (done.returncode, str(tmp_path) in done.stdout) == (0, True)


def is_of_the_kernel(pid: int) -> bool:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return bool(int(fields[6]) & 0x200000)  # PF_KTHREAD


@pytest.mark.parametrize("words", [("maps",), ("addr", "main")], ids=lambda words: words[0])
def test_a_thread_of_the_kernel(words: tuple[str, ...]) -> None:
    kernels = [int(name) for name in os.listdir("/proc") if name == "2" and is_of_the_kernel(2)]
    if not kernels:
        pytest.skip("no thread of the kernel is visible")
    assert said(words[0], 2, *words[1:]) == "process 2 is a thread of the kernel: it has no address space of its own"


@pytest.mark.parametrize("words", [("maps",), ("addr", "main")], ids=lambda words: words[0])
def test_no_such_process(words: tuple[str, ...]) -> None:
    assert said(words[0], 4194304, *words[1:]) == "no process 4194304"


@pytest.fixture
def stranger() -> Iterator[Callable[[], int]]:
    """Of another user."""
    with subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "cat"], stdin=subprocess.PIPE) as child:
        while Path(f"/proc/{child.pid}/comm").read_text() != "cat\n":
            pass
        yield lambda: child.pid
        assert child.stdin is not None
        child.stdin.close()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has strangers to look at")


@needs_root
@pytest.mark.parametrize("words", [("maps",), ("addr", "main")], ids=lambda words: words[0])
def test_a_process_of_another_user(words: tuple[str, ...], stranger: Callable[[], int]) -> None:
    message = said(words[0], stranger(), *words[1:], before=CAPLESS)
    assert message.startswith(f"process {stranger()}: /proc/{stranger()}/")
    assert message.endswith("may not be read; it belongs to user 65534: be that user, or root (CAP_SYS_PTRACE)")


@needs_root
def test_a_process_with_more_capabilities() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        message = said("maps", child.pid, before=CAPLESS)
        child.communicate()
    assert message.endswith("it is not dumpable, or has capabilities that this process has not: be root (CAP_SYS_PTRACE)")


@pytest.mark.parametrize("via", ["kernel", "reflective"])
@pytest.mark.parametrize("words", [("maps", "--at", "main"), ("stack",)], ids=lambda words: words[0])
def test_the_tracer_is_named(words: tuple[str, ...], via: str, tmp_path: Path) -> None:
    needs("strace", "strace")
    command = ["strace", "-f", "-o", str(tmp_path / "log"), *COMMAND, *words, "--via", via, "/bin/true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "it is traced already, as this process is, by strace (" in line
    assert line.endswith("start this outside of that")


def test_a_32_bit_program_that_runs(tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(NARROW)
    subprocess.run(["as", "--32", tmp_path / "a.s", "-o", tmp_path / "a.o"], check=True, timeout=60)
    subprocess.run(["ld", "-m", "elf_i386", tmp_path / "a.o", "-o", tmp_path / "narrow"], check=True, timeout=60)
    with subprocess.Popen([tmp_path / "narrow"]) as child:
        while "/narrow" not in Path(f"/proc/{child.pid}/maps").read_text():
            pass
        message = said("addr", child.pid, "_start")
        shown = [
            subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=60)
            for words in (["maps", str(child.pid)], ["addr", str(child.pid), "0x8048000"])
        ]
        child.kill()
    assert message == f"_start: process {child.pid} runs a 32-bit program, whose symbols are not read: ask gdb -p {child.pid}"
    for done in shown:
        assert (done.returncode, "/narrow" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("words", "way"),
    [(("maps", "--at", "main"), "start it yourself, and give maps its process ID"), (("stack",), "gdb shows its stack")],
    ids=["maps", "stack"],
)
def test_a_32_bit_program_to_start(words: tuple[str, ...], way: str, tmp_path: Path) -> None:
    path = replace(exit_program(0), machine=EM_386).write(tmp_path / "narrow")
    message = said(*words, path, status=126)
    assert "e_machine at offset 18 is 3 (x86 32" in message
    assert way in message


@pytest.mark.parametrize("via", ["kernel", "reflective"])
@pytest.mark.parametrize(
    ("early", "phase"), [(True, "main"), (True, "exit"), (False, "exit")], ids=["before-main", "before-exit", "in-main"]
)
def test_a_program_that_becomes_another(early: bool, phase: str, via: str, tmp_path: Path) -> None:
    text = EXECS % (
        ("__attribute__((constructor)) ", "int main(void) { return 0; }") if early else ("", "int main(void) { return f(); }")
    )
    message = said("maps", "--via", via, "--at", phase, "--", built(tmp_path, text))
    other = os.path.realpath("/bin/cat")
    assert message == f"before {phase} the program becomes another, {other}: look at that one, or at an earlier phase"


@pytest.mark.parametrize("via", ["kernel", "reflective"])
def test_a_program_that_becomes_another_later(via: str, tmp_path: Path) -> None:
    """It can be looked at before."""
    path = built(tmp_path, EXECS % ("", "int main(void) { return f(); }"))
    command = [*COMMAND, "maps", "--via", via, "--at", "main", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, str(path) in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("maps", str(os.getpid())),
        ("stack", "true"),
        ("trace", "--json", "true"),
        ("got-watch", "--list", "true"),
        ("plan", "true"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_output_that_can_not_be_written(words: tuple[str, ...], where: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *COMMAND, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("reflective: ")
    assert done.stderr.count("\n") == 1
