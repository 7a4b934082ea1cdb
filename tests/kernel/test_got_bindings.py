"""What got-watch sees is what the dynamic linker says of itself (LD_DEBUG=bindings), in one and the same run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from gotprograms import Key, bindings, compiled, environment, many_symbols, prelinked, which
from skips import needs

from reflective.elf import relocations
from reflective.elf.relocations import ABS64, COPY, GLOB_DAT, JUMP_SLOT
from reflective.observe.got.events import Bind, Event, Exit, Object, Resolver, Write
from reflective.observe.got.session import Watch

PROGRAMS = {
    "ls": ["ls", "-l", "/"],
    "perl": ["perl", "-MPOSIX", "-e", "print floor(1.5)"],
    "git": ["git", "version"],
    "make": ["make", "--version"],
    "sqlite3": ["sqlite3", ":memory:", "select sqlite_version()"],
    "python3": ["/usr/bin/python3", "-S", "-c", "import ssl, sqlite3; sqlite3.connect(':memory:')"],
}
BOUND_LATE = ("lazy", "dlopen")  # dlopen with RTLD_NOW binds all
PRELINKED = (
    "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
    'int main(void) { puts("one"); puts(getenv("PATH")); return getppid() < 0; }'
)
FULL_RELRO = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return getenv("x") ? puts("y") : 0; }'


def watched(words: list[str], variables: dict[bytes, bytes]) -> tuple[Watch, list[Event]]:
    watch = Watch(words, environ=variables)
    return watch, list(watch)


def symbols(path: str, *types: int) -> set[str]:
    return {slot.symbol for slot in relocations.read(path).slots if slot.type in types}


def only_through_plt(path: str) -> set[str]:
    """Symbols of which one object looks up nothing but the function to call, and that when it is called."""
    return symbols(path, JUMP_SLOT) - {slot.symbol for slot in relocations.read(path).slots if slot.type != JUMP_SLOT}


def held_against(words: list[str], directory: Path, **more: str) -> tuple[Counter[Key], Counter[Key]]:
    """The lazy bindings as they were seen, and as the linker reports them."""
    watch, events = watched(words, environment(directory, **more))
    assert watch.status == 0
    lazy = [
        event.object for event in events if isinstance(event, Object) and event.binding == "lazy" and event.pid == watch.pid
    ]
    names = {path: only_through_plt(path) for path in lazy}
    reported = bindings(directory, watch.pid, which(words))
    libc = next(event.object for event in events if isinstance(event, Object) and event.object.endswith("/libc.so.6"))
    seen = Counter(
        (event.object, libc if event.target_object == "[vdso]" else event.target_object, event.symbol)
        for event in events
        if isinstance(event, Bind) and event.how in BOUND_LATE and event.symbol in names.get(event.object, ())
    )
    # elf/dl-minimal.c: __rtld_malloc_init_real looks them up in the program's name, for itself; it may find the program's PLT
    program = which(words)
    for name in ("malloc", "calloc", "realloc", "free"):
        home = program if reported[program, program, name] else libc
        reported -= Counter({(program, home, name): 1})
    return seen, Counter({key: count for key, count in reported.items() if key[2] in names.get(key[0], ())})


@pytest.mark.parametrize("words", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_lazy_bindings_are_those_that_the_linker_reports(words: list[str], tmp_path: Path) -> None:
    needs(words[0], words[0].rpartition("/")[2])
    seen, reported = held_against(words, tmp_path)
    assert seen == reported
    assert len(seen) > (1 if words[0] == "sqlite3" else 15)


@pytest.mark.slow
def test_fifteen_hundred_lazy_bindings_are_all_seen(tmp_path: Path) -> None:
    seen, reported = held_against([str(many_symbols(tmp_path, 1500))], tmp_path)
    assert seen == reported
    assert sum(seen.values()) >= 1500


@pytest.mark.parametrize("kind", ["-pie", "-no-pie"])
def test_a_prelinked_program_is_bound_lazily_from_its_stubs(kind: str, tmp_path: Path) -> None:
    flags = ("-Wl,-z,lazy", kind, "-fPIE" if kind == "-pie" else "-fno-pie")
    program = prelinked(compiled(PRELINKED, tmp_path / "program", *flags), tmp_path / "prelinked")
    watch, events = watched([str(program)], environment(tmp_path))
    assert watch.status == 0
    own = [event for event in events if isinstance(event, Bind) and event.object == str(program)]
    lazy = [event for event in own if event.how == "lazy"]
    assert [event.symbol for event in lazy] == ["puts", "getenv", "getppid"]
    assert {event.symbol for event in lazy} <= {key[2] for key in bindings(tmp_path, watch.pid, str(program))}
    bias = next(event.bias for event in events if isinstance(event, Object) and event.object == str(program))
    text = subprocess.run(["objdump", "-d", program], capture_output=True, text=True, check=True).stdout
    stubs = {name: int(address, 16) for address, name in re.findall(r"^([0-9a-f]+) <(\w+)@plt>:$", text, re.MULTILINE)}
    for event in lazy:
        assert event.file >> 36 == 3
        assert event.before == stubs[event.symbol] + 6 + bias
    assert {event.type for event in own if event.how == "startup"} == {"GLOB_DAT"}
    assert not [event for event in events if isinstance(event, Write)]
    (note,) = [event.note for event in events if isinstance(event, Object) and event.object == str(program)]
    assert note == "3 PLT slots, each bound by its first call (prelinked: the file has the values of an earlier start)"
    (left,) = [one for event in events if isinstance(event, Exit) for one in event.objects if one.object == str(program)]
    assert (left.lazy, left.unbound) == (3, 0)
    command = [
        sys.executable,
        "-m",
        "reflective",
        "got-watch",
        "--list",
        "--json",
        "--object",
        "prelinked",
        "--",
        str(program),
    ]
    rows = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    slots = [row for row in map(json.loads, rows) if row["event"] == "slot" and row["type"].endswith("JUMP_SLOT")]
    assert [row["state"] for row in slots] == ["unresolved"] * 3


@pytest.mark.parametrize("now", ["-z,now", "LD_BIND_NOW"])
def test_bindings_at_the_start_are_those_that_the_linker_reports(now: str, tmp_path: Path) -> None:
    flags = ("-Wl,-z,now",) if now == "-z,now" else ("-Wl,-z,lazy",)
    program = compiled(FULL_RELRO, tmp_path / "program", "-Wl,-z,relro", *flags)
    more = {"LD_BIND_NOW": "1"} if now == "LD_BIND_NOW" else {}
    watch, events = watched([str(program)], environment(tmp_path, **more))
    types = (JUMP_SLOT, GLOB_DAT, ABS64, COPY)
    names = {event.object: symbols(event.object, *types) for event in events if isinstance(event, Object)}
    linker = next(
        os.path.realpath(event.object) for event in events if isinstance(event, Object) and event.binding == "linker"
    )
    seen = {
        (event.object, event.target_object, event.symbol)
        for event in events
        if isinstance(event, Bind) and event.how in ("startup", "copy", "lazy") and event.object != linker
    }
    reported = {
        key for key in bindings(tmp_path, watch.pid, str(program)) if key[2] in names.get(key[0], ()) and key[0] != linker
    }
    assert seen == reported
    assert len([key for key in seen if key[0] == str(program)]) >= 3
    assert any(isinstance(event, Resolver) for event in events) == (now == "-z,now")  # libc is bound lazily unless told
