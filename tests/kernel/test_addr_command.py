"""`reflective addr` against what a program says of itself, against /proc/PID/maps, and against gdb."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from skips import needs

from reflective.elf import symbols

COMMAND = (sys.executable, "-m", "reflective", "addr")
PROGRAMS = Path(__file__).parents[1] / "programs"
LIBC = "libc.so.6"


class Running(NamedTuple):
    pid: int
    path: Path
    said: dict[str, int]


def addr(*words: str | int) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *(hex(word) if isinstance(word, int) and index else str(word) for index, word in enumerate(words))]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def rows(pid: int, *words: str | int) -> list[dict[str, Any]]:
    done = addr("--json", str(pid), *words)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["schema"] for row in found} == {"reflective.addr/1"}
    return found


def run(path: Path) -> Iterator[Running]:
    with subprocess.Popen([path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said: dict[str, int] = {}
        for line in child.stdout:
            name, _, value = line.partition(" ")
            if name == "ready\n":
                break
            if value:
                said[name] = int(value, 16)
        yield Running(child.pid, path, said)
        child.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("addr") / "addresses"
    subprocess.run(["gcc", "-g", "-O1", "-pthread", PROGRAMS / "addresses.c", "-o", path], check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def running(program: Path) -> Iterator[Running]:
    yield from run(program)


def test_names_mean_what_the_program_says(running: Running) -> None:
    said = running.said
    found = rows(running.pid, "main", "twice+0x4", "counter", f"{LIBC}:puts", "puts", "addresses:words")
    assert [row["address"] for row in found] == [
        said["main"], said["twice"] + 4, said["counter"], said["puts"], said["puts"], said["words"],
    ]  # fmt: skip
    assert [row["asked"] for row in found][:2] == ["main", "twice+0x4"]
    (again,) = rows(running.pid, f"{LIBC}+{found[3]['link_address']:#x}")
    assert again["address"] == said["puts"]


def test_addresses_are_named(running: Running) -> None:
    names = ("main", "twice", "puts", "counter", "words", "empty")
    found = dict(zip(names, rows(running.pid, *(running.said[name] for name in names)), strict=True))
    for name, row in found.items():
        assert row["symbol"] == name
        assert row["symbol_offset"] == (5000 if name == "empty" else 0)
    assert [found[name]["section"] for name in names] == [".text", ".text", ".text", ".data", ".rodata", ".bss"]
    assert found["puts"]["version"] == "GLIBC_2.2.5"
    assert found["main"]["source"] == str(PROGRAMS / "addresses.c")
    lines = (PROGRAMS / "addresses.c").read_text().splitlines()
    assert lines[found["main"]["source_line"] - 1] == "{"
    assert lines[found["main"]["source_line"] - 2] == "int main(void)"
    assert found["empty"]["source"] is None


def test_anonymous_memory_is_named(running: Running) -> None:
    said = running.said
    names = ("heap", "stack", "thread-stack", "thread-guard", "untouched", "vdso")
    found = dict(zip(names, rows(running.pid, *(said[name] for name in names)), strict=True))
    assert (found["heap"]["object"], found["stack"]["object"], found["vdso"]["object"]) == ("[heap]", "[stack]", "[vdso]")
    thread = said["thread-id"]
    assert found["thread-stack"]["what"] == f"stack of thread {thread}"
    guard = found["thread-guard"]  # a mapping of its own, or a guard region within the stack's (glibc 2.42)
    assert guard["what"] == f"guard of the stack of thread {thread}" or guard["page"]["guard"]
    assert found["untouched"]["what"] == "anonymous"


def test_the_vdso_has_symbols(running: Running) -> None:
    (row,) = rows(running.pid, "__vdso_clock_gettime")
    assert row["object"] == "[vdso]"
    assert row["address"] == running.said["vdso"] + row["link_address"]
    assert row["section"] == ".text"


def test_pages(running: Running) -> None:
    names = ("untouched", "touched", "puts", "heap", "counter")
    pages = {
        name: (row["page"], row["page_mapped"])
        for name, row in zip(names, rows(running.pid, *(running.said[name] for name in names)), strict=True)
    }
    assert not pages["untouched"][0]["present"]
    assert all(pages[name][0]["present"] for name in names if name != "untouched")
    assert pages["puts"][0]["file"]
    assert not any(pages[name][0]["file"] for name in ("touched", "heap"))
    if os.geteuid() == 0:
        assert [pages[name][1] for name in ("touched", "heap")] == [1, 1]
        assert pages["puts"][1] > 1  # this process's libc is the same file
        assert pages["puts"][0]["frame"]


def test_every_mapping(running: Running) -> None:
    """The first and the last byte of each line of /proc/PID/maps."""
    lines = Path(f"/proc/{running.pid}/maps").read_text().splitlines()
    asked: list[int] = []
    known = []
    for line in lines:
        place, flags, offset, _, inode, *path = line.split(None, 5)
        start, end = (int(part, 16) for part in place.split("-"))
        prot = sum(bit for letter, bit in zip("rwx", (1, 2, 4), strict=True) if letter in flags)
        for address in (start, end - 1):
            asked.append(address)
            at = int(offset, 16) + address - start if inode != "0" else None
            known.append((start, end, prot, at, *(path if inode != "0" else [])))
    found = rows(running.pid, *asked)
    mine = [
        (
            row["start"],
            row["end"],
            row["prot"],
            row["file_offset"],
            *([row["object"]] if row["file_offset"] is not None else []),
        )
        for row in found
    ]
    assert mine == known


def gdb(pid: int, *commands: str) -> list[str]:
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(pid), *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_symbols_are_those_of_gdb(running: Running) -> None:
    """In every executable mapping, here and there; of several names for one address each takes its own."""
    needs("gdb", "gdb")
    asked: list[int] = []
    for line in Path(f"/proc/{running.pid}/maps").read_text().splitlines():
        place, flags, *_ = line.split()
        if "x" in flags and "[" not in line:
            start, end = (int(part, 16) for part in place.split("-"))
            asked += range(start + 0x123, end, (end - start) // 12 | 1)
    printed = gdb(running.pid, *(f"info symbol {address:#x}" for address in asked))
    shown = [line for line in printed if " in section " in line or line.startswith("No symbol matches")]
    assert len(shown) == len(asked)
    compared = 0
    for row, line in zip(rows(running.pid, *asked), shown, strict=True):
        match = re.fullmatch(r"(\S+)(?: \+ (\d+))? in section (\S+?)(?: of (\S+))?", line)
        if not match:
            continue  # gdb knows nothing there; a symbol without a size may be all there is
        name, distance, section, _ = match.groups()
        known = symbols.of(row["object"]).named(name)
        assert (row["section"], known is not None) == (section, True), line
        assert known is not None
        assert known.value == row["link_address"] - int(distance or 0)
        assert row["symbol_offset"] == int(distance or 0)
        compared += 1
    assert compared > 20


def test_source_lines_are_those_of_gdb(running: Running) -> None:
    needs("gdb", "gdb")
    asked = [running.said[name] + more for name in ("main", "twice") for more in range(0, 12, 3)]
    printed = gdb(running.pid, *(f"info line *{address:#x}" for address in asked))
    shown = [re.match(r"Line (\d+) of \"([^\"]+)\"", line) for line in printed if line.startswith("Line ")]
    known = [(Path(match[2]).name, int(match[1])) for match in shown if match]
    assert [(Path(row["source"]).name, row["source_line"]) for row in rows(running.pid, *asked)] == known


def test_a_file_that_has_been_removed(program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "addresses"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    for one in run(copy):
        copy.unlink()
        (row,) = rows(one.pid, one.said["twice"])
        assert row["object"].endswith("(deleted)")
        if os.geteuid() == 0:
            assert (row["symbol"], row["segment_prot"]) == ("twice", "r-x")


def test_text(running: Running) -> None:
    done = addr(str(running.pid), "twice+2", "0x1000")
    assert done.returncode == 0
    assert "twice+0x2" in done.stdout
    assert re.search(r"source +\S+/addresses.c:\d+\n", done.stdout)
    assert re.search(r"segment +\d+ \(r-x\), section .text\n", done.stdout)
    assert re.search(r"memory +not mapped: 0x[0-9a-f]+ bytes below /", done.stdout)
    assert "\x1b[" not in done.stdout
    assert "\x1b[" in addr("--color=always", str(running.pid), "main").stdout


def test_what_is_known_is_said_beside_an_error(running: Running) -> None:
    done = addr(str(running.pid), "main", "nothing_of_that_name")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].endswith("main")
    assert done.stderr.startswith("reflective: nothing_of_that_name: no address, and no symbol")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["4194304", "main"], 1, "no process 4194304"),
        (["self", "main"], 2, "'self' is no process ID"),
        (["1"], 2, "required: ADDRESS"),
        ([str(os.getpid()), hex(1 << 64)], 1, "0x10000000000000000: an address has 64 bits"),
        ([str(os.getpid()), ""], 1, "'': no address, and no symbol ''"),
        ([str(os.getpid()), "nowhere.so:puts"], 1, "no such file is mapped"),
    ],
)
def test_errors(words: list[str], status: int, message: str) -> None:
    done = addr(*words)
    assert (done.returncode, message in done.stderr, done.stdout) == (status, True, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
