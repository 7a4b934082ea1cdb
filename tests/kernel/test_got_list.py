"""All slots of a process: against LD_DEBUG's bindings, in programs linked in every way, and hijacked."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from skips import needs
from support import PROGRAMS

from reflective.cli import got_list
from reflective.errors import SessionError
from reflective.observe.got.listing import (
    BOUND,
    COPIED,
    FULL,
    IFUNC,
    NO_RELRO,
    NOT_YET,
    ODD,
    PARTIAL,
    UNDEFINED,
    UNREADABLE,
    UNRESOLVED,
    Entry,
    Listing,
)
from reflective.proc.loaded import VDSO

LAZY = ("-pie", "-fPIE", "-Wl,-z,lazy")
BINDING = re.compile(r"binding file (.+) \[0\] to (.+) \[0\]: normal symbol `(\S+)'")
DIES = 20


def build(directory: Path, *flags: str, compiler: str = "gcc", source: str = "slots.c") -> Path:
    """A program of tests/programs."""
    needs(compiler, {"musl-gcc": "musl-tools"}.get(compiler, "gcc"))
    target = directory / "slots"
    command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", *flags, str(PROGRAMS / source), "-o", str(target)]
    subprocess.run(command, check=True, timeout=60)
    return target


@contextmanager
def running(*argv: str | Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has written its first line, and waits for its stdin."""
    variables = {**os.environ, **environment}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, bufsize=0) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[bytes], letter: str) -> str:
    """What it answers to a letter."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(letter.encode())
    return process.stdout.readline().decode().strip()


def slot(found: Listing, symbol: str, path: Path | str) -> Entry:
    """The one slot of a symbol in an object."""
    [entry] = [one for one in found.entries if one.slot.symbol == symbol and one.object == str(path) and one.kind != "COPY"]
    return entry


def namespace(*words: str, **values: object) -> argparse.Namespace:
    """What the option parser makes of them."""
    program = {"program": words[0] if words else None, "arguments": list(words[1:])}
    return argparse.Namespace(**{"pid": None, "json": True, "color": "never", **program, **values})


SCRIPTS = {
    "python3": ("-c", "import ssl, sqlite3; print('ready', flush=True); input()"),
    "perl": ("-MPOSIX", "-e", "$| = 1; print qq(ready\\n); my $line = <STDIN>;"),
    "bash": ("-c", "echo ready; read line"),
}


@pytest.mark.parametrize("name", ["python3", "perl", "bash"])
def test_what_is_bound_is_what_the_dynamic_linker_says(name: str, tmp_path: Path) -> None:
    program = "/usr/bin/python3" if name == "python3" else shutil.which(name)
    if program is None or not os.path.exists(program):
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    with running(program, *SCRIPTS[name], LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(tmp_path / "log")) as process:
        found = got_list.look(process.pid)
    said: dict[tuple[str, str], set[str]] = {}
    for origin, target, symbol in BINDING.findall((tmp_path / f"log.{process.pid}").read_text()):
        said.setdefault((_file(origin, program), symbol), set()).add(_file(target, program))
    bound = {(_file(one.object, program), one.slot.symbol): one for one in found.entries if one.state == BOUND}
    assert len(bound) > 150
    for key, entry in bound.items():
        assert entry.target is not None
        # glibc's resolvers of time and gettimeofday pick the vdso's.
        assert entry.target.object == VDSO or _file(entry.target.object, program) in said[key], key
    for one in found.entries:
        if one.state in (UNRESOLVED, UNDEFINED) and one.slot.type != 5:
            key = (_file(one.object, program), one.slot.symbol)
            assert key not in said or key in bound, key
    assert not [one for one in found.entries if one.state in (ODD, NOT_YET, UNREADABLE)]


def _file(path: str, program: str) -> str:
    """The same for the ways in which the linker, the kernel and we name a file."""
    return os.path.realpath(program if path in (program, os.path.basename(program)) else path)


@pytest.mark.parametrize(
    ("flags", "compiler", "before", "after", "relro"),
    [
        (LAZY, "gcc", UNRESOLVED, BOUND, PARTIAL),
        (("-no-pie", "-fno-pie", "-Wl,-z,lazy"), "gcc", UNRESOLVED, BOUND, PARTIAL),
        (("-pie", "-fPIE", "-Wl,-z,lazy", "-Wl,-z,norelro"), "gcc", UNRESOLVED, BOUND, NO_RELRO),
        (("-pie", "-fPIE", "-Wl,-z,now"), "gcc", BOUND, BOUND, FULL),
        (("-pie", "-fPIE", "-fno-plt", "-Wl,-z,lazy"), "gcc", BOUND, BOUND, FULL),
        (("-Wl,-z,lazy",), "musl-gcc", BOUND, BOUND, PARTIAL),
    ],
)
def test_a_slot_before_and_after_its_first_call(
    tmp_path: Path, flags: tuple[str, ...], compiler: str, before: str, after: str, relro: str
) -> None:
    program = build(tmp_path, *flags, compiler=compiler)
    with running(program) as process:
        first = got_list.look(process.pid)
        assert tell(process, "h") == "hello"
        second = got_list.look(process.pid)
    assert [slot(first, "puts", program).state, slot(second, "puts", program).state] == [before, after]
    entry, [mine] = slot(second, "puts", program), [one for one in second.objects if one.path == str(program)]
    assert entry.target is not None
    assert entry.target.symbol.partition("@")[0] == "puts"
    assert entry.target.offset == 0
    assert (mine.relro, mine.closed) == (relro, None if relro == NO_RELRO else True)
    assert entry.writable == (relro != FULL)
    assert not [one for one in second.entries if one.state in (ODD, NOT_YET, UNREADABLE)]
    if before == UNRESOLVED:
        entry = slot(first, "puts", program)
        assert entry.value == entry.slot.file + entry.bias
        assert entry.target is not None
        assert entry.target.symbol == "puts@plt"


@pytest.mark.parametrize(("flags", "most"), [(("-static-pie", "-fPIE"), IFUNC), (("-static", "-no-pie", "-fno-pie"), IFUNC)])
def test_a_static_program_has_only_irelative_slots(tmp_path: Path, flags: tuple[str, ...], most: str) -> None:
    source = tmp_path / "program.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("ready"); fflush(stdout); return getchar(); }')
    subprocess.run(["gcc", *flags, str(source), "-o", str(tmp_path / "program")], check=True, timeout=60)
    with running(tmp_path / "program") as process:
        found = got_list.look(process.pid)
    [one] = found.objects
    assert (one.note, one.slots) == ("", len(found.entries))
    assert {entry.state for entry in found.entries} == {most}
    assert any(entry.target and "strlen" in entry.target.symbol for entry in found.entries)


def test_a_static_program_without_slots_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "none.c"
    source.write_text('void _start(void) { for (;;) __asm__ volatile("mov $34, %eax; syscall"); }')  # pause
    subprocess.run(["gcc", "-nostdlib", "-static", str(source), "-o", str(tmp_path / "none")], check=True, timeout=60)
    assert got_list.show_list(namespace(str(tmp_path / "none"), at="entry", json=False)) == 0
    assert "static: nothing to bind" in capsys.readouterr().out


def test_slots_written_by_the_program_itself_are_found(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        assert tell(process, "o") == "overwritten"
        entry = slot(got_list.look(process.pid), "puts", program)
        assert (entry.state, entry.why) == (ODD, "slots exports no puts at that address")
        assert entry.target is not None
        assert (entry.target.object, entry.target.symbol, entry.target.offset) == (str(program), "impostor", 0)
        assert tell(process, "d") == "overwritten"
        entry = slot(got_list.look(process.pid), "puts", program)
        assert (entry.state, entry.why) == (ODD, "it points to no code")


def test_before_relocation_nothing_is_bound_and_relro_is_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = build(tmp_path, "-pie", "-fPIE", "-Wl,-z,now")
    seen = {}
    for phase in ("interpreter", "entry"):
        assert got_list.show_list(namespace(str(program), at=phase, symbol=["puts", "write"], object="slots")) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        seen[phase] = rows
        assert {row["schema"] for row in rows} == {"reflective.got/1"}
        assert [row["event"] for row in rows] == ["object", "slot", "slot"]
    assert [row["closed"] for rows in seen.values() for row in rows[:1]] == [False, True]
    assert [[row["state"] for row in rows[1:]] for rows in seen.values()] == [[NOT_YET] * 2, [BOUND] * 2]
    assert [row["target_symbol"] for row in seen["entry"][1:]] == ["puts@GLIBC_2.2.5", "write@GLIBC_2.2.5"]
    assert seen["entry"][1]["value"] > seen["entry"][1]["slot"]


def test_copied_data_and_the_librarys_slot_for_it(tmp_path: Path) -> None:
    program = build(tmp_path, "-no-pie", "-fno-pie", "-Wl,-z,lazy")
    with running(program) as process:
        found = got_list.look(process.pid)
    [copied] = [one for one in found.entries if one.object == str(program) and one.kind == "COPY"]
    assert (copied.slot.symbol, copied.state, copied.slot.size) == ("stdout", COPIED, 8)
    [there] = [one for one in found.entries if one.slot.symbol == "stdout" and one.object != str(program)]
    assert there.value == copied.address
    assert there.state == BOUND


def test_a_deleted_file_is_still_listed_or_said_to_be_gone(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        program.unlink()
        found = got_list.look(process.pid)
        [mine] = [one for one in found.objects if one.path.startswith(str(program))]
        assert mine.slots > 5 if os.geteuid() == 0 else "deleted or replaced" in mine.note


def test_a_file_that_is_merely_mapped_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import mmap; file = open('/bin/ls', 'rb'); view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
        "print('ready', flush=True); input()"
    )
    with running(sys.executable, "-c", code) as process:
        assert b"/ls" in Path(f"/proc/{process.pid}/maps").read_bytes()
        assert not [one for one in got_list.look(process.pid).objects if one.path.endswith("/ls")]


def test_the_process_is_neither_stopped_nor_traced(tmp_path: Path) -> None:
    needs("strace", "strace")
    program = build(tmp_path, *LAZY)
    code = "import sys; from reflective.cli import got_list; print(len(got_list.look(int(sys.argv[1])).entries))"
    with running(program) as process:
        command = ["strace", "-f", "-e", "trace=ptrace,kill,tgkill,tkill,pidfd_send_signal", sys.executable, "-c", code]
        done = subprocess.run([*command, str(process.pid)], capture_output=True, text=True, timeout=DIES * 3, check=True)
        assert int(done.stdout) > 100
        assert not re.search(r"ptrace\(|kill\(|signal\(", done.stderr), done.stderr
        assert tell(process, "h") == "hello"


def test_a_process_that_is_not_there() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(SessionError, match="no process"):
        got_list.show_list(namespace(pid=ended.pid))


def test_every_slot_and_object_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = build(tmp_path, *LAZY)
    with running(program) as process:
        tell(process, "o")
        assert got_list.show_list(namespace(pid=process.pid, json=False)) == 0
        text = capsys.readouterr().out
        found = got_list.look(process.pid)
    assert all(f"{one.path} at {one.bias:#x}, RELRO {one.relro}" in text for one in found.objects)
    assert all(f"{one.address:012x}" in text for one in found.entries)
    assert re.search(r"JUMP_SLOT +puts@GLIBC_2.2.5 +hijacked\? +\w{12}  slots impostor  slots exports no puts", text)
    assert re.search(r"JUMP_SLOT +__libc_start_main|GLOB_DAT +__libc_start_main@GLIBC_2.34 +bound", text)
