"""Who has overwritten a slot: a debug register on it names the very instruction and its callers, in both engines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gotprograms import compiled
from skips import needs
from support import PROGRAMS
from test_got_watch import ENVIRONMENT, GOT_WATCH, attack, events, program, run

LAZY = ("-O1", "-pthread", "-Wl,-z,lazy")
FORMAT = ("-no-pie", "-fno-pie", "-U_FORTIFY_SOURCE", "-Wl,-z,lazy,-z,norelro")
ENGINES = ("c", "python")


@pytest.fixture(scope="module")
def overwrites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled((PROGRAMS / "overwrites.c").read_text(), tmp_path_factory.mktemp("overwrites") / "overwrites", *LAZY)


def writes(directory: Path, *words: str | Path, letters: str, status: int = 9) -> list[dict[str, Any]]:
    found = events(directory, *words, stdin=letters.encode(), status=status)
    return [event for event in found if event["event"] == "write"]


def store(path: Path) -> tuple[int, int]:
    """Of the function overwrite: the link-time address of the instruction that stores, and how far it is behind the symbol."""
    needs("objdump", "binutils")
    text = subprocess.run(
        ["objdump", "-d", "--disassemble=overwrite", path], capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"^ +([0-9a-f]+):\t[0-9a-f ]+\t(mov .*)$", text, re.MULTILINE)
    (at,) = [int(address, 16) for address, words in rows if words.endswith(",(%rax)")]
    return at, at - int(text.partition(" <overwrite>:")[0].split()[-1], 16)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_store_is_named_with_its_callers(engine: str, overwrites: Path, tmp_path: Path) -> None:
    guard = ("--engine", engine, "--guard", "getpid", "--", overwrites)
    hijack, back = writes(tmp_path, *guard, letters="cor")
    assert [one["writer_object"] for one in (hijack, back)] == [str(overwrites)] * 2
    at, offset = store(overwrites)
    for one in (hijack, back):
        assert (one["writer_symbol"], one["writer_offset"], one["noticed"]) == ("overwrite", offset, "at the write")
        assert one["writer"] & 0xFFF == at & 0xFFF
        assert "%rax" in one["instruction"]
        frames = [frame["symbol"] for frame in one["stack"]]
        assert (frames[0], frames[-1]) == ("main", "_start")
    assert (hijack["target_symbol"], back["target_symbol"]) == ("impostor", "getpid")
    assert "exports no getpid" in hijack["why"]
    assert "not the dynamic linker" in back["why"]


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_and_children_are_guarded_too(engine: str, overwrites: Path, tmp_path: Path) -> None:
    guard = ("--engine", engine, "--guard", "getpid", "--", overwrites)
    (thread,) = writes(tmp_path, *guard, letters="ct")
    assert thread["tid"] != thread["pid"]
    assert (thread["writer_symbol"], thread["stack"][0]["symbol"]) == ("overwrite", "in_a_thread")
    (child,) = writes(tmp_path, *guard, letters="f")
    assert child["writer_symbol"] == "overwrite"
    first = json.loads((tmp_path / "events").read_text().splitlines()[0])
    assert child["pid"] != first["pid"]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_kernel_writes_has_no_writer_and_the_words_say_so(engine: str, overwrites: Path, tmp_path: Path) -> None:
    (one,) = writes(tmp_path, "--engine", engine, "--guard", "getpid", "--", overwrites, letters="k")
    assert (one["writer"], one["writer_object"], one["stack"], one["noticed"]) == (None, "", [], "at exit")
    assert "no instruction has written it: the kernel has" in one["why"]
    assert one["since"] == "at the entry point"
    assert 0 < one["since_ns"] < one["t_ns"]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_linker_writes_is_no_alarm(engine: str, overwrites: Path, tmp_path: Path) -> None:
    found = events(
        tmp_path, "--engine", engine, "--fail-on-hijack", "--guard", "getpid", "--", overwrites, stdin=b"ccf", status=3
    )
    assert [event["symbol"] for event in found if event.get("how") == "lazy" and event["symbol"] == "getpid"] == ["getpid"]
    parent = next(event["pid"] for event in found if event["event"] == "exec")
    assert not [event for event in found if event["event"] == "write" and event["pid"] == parent]


def test_without_a_disassembler_the_instruction_is_found_by_its_length(overwrites: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['capstone'] = None; from reflective.cli import got_watch; sys.exit(got_watch())"
    command = [
        sys.executable,
        "-c",
        code,
        "--guard",
        "getpid",
        "--json",
        "-o",
        str(tmp_path / "events"),
        "--",
        str(overwrites),
    ]
    assert subprocess.run(command, input=b"o", capture_output=True, timeout=60, check=False).returncode == 9
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    (one,) = [event for event in found if event["event"] == "write"]
    at, offset = store(overwrites)
    assert (one["writer"] & 0xFFF, one["writer_offset"]) == (at & 0xFFF, offset)
    assert bytes.fromhex(one["instruction"]) == overwrites.read_bytes()[at : at + len(bytes.fromhex(one["instruction"]))]


def test_without_a_guard_the_interval_is_told(overwrites: Path, tmp_path: Path) -> None:
    (one,) = writes(tmp_path, "--", overwrites, letters="co")
    assert (one["writer"], one["noticed"], one["since"]) == (None, "at exit", "at its lazy binding")
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    (bound,) = [event for event in found if event.get("how") == "lazy" and event["symbol"] == "getpid"]
    assert one["since_ns"] == bound["t_ns"]


def test_an_overwritten_slot_is_noticed_before_execve_takes_the_evidence_away(overwrites: Path, tmp_path: Path) -> None:
    (one,) = writes(tmp_path, "--fail-on-hijack", "--", overwrites, letters="oe", status=3)
    assert (one["noticed"], one["target_symbol"]) == ("at a call of execve", "impostor")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_running_process_is_guarded_and_left_without_guards(engine: str, overwrites: Path) -> None:
    with subprocess.Popen([overwrites], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:

        def tell(letter: bytes) -> None:
            assert process.stdin
            assert process.stdout
            process.stdin.write(letter)
            assert process.stdout.read(1) == letter

        tell(b"c")
        command = [*GOT_WATCH, "--engine", engine, "--guard", "getpid", "--json", "-p", str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout
            assert any('"resolver"' in line for line in watcher.stdout)
            tell(b"t")
            write = next(json.loads(line) for line in watcher.stdout if '"write"' in line)
            watcher.send_signal(signal.SIGINT)
            watcher.stdout.read()
            assert watcher.wait(30) == 0
        assert (write["pid"], write["writer_symbol"]) == (process.pid, "overwrite")
        tell(b"r")  # a debug register that was left would kill it
        tell(b"t")
        assert process.stdin
        process.stdin.close()
        assert process.wait(30) == 9


def test_the_format_string_attack_is_traced_to_the_call_of_printf(tmp_path: Path) -> None:
    path = program("format", tmp_path, *FORMAT)
    found = events(tmp_path, "--guard", "exit", "--fail-on-hijack", "--", path, stdin=attack(path), status=3)
    (write,) = [event for event in found if event["event"] == "write"]
    assert write["writer_object"].endswith("/libc.so.6")
    callers = [(Path(frame["object"]).name, frame["symbol"]) for frame in write["stack"]]
    assert callers.index(("libc.so.6", "printf")) + 1 == callers.index(("format", "main"))
    verify = [*GOT_WATCH, "--verify", "exit", "--json", "--", str(path)]
    said = subprocess.run(verify, input=attack(path), capture_output=True, check=False, timeout=60).stdout
    known = [json.loads(line) for line in re.findall(rb'{"schema".*}$', said, re.MULTILINE)]  # behind what printf wrote
    (same,) = [event for event in known if event["how"] == "write"]
    assert [same[name] for name in ("writer_symbol", "writer_offset", "instruction", "after")] == [
        write[name] for name in ("writer_symbol", "writer_offset", "instruction", "after")
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_run_finds_the_writer(engine: str, tmp_path: Path) -> None:
    path = program("format", tmp_path, *FORMAT)
    (tmp_path / "attack").write_bytes(b"skipped" + attack(path))
    with (tmp_path / "attack").open("rb") as file:
        file.seek(len("skipped"))
        done = subprocess.run(
            [*GOT_WATCH, "--engine", engine, "--writer", "--json", "-o", tmp_path / "events", "--", path],
            stdin=file, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (42, b"")
    assert done.stdout.count(b"hijacked\n") == 2
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    first, second = [event for event in found if event["event"] == "write"]
    assert (first["writer"], first["noticed"]) == (None, "at exit")
    assert (second["slot"], second["after"]) == (first["slot"], first["after"])
    assert second["pid"] != first["pid"]
    assert ("format", "main") in [(Path(frame["object"]).name, frame["symbol"]) for frame in second["stack"]]


def test_a_second_run_that_goes_otherwise_says_so(tmp_path: Path) -> None:
    first_time = f'if (mkdir("{tmp_path}/been", 0700)) return 9; slot = find();'
    source = "#include <sys/stat.h>\n" + (PROGRAMS / "overwrites.c").read_text().replace("slot = find();", first_time)
    (tmp_path / "letters").write_bytes(b"o")
    with (tmp_path / "letters").open("rb") as file:
        command = [*GOT_WATCH, "--writer", "--", str(compiled(source, tmp_path / "program", *LAZY))]
        done = subprocess.run(command, stdin=file, capture_output=True, check=False, timeout=60, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (9, b"o")
    assert done.stderr.count(b"HIJACK program getpid") == 1
    assert b"this time nothing was seen to write program getpid" in done.stderr


def test_five_slots_are_one_too_many(overwrites: Path, tmp_path: Path) -> None:
    names = ("getpid", "abort", "fork", "wait", "pipe")
    guards = [word for name in names for word in ("--guard", name)]
    found = events(tmp_path, *guards, "--", overwrites, status=9)
    notes = [event["words"] for event in found if event["event"] == "note"]
    assert len(notes) == 1
    assert "no debug register is left" in notes[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--writer", "-p", "1"], "can't be; --guard SYMBOL"),
        (["--guard", "x", "--engine=uprobe", "true"], "not with --engine=uprobe"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert said in done.stderr.decode()


def test_a_pipe_can_not_be_read_twice() -> None:
    done = run("--writer", "true", stdin=b"x")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"must be a file (< FILE) or a terminal, not a pipe" in done.stderr
