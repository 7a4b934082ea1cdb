"""Templates in use: what follows the caller, what makes a template anew, what is left when something dies."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_leaks import Usage
from verdict import may_set_exe

import reflective
from reflective import Template
from reflective.conform.start import parse_maps
from reflective.errors import LoadError
from reflective.native._core import lib
from reflective.native.faults import Faults
from reflective.template.hot import STARTS
from reflective.template.key import read_by_linker
from reflective.template.warm import Warm

SHELL = "/bin/bash"  # whose descriptors may have two digits


def warm(template: Template) -> list[Warm]:
    """The template processes there are."""
    return [one for one in template._warm.values() if isinstance(one, Warm)]


@pytest.fixture(params=[0, 2], ids=["template", "pool"])
def shell(request: pytest.FixtureRequest) -> Iterator[Template]:
    """A template of the shell that has already been used; whatever it was used for, it is a template until the end."""
    with Template(SHELL, pool=request.param) as template:
        assert template.run(["sh", "-c", "exit 3"]).returncode == 3
        yield template
        assert warm(template), "not from a template"


def say(template: Template, script: str, *arguments: str, **keywords: Any) -> str:
    """What a script prints."""
    done = template.run(["sh", "-c", script, *arguments], capture_output=True, text=True, timeout=30, **keywords)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def same(template: Template, script: str, **keywords: Any) -> str:
    """What a script prints: the same as when subprocess starts it."""
    ours = say(template, script, **keywords)
    command = ["sh", "-c", script]
    expected = subprocess.run(command, executable=SHELL, capture_output=True, text=True, timeout=30, check=True, **keywords)
    assert ours == expected.stdout
    return ours


def test_arguments_and_environment(shell: Template) -> None:
    assert say(shell, 'echo "$0 $# $1 $2"', "zero", "", "two words") == "zero 2  two words\n"
    assert say(shell, "echo $A; env | sort | tr '\\n' ' '", env={"A": "1", "PATH": "/bin:/usr/bin"}).startswith("1\nA=1 ")
    assert same(shell, "tr '\\0' '\\n' < /proc/$$/cmdline; cat /proc/$$/comm; readlink /proc/$$/exe")


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


@pytest.mark.parametrize("number", range(8))
def test_each_template_knows_what_it_was_born_with(number: int) -> None:
    """Signals that are ignored here are not in what it starts, and the other way round."""
    script = "grep SigIgn /proc/self/status"
    with Template(SHELL, pool=number % 2) as template:
        for restore in (True, False):
            same(template, script, restore_signals=restore)


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


def test_other_state_makes_another_template(shell: Template) -> None:
    """What is not handed to each clone, the template must have: it is made again."""
    first = warm(shell)[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 100, hard))
    try:
        assert same(shell, "ulimit -n") == f"{soft - 100}\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same(shell, "ulimit -n") == f"{soft}\n"
    assert first not in warm(shell)


def test_preexec_fn_and_others_take_the_ordinary_way(shell: Template) -> None:
    assert say(shell, "echo $PPID", preexec_fn=lambda: None).strip() == str(os.getpid())
    assert say(shell, "ps -o pgid= -p $$", process_group=0)
    if os.geteuid() == 0:
        assert say(shell, "id -u", user=65534) == "65534\n"


def test_linker_environment(tmp_path: Path) -> None:
    """What ld.so reads of the environment is read anew: another template, or the ordinary way."""
    source = tmp_path / "hello.c"
    source.write_text('#include <unistd.h>\n__attribute__((constructor)) void c(void) { write(1, "preloaded\\n", 10); }\n')
    library = tmp_path / "hello.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with Template("/bin/true") as template:
        assert template.run(["true"], capture_output=True).stdout == b""
        for _ in range(2):
            assert template.run(["true"], capture_output=True, env={"LD_PRELOAD": str(library)}).stdout == b"preloaded\n"
            assert template.run(["true"], capture_output=True, env={}).stdout == b""
        assert len(warm(template)) == 2
        for name in ("LD_TRACE_LOADED_OBJECTS", "LD_SHOW_AUXV"):
            assert b"AT_" in (out := template.run(["true"], capture_output=True, env={name: "1"}).stdout) or b"libc.so" in out
        wrong = template.run(["true"], capture_output=True, env={"LD_PRELOAD": "/nowhere.so"})
        assert b"cannot be preloaded" in wrong.stderr, "a warning of ld.so comes with each start"


def test_names_that_the_linker_reads() -> None:
    """Every environment variable that this ld.so knows makes another key."""
    text = Path("/lib64/ld-linux-x86-64.so.2").read_bytes()
    names = [word for word in text.split(b"\0") if word.isupper() and word.startswith((b"LD_", b"MALLOC_", b"GLIBC_TUNABLES"))]
    known = [name for name in names if b"." not in name]
    assert {b"LD_LIBRARY_PATH", b"LD_PRELOAD", b"GLIBC_TUNABLES", b"MALLOC_PERTURB_"} <= set(known)
    assert [name for name in known if not read_by_linker(b"A=1\0" + name + b"=1\0")] == []


def test_changed_program(tmp_path: Path) -> None:
    """A changed file is noticed: replaced, overwritten, without permission, gone."""
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    with Template(program) as template:
        assert template.run(["x"]).returncode == 0
        shutil.copy("/bin/false", tmp_path / "other")
        os.replace(tmp_path / "other", program)
        assert template.run(["x"]).returncode == 1
        program.chmod(0o644)
        with pytest.raises(PermissionError):
            template.run(["x"])
        program.unlink()
        with pytest.raises(FileNotFoundError):
            template.run(["x"])


def test_changed_library(tmp_path: Path) -> None:
    """So is a changed library, and one that appears in a directory that is searched earlier."""
    for name, value in (("first", 1), ("second", 2)):
        (tmp_path / name).mkdir()
        source = tmp_path / f"{name}.c"
        source.write_text(f"int value(void) {{ return {value}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name / "libvalue.so", source], check=True)
    main = tmp_path / "main.c"
    main.write_text("int value(void); int main(void) { return value(); }\n")
    origin = "$ORIGIN" if may_set_exe() else tmp_path  # which is looked up by /proc/self/exe
    link = ["-L", str(tmp_path / "second"), "-lvalue", f"-Wl,-rpath,{tmp_path}/early:{origin}/second"]
    subprocess.run(["cc", "-o", tmp_path / "main", main, *link], check=True)
    (tmp_path / "early").mkdir()
    with Template(tmp_path / "main") as template:
        assert template.run(["main"]).returncode == 2
        assert warm(template)
        shutil.copy(tmp_path / "first" / "libvalue.so", tmp_path / "early" / "libvalue.so")
        assert template.run(["main"]).returncode == 1
        (tmp_path / "early" / "libvalue.so").unlink()
        assert template.run(["main"]).returncode == 2


def test_relative_to_another_directory(tmp_path: Path) -> None:
    """What is looked for relative to the directory is looked for in the one that the program is started in."""
    for name, status in (("here", 3), ("there", 4)):
        (tmp_path / name).mkdir()
        source = tmp_path / f"{name}.c"
        source.write_text(f"int value(void) {{ return {status}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name / "libvalue.so", source], check=True)
    main = tmp_path / "main.c"
    main.write_text("int value(void); int main(void) { return value(); }\n")
    program = tmp_path / "main"
    subprocess.run(["cc", "-o", program, main, f"-L{tmp_path / 'here'}", "-lvalue"], check=True)
    with contextlib.chdir(tmp_path / "here"), Template(program) as template:
        for where, status in ((None, 3), (tmp_path / "there", 4), (tmp_path / "here", 3)):
            assert template.run(["main"], cwd=where, env={"LD_LIBRARY_PATH": "."}).returncode == status
    (tmp_path / "here" / "run").symlink_to("/bin/true")
    (tmp_path / "there" / "run").symlink_to("/bin/false")
    with contextlib.chdir(tmp_path / "here"), Template("./run") as template:
        assert template.run(["run"]).returncode == 0
        assert template.run(["run"], cwd=tmp_path / "there").returncode == 1


def test_script(tmp_path: Path) -> None:
    """A template of a script is one of its interpreter, with the arguments in place."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\necho $0 $1\n")
    script.chmod(0o755)
    with Template(script) as template:
        for word in ("a", "b"):
            assert template.run(["ignored", word], capture_output=True, text=True).stdout == f"{script} {word}\n"
        assert warm(template)


def test_addresses(shell: Template) -> None:
    """The heap is another for each clone, what the template has mapped is not, until it is refreshed."""

    def places() -> tuple[int, int]:
        regions = parse_maps(say(shell, "cat /proc/$$/maps; :"))
        return (
            next(region.start for region in regions if "libc.so" in region.name),
            next(region.start for region in regions if region.name == "[heap]"),
        )

    (library, heap), (library_2, heap_2) = places(), places()
    assert library == library_2
    assert heap != heap_2
    shell.refresh()
    assert places()[0] != library


def test_refresh_every(shell: Template) -> None:
    """With an age that is always past, each start has a template of its own."""
    shell.refresh(every=1e-9)
    pids = set()
    for _ in range(3):
        say(shell, "true")
        pids.add(warm(shell)[0].process.pid)
    assert len(pids) == 3


def test_secrets(tmp_path: Path) -> None:
    """AT_RANDOM, the stack protector's canary and the pointer guard are each clone's own, and agree as glibc makes them."""
    source = tmp_path / "secrets.c"
    source.write_text("""
        #include <stdio.h>
        #include <string.h>
        #include <sys/auxv.h>
        int main(void) {
            unsigned long canary, guard, random[2];
            __asm__("mov %%fs:0x28, %0" : "=r"(canary));
            __asm__("mov %%fs:0x30, %0" : "=r"(guard));
            memcpy(random, (void *)getauxval(AT_RANDOM), 16);
            printf("%lx %d %d\\n", random[0], canary == (random[0] & ~0xfful), guard == random[1]);
            return 0;
        }""")
    subprocess.run(["cc", "-o", tmp_path / "secrets", source], check=True)
    with Template(tmp_path / "secrets", pool=1) as template:
        said = [template.run(["x"], capture_output=True, text=True).stdout.split() for _ in range(4)]
        assert warm(template)
    assert [words[1:] for words in said] == [["1", "1"]] * 4
    assert len({words[0] for words in said}) == 4


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
    assert waited[-1] <= counts[-1]


def _may_look_at_faults() -> bool:
    faults = Faults()
    lib.refl_faults_open(faults.struct, os.getpid())
    allowed = bool(faults)
    faults.close()
    return allowed


def test_exported() -> None:
    assert reflective.Template is Template


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
