"""Lazy bindings seen by uprobes, against what the dynamic linker says of the same run; and that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from gotprograms import Key, bindings, compiled, environment, many_symbols, which
from skips import needs
from test_got_list import LAZY, build, running, tell

from reflective.elf import relocations
from reflective.elf.relocations import JUMP_SLOT
from reflective.errors import SessionError
from reflective.native import uprobe
from reflective.native._core import lib
from reflective.observe.got.events import Bind, Event, Exec
from reflective.observe.got.uprobe import UprobeWatch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uprobes are for root: run as root")


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Containers often may not."""
    try:
        uprobe.Probes("/bin/true", {}).close()
    except SessionError as error:
        pytest.skip(f"uprobes can't be had here: {error}")


def definitions() -> list[str]:
    """The probes that this process has in the kernel."""
    root = int(lib.refl_tracefs())
    fd = os.open("uprobe_events", os.O_RDONLY, dir_fd=root)
    os.close(root)
    with os.fdopen(fd) as file:
        return [line for line in file if f"reflective_{os.getpid()}/" in line]


def watched(words: list[str], variables: dict[bytes, bytes] | None = None) -> tuple[UprobeWatch, list[Event]]:
    watch = UprobeWatch(words, environ=variables)
    return watch, list(watch)


def late(path: str) -> set[str]:
    """Symbols that one object looks up for nothing but a PLT slot."""
    slots = relocations.read(path)
    if slots.bind_now or "/ld-linux" in path:  # the linker has bound its own at the start
        return set()
    return {one.symbol for one in slots.slots if one.type == JUMP_SLOT} - {
        one.symbol for one in slots.slots if one.type != JUMP_SLOT
    }


@pytest.mark.parametrize("words", [["ls", "-l", "/"], ["perl", "-MPOSIX", "-e", "print floor(1.5)"], ["git", "version"]])
def test_what_is_bound_is_what_the_dynamic_linker_says(words: list[str], tmp_path: Path) -> None:
    needs(words[0], words[0])
    watch, events = watched(words, environment(tmp_path))
    assert watch.status == 0
    binds = [one for one in events if isinstance(one, Bind) and one.pid == watch.pid]
    libc = next(one.target_object for one in binds if one.target_object.endswith("/libc.so.6"))
    reported = bindings(tmp_path, watch.pid, which(words))
    names = {path: late(path) for path in {key[0] for key in reported} if path.startswith("/")}
    # glibc picks the vdso's time and gettimeofday; before that it has bound them to its own, which is what it reports.
    seen: Counter[Key] = Counter(
        (one.object, libc if one.target_object == "[vdso]" else one.target_object, one.symbol)
        for one in binds
        if one.symbol in names[one.object]
    )
    told = {key: count for key, count in reported.items() if key[2] in names.get(key[0], ())}
    # elf/dl-minimal.c: __rtld_malloc_init_real looks four functions up in the program's name, and makes no binding.
    own = {key for key in told if key[2] in ("malloc", "calloc", "realloc", "free")}
    assert {key: count for key, count in seen.items() if key not in own} == {k: n for k, n in told.items() if k not in own}
    assert len(seen) > 30


def test_every_symbol_of_many(tmp_path: Path) -> None:
    program = many_symbols(tmp_path, 200)
    watch, events = watched([str(program)])
    binds = [one for one in events if isinstance(one, Bind) and one.object == str(program)]
    mine = [one for one in binds if one.symbol.startswith("function_")]
    assert watch.status == 0
    assert [one.symbol for one in mine] == [f"function_{number}" for number in range(200)]
    assert all(one.target_symbol == one.symbol and one.target_offset == 0 for one in mine)
    assert {one.target_object for one in mine} == {str(tmp_path / "libmany.so")}
    assert {one.caller_symbol for one in mine} == {"main"}
    assert all(
        one.before == one.slot - relocated + one.file for one, relocated in zip(mine, _offsets(program, mine), strict=True)
    )


def _offsets(program: Path, binds: list[Bind]) -> list[int]:
    known = {one.symbol: one.offset for one in relocations.read(program).slots}
    return [known[one.symbol] for one in binds]


def test_threads_children_and_other_programs(tmp_path: Path) -> None:
    source = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *text) { return puts(text) < 0 ? text : 0; }
int main(int argc, char **argv)
{
    pthread_t thread;
    int status;
    pthread_create(&thread, 0, work, "thread");
    pthread_join(thread, 0);
    if (fork() == 0) {
        if (argc > 1)
            _exit((int)strtol(argv[1], 0, 10));
        execl(argv[0], argv[0], "3", NULL);
    }
    wait(&status);
    return WEXITSTATUS(status);
}"""
    program = compiled(source, tmp_path / "family", *LAZY, "-pthread")
    watch, events = watched([str(program)])
    assert watch.status is not None
    assert os.WEXITSTATUS(watch.status) == 3
    binds = [one for one in events if isinstance(one, Bind) and one.object == str(program)]
    [puts] = [one for one in binds if one.symbol == "puts" and one.pid == watch.pid]
    assert puts.tid != puts.pid
    assert puts.caller_symbol == "work"
    [number] = [one for one in binds if one.symbol == "strtol"]
    assert number.pid != watch.pid
    assert sum(isinstance(one, Exec) for one in events) == 2


def test_a_running_process_is_neither_stopped_nor_changed(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        watch = UprobeWatch(pid=process.pid)
        assert len(definitions()) == 2
        assert "TracerPid:\t0\n" in Path(f"/proc/{process.pid}/status").read_text()
        assert tell(process, "h") == "hello"
        watch.interrupted = lambda: True
        [bind] = [one for one in watch if isinstance(one, Bind) and one.symbol == "puts"]
        assert (bind.object, bind.target_symbol, bind.caller_symbol) == (str(program), "puts", "main")
        assert definitions() == []
        assert tell(process, "h") == "hello"
        _same_code(process.pid)


def _same_code(pid: int) -> None:
    """No breakpoint is left in the linker: its code is as in the file."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, flags, offset, _, _, *path = line.split(None, 5)
        if "x" in flags and path and "/ld-linux" in path[0]:
            start, end = (int(part, 16) for part in span.split("-"))
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(path[0], "rb") as file:
                memory.seek(start)
                file.seek(int(offset, 16))
                assert memory.read(end - start) == file.read(end - start)
            return
    raise AssertionError("no dynamic linker")


def test_leaving_early_removes_the_probes(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    program = build(tmp_path, *LAZY)
    watch = UprobeWatch([str(program)])  # its stdin is ours: it reads nothing, or ends
    for _ in watch:
        break
    watch.close()
    assert definitions() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
    if watch.status is None:
        os.kill(watch.pid, 9)
        os.waitpid(watch.pid, 0)


def test_what_can_not_be_probed(tmp_path: Path) -> None:
    static = compiled("int main(void) { return 0; }", tmp_path / "static", "-static")
    with pytest.raises(SessionError, match="is static: there is no dynamic linker to probe"):
        UprobeWatch([str(static)])
    musl = compiled("int main(void) { return 0; }", tmp_path / "musl", compiler="musl-gcc")
    with pytest.raises(SessionError, match="is not the linker of this process"):
        UprobeWatch([str(musl)])
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(SessionError, match="no process"):
        UprobeWatch(pid=ended.pid)
    assert definitions() == []
