"""Templates that are closed or killed, forked or shared by threads: what is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from shell_template import SHELL, say, warm
from test_leaks import Usage

from reflective import Template
from reflective.errors import LoadError
from reflective.native.kept import MOST
from reflective.template.hot import STARTS


def test_closed() -> None:
    template = Template("/bin/true")
    template.close()
    with pytest.raises(ValueError, match="closed"):
        template.spawn(["true"])


def test_no_such_program() -> None:
    with pytest.raises(LoadError):
        Template("/nowhere")


# When something dies.


def test_killed_template(shell: Template) -> None:
    """The next start makes it anew; programs that run already go on."""
    running = shell.Popen(["sh", "-c", "read line; exit 7"], stdin=subprocess.PIPE)
    os.kill(warm(shell)[0].process.pid, signal.SIGKILL)
    assert say(shell, "echo alive") == "alive\n"
    running.communicate(b"\n")
    assert running.returncode == 7


def test_killed_while_it_is_asked(shell: Template) -> None:
    """Killed at any moment: no start hangs, none is lost, none happens twice."""
    done = threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal killed
        while not done.wait(0.003):
            for one in warm(shell):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.process.pid, signal.SIGKILL)
                    killed += 1

    killer = threading.Thread(target=kill)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    killer.start()
    try:
        for number in range(60):
            assert os.waitpid(shell.spawn(["sh", "-c", f"echo {number} >&{write}"]), 0)[1] == 0
    finally:
        done.set()
        killer.join()
        os.close(write)
    with os.fdopen(read) as reader:
        assert reader.read().split() == [str(number) for number in range(60)]
    assert killed
    assert say(shell, "echo alive") == "alive\n"


def test_killed_waiting_clones() -> None:
    with Template(SHELL, pool=3) as template:
        say(template, "true")
        one = warm(template)[0]
        one.collect()
        for pid, _, _ in one._waiting:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert [say(template, f"echo {number}") for number in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_waiting_clones_are_those_that_start() -> None:
    """None of them dies of what it does ahead, before and after it is known which pages that takes."""
    with Template(SHELL, pool=3) as template:
        started = [template.spawn(["sh", "-c", ":"])]
        one = warm(template)[0]
        one.collect()
        waited = [pid for pid, _, _ in one._waiting]
        for _ in range(STARTS + 6):
            os.waitpid(started[-1], 0)
            started.append(template.spawn(["sh", "-c", ":"]))
            one.collect()
            waited += [pid for pid, _, _ in one._waiting]
        os.waitpid(started[-1], 0)
        left = [pid for pid, _, _ in one._waiting]
    assert {*waited} - {*left} <= {*started}


def test_killed_caller() -> None:
    """kill -9 of this process, or its exit without close, leaves nothing."""
    code = (
        "import os, sys\nfrom reflective import Template\n"
        "template = Template('/bin/sh', pool=2); template.run(['sh', '-c', 'exit'])\n"
        "one = next(iter(template._warm.values()))\n"
        "one.collect(); one.fill(); one.collect()\n"
        "print(one.process.pid, *[waiting[0] for waiting in one._waiting], flush=True)\n"
        "sys.stdin.read(1)\nos._exit(0)\n"
    )
    for kill in (True, False):
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
            assert caller.stdout is not None
            pids = [int(word) for word in caller.stdout.readline().split()]
            assert len(pids) == 3
            watched = [os.pidfd_open(pid) for pid in pids]
            if kill:
                caller.kill()
            else:
                caller.communicate(b"\n")
        for fd in watched:
            with os.fdopen(fd) as file, select.epoll() as poll:
                poll.register(file.fileno(), 1)
                assert poll.poll(20), "it lives on"


def test_fork(shell: Template) -> None:
    """A child made by fork has a template of its own; the parent's goes on."""
    mine = warm(shell)[0].process.pid
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            good = shell.run(["sh", "-c", "exit 5"]).returncode == 5
            status = 0 if good and warm(shell)[0].process.pid != mine else 2
            shell.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert warm(shell)[0].process.pid == mine
    assert say(shell, "echo alive") == "alive\n"


def test_threads(shell: Template) -> None:
    """Starts from many threads at once."""
    wrong = []

    def work(number: int) -> None:
        for _ in range(10):
            if shell.run(["sh", "-c", f"exit {number}"]).returncode != number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_killed_before_it_has_its_order() -> None:
    """A clone that never took its descriptors does not keep them: who reads its output finds the end."""
    with Template("/bin/cat", pool=8) as template:
        template.run(["cat", "/dev/null"], check=True)
        for _ in range(STARTS + 2):
            waiting = next((one for one in warm(template)[0]._waiting), None)
            if waiting:
                os.kill(waiting[0], signal.SIGSTOP)
            started = template.Popen(["cat", "/dev/null"], stdout=subprocess.PIPE)
            os.kill(started.pid, signal.SIGKILL) if waiting and started.pid == waiting[0] else None
            assert started.communicate(timeout=10)[0] == b""
            if waiting and started.pid == waiting[0]:
                assert started.returncode == -signal.SIGKILL
                return
            if waiting:
                os.kill(waiting[0], signal.SIGCONT)
        pytest.fail("no start from the pool")


def test_every_descriptor_closed() -> None:
    """Who closes all that is open, as daemons do, still has programs started, and no process or word is left."""
    code = (
        "import os, reflective\n"
        "with reflective.Template('/bin/true', pool=4) as template:\n"
        "    start = lambda: os.waitpid(template.spawn(['true']), 0)[1]\n"
        "    for _ in range(20): assert start() == 0\n"
        "    os.closerange(3, 4096)\n"
        "    for _ in range(8): assert start() == 0\n"
        "try: print(os.waitpid(-1, 0))\n"
        "except ChildProcessError: print('none')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "none\n", "")


def test_descriptors_for_threads() -> None:
    """A thread's state is read from descriptors of its own: those of a few stay open, all are closed in the end."""
    before = Usage.now().descriptors
    together = threading.Barrier(MOST + 4)
    with Template("/bin/true") as template:

        def start() -> None:
            os.waitpid(template.spawn(["true"]), 0)

        def stay() -> None:
            start()
            together.wait(30)
            start()

        start()
        each = len(Usage.now().descriptors) - len(before)
        for work, count in ((start, 3 * MOST), (stay, MOST + 4)):
            threads = [threading.Thread(target=work) for _ in range(count)]
            for thread in threads:
                thread.start()
                if work is start:
                    thread.join()
            for thread in threads:
                thread.join()
            assert len(Usage.now().descriptors) - len(before) <= MOST * each
    assert Usage.now().descriptors == before


@pytest.mark.slow
def test_nothing_leaks() -> None:
    """Thousands of starts leave nothing in this process, nor in the template."""
    first = Usage.now()
    with Template("/bin/true", pool=4) as pool, Template("/bin/true") as template:

        def many(count: int) -> None:
            for _ in range(count):
                for one in (pool, template):
                    assert os.waitpid(one.spawn(["true"]), 0)[1] == 0

        many(300)
        before = Usage.now(), _memory(warm(template)[0].process.pid)
        many(3000)
        after = Usage.now(), _memory(warm(template)[0].process.pid)
    assert after[0].descriptors == before[0].descriptors
    assert (after[0].threads, after[0].maps) == (before[0].threads, before[0].maps)
    assert after[0].rss_kb < before[0].rss_kb + 1024
    assert after[1] == before[1]
    last = Usage.now()
    assert (last.descriptors, last.children) == (first.descriptors, first.children)
    assert last.maps <= first.maps + 3  # malloc's own


def _memory(pid: int) -> tuple[int, list[str]]:
    """A process's mappings and descriptors."""
    return len(Path(f"/proc/{pid}/maps").read_bytes().splitlines()), os.listdir(f"/proc/{pid}/fd")


def test_left_open() -> None:
    """A template that nobody closes is ended when it is collected, and at the interpreter's end, without a word."""
    code = (
        "import gc, os, reflective\n"
        "def use(): reflective.Template('/bin/true', pool=2).run(['true'], check=True)\n"
        "use(); gc.collect()\n"
        "try: print(os.waitpid(-1, os.WNOHANG))\n"
        "except ChildProcessError: print('no child')\n"
        "left = reflective.Template('/bin/true', pool=2); left.run(['true'], check=True)\n"
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("no child\n", "")


def test_many_at_once() -> None:
    """1,000 starts from 20 threads, all alive before the first is waited for."""
    with Template("/bin/sh", pool=4) as template:
        started: list[subprocess.Popen[Any]] = []
        threads = [
            threading.Thread(target=lambda: started.extend(template.Popen(["sh", "-c", "exit 7"]) for _ in range(50)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.wait() for one in started] == [7] * 1000
