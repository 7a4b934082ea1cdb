"""The command got-watch: nothing of the watched program changes, and nothing is left behind; the alarm; the words."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gotprograms import compiled
from skips import needs
from support import PROGRAMS

from reflective.observe import got
from reflective.observe.got.events import Bind

GOT_WATCH = [sys.executable, "-m", "reflective", "got-watch"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
LAZY = ("-Wl,-z,lazy",)
MUSL = {"musl": (), "musl-static": ("-static",)}
HELLO = '#include <stdio.h>\nint main(int argc, char **argv) { printf("%d\\n", argc); return puts(argv[0]) < 0; }'
KINDS = {
    "fno-plt": (("-fno-plt", *LAZY), "no PLT slots (-fno-plt"),
    "now": (("-Wl,-z,now",), "linked with -z now"),
    "lazy": (LAZY, "PLT slots, each bound by its first call"),
    "norelro": ((*LAZY, "-Wl,-z,norelro"), "PLT slots, each bound by its first call"),
    "static": (("-static",), "static: no dynamic linker, no symbols; its own start-up code fills"),
    "static-pie": (("-static-pie", "-fPIE"), "static-PIE: no dynamic linker, no symbols; its own start-up code fills"),
}


def run(*words: str | Path, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [*GOT_WATCH, *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False, env={**ENVIRONMENT, **variables})


def events(directory: Path, *words: str | Path, status: int = 0, stdin: bytes = b"") -> list[dict[str, Any]]:
    done = run("--json", "-o", directory / "events", *words, stdin=stdin)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in (directory / "events").read_text().splitlines()]


def program(name: str, directory: Path, *flags: str) -> Path:
    return compiled((PROGRAMS / f"{name}.c").read_text(), directory / name, *flags)


def test_sixty_four_threads_that_bind_at_once(tmp_path: Path) -> None:
    path = program("threads", tmp_path, "-pthread", *LAZY)
    found = events(tmp_path, "--", path, status=7)
    lazy = Counter(event["symbol"] for event in found if event["event"] == "bind" and event["object"] == str(path))
    assert lazy["strdup"] >= 1
    assert not [event for event in found if event["event"] in ("write", "note")]
    assert run("--", path).stdout == b"64\n"


@pytest.mark.slow
def test_a_shell_that_forks_and_executes_is_followed(tmp_path: Path) -> None:
    script = "true | cat; ls / > /dev/null; (exit 3); echo $?; exec sh -c 'exit 5'"
    found = events(tmp_path, "--", "bash", "-c", script, status=5)
    kinds = Counter(event["event"] for event in found)
    assert kinds["exec"] == 4  # bash, which has a true of its own, cat, ls, sh
    assert kinds["exit"] == kinds["fork"] + 1
    assert not kinds["write"]
    assert run("--", "bash", "-c", script).stdout == b"3\n"


def test_vfork_shares_the_memory_of_its_parent(tmp_path: Path) -> None:
    found = events(tmp_path, "--", "/usr/bin/python3", "-S", "-c", "import subprocess; subprocess.run(['true'], check=True)")
    assert [event["shared"] for event in found if event["event"] == "fork"] == [True]
    assert [event["path"] for event in found if event["event"] == "exec"][1:] == ["/usr/bin/true"]


def test_traps_of_the_program_are_its_own(tmp_path: Path) -> None:
    done = run("--", program("traps", tmp_path, *LAZY))
    assert (done.returncode, done.stdout) == (0, b"12 2\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTRAP, signal.SIGSEGV])
def test_death_by_a_signal_is_passed_on(number: int) -> None:
    done = run("--", "sh", "-c", f"kill -{number} $$")
    assert done.returncode == -number


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--", "no-such-program"], 127, "not found in PATH"),
        (["-p", "4194303"], 1, "no process"),
        ([], 2, "a program or -p PID"),
        (["-p", "1", "true"], 2, "a program or -p PID"),
        (["--how", "late", "true"], 2, "'late' is none of"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], status: int, said: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr.count(b"\n")) == (status, 1), done.stderr
    assert said in done.stderr.decode()


@pytest.mark.parametrize("engine", ["c", "python"])
def test_what_can_not_be_attached_to_is_one_line(engine: str) -> None:
    def said(pid: int) -> str:
        done = run("--engine", engine, "-p", str(pid))
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
        return done.stderr.decode()

    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert "(a zombie)" in said(zombie)
    os.waitpid(zombie, 0)
    assert "there is no process" in said(zombie)
    assert "is a thread of the kernel" in said(2)
    with subprocess.Popen([*GOT_WATCH, "--json", "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin
        assert first.stdout
        cat = json.loads(first.stdout.readline())["pid"]
        assert f"is already traced by process {first.pid}" in said(cat)
        first.stdin.close()
        first.stdout.read()


def altered(pid: int) -> list[tuple[str, int]]:
    """Where a process's code differs from the files that it comes from."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if "x" not in fields[1] or len(fields) < 6 or not fields[5].startswith("/"):
            continue
        start, end = (int(word, 16) for word in fields[0].split("-"))
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(fields[5], "rb") as file:
            memory.seek(start)
            file.seek(int(fields[2], 16))
            here, there = memory.read(end - start), file.read(end - start)
        found += [(fields[5], at) for at, (one, other) in enumerate(zip(here, there, strict=False)) if one != other]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("ended_by", "status"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM), ("SIGHUP", -signal.SIGHUP)])
def test_attached_and_detached_nothing_is_left(ended_by: str, status: int) -> None:
    code = "import sys\nfor line in sys.stdin:\n exec(line)\n print('.', flush=True)"
    command = ["/usr/bin/python3", "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(line: str) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line.encode() + b"\n")
            assert process.stdout.readline() == b".\n"

        tell("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
        before = os.sched_getaffinity(process.pid)
        command = [*GOT_WATCH, "--how", "lazy", "--json", "-p", str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            lines = iter(watcher.stdout)
            assert any('"resolver"' in line for line in lines)
            assert altered(process.pid)
            tell("import zlib")
            assert any('"event": "bind", "how": "lazy"' in line for line in lines)
            tell("import os; pid = os.fork() or os._exit(0); os.waitpid(pid, 0)")
            watcher.send_signal(signal.Signals[ended_by])
            rest = [json.loads(line) for line in lines]
            assert watcher.wait(20) == status
        assert [event["event"] for event in rest].count("detach") == 2
        assert altered(process.pid) == []
        assert "TracerPid:\t0" in Path(f"/proc/{process.pid}/status").read_text()
        assert os.sched_getaffinity(process.pid) == before
        tell("import os; os.system('true'); import bz2")
        process.stdin.close()
        assert process.wait(20) == 0


def test_interrupt_ends_a_program_that_was_started(tmp_path: Path) -> None:
    with subprocess.Popen([*GOT_WATCH, "--json", "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        lines = iter(watcher.stdout)
        pid = next(json.loads(line)["pid"] for line in lines if b'"exec"' in line)
        assert any(b'"how": "lazy"' in line for line in lines)
        watcher.send_signal(signal.SIGINT)
        for _ in lines:
            pass
        assert watcher.wait(20) == -signal.SIGINT
    assert not Path(f"/proc/{pid}").exists()


def test_a_reader_that_goes_away_does_not_stop_the_program(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = [*GOT_WATCH, "--json", "--", "sh", "-c", f"ls / > {tmp_path}/out; exit 4"]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT) as watcher:
        os.close(writer)
        assert os.read(reader, 1) == b"{"
        os.close(reader)
        assert watcher.wait(20) == 4
        assert watcher.stderr is not None
        assert watcher.stderr.read() == b""
    assert "usr" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_program_gives_the_truth_in_words(kind: str, tmp_path: Path) -> None:
    flags, said = KINDS[kind]
    path = compiled(HELLO, tmp_path / "program", *flags)
    found = events(tmp_path, "--", path)
    note = next(event["note"] for event in found if event["event"] == "object" and event["object"] == str(path))
    assert said in note
    hows = {event["how"] for event in found if event["event"] == "bind" and event["object"] == str(path)}
    lazy, startup, irelative = ("lazy" in hows, "startup" in hows, "irelative" in hows)
    assert lazy == (kind in ("lazy", "norelro"))
    assert startup == (not kind.startswith("static"))
    assert irelative == kind.startswith("static")


@pytest.mark.parametrize("kind", MUSL)
def test_musl_binds_everything_at_the_start(kind: str, tmp_path: Path) -> None:
    path = compiled(HELLO, tmp_path / "program", *MUSL[kind], compiler="musl-gcc")
    found = events(tmp_path, "--", path)
    note = next(event["note"] for event in found if event["event"] == "object" and event["object"] == str(path))
    binds = {event["symbol"]: event["how"] for event in found if event["event"] == "bind" and event["object"] == str(path)}
    assert ("musl's linker knows no lazy binding" if kind == "musl" else "static: no dynamic linker") in note
    assert binds.get("puts") == ("startup" if kind == "musl" else None)


@pytest.mark.slow
def test_go_and_rust_programs_give_the_truth_in_words(tmp_path: Path) -> None:
    needs("go", "golang-go")
    needs("rustc", "rustc")
    (tmp_path / "hello.go").write_text('package main\nfunc main() { println("x") }\n')
    (tmp_path / "hello.rs").write_text('fn main() { println!("x"); }\n')
    variables = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", "go", "hello.go"], cwd=tmp_path, env=variables, check=True, timeout=120)
    subprocess.run(["rustc", "-o", "rust", "hello.rs"], cwd=tmp_path, check=True, timeout=120)
    notes = {}
    for name in ("go", "rust"):
        found = events(tmp_path, "--", tmp_path / name)
        notes[name] = next(one["note"] for one in found if one["event"] == "object" and one["object"] == str(tmp_path / name))
    assert "made by Go" in notes["go"]
    assert "-z now" in notes["rust"]


def attack(path: Path) -> bytes:
    """What to type to make the program's slot of exit point to its function win: two bytes, by printf's %hn."""
    symbols = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    relocations = subprocess.run(["readelf", "-rW", path], capture_output=True, text=True, check=True).stdout
    win = int(next(line.split()[0] for line in symbols.splitlines() if line.endswith(" win")), 16)
    slot = int(next(line.split()[0] for line in relocations.splitlines() if " exit@" in line), 16)
    probe = b"".join(b"%%%d$lx," % number for number in range(1, 60)) + b"  ABCDEFGH"
    probe = b"ABCDEFGH" + probe[: -len(b"  ABCDEFGH")]
    said = subprocess.run([path], input=probe, capture_output=True, check=False).stdout.removeprefix(b"ABCDEFGH").split(b",")
    index = said.index(b"4847464544434241") + 1
    text = b"%%%dc%%%d$hn" % (win & 0xFFFF, index + 3)
    return text.ljust(24, b".") + slot.to_bytes(8, "little")


@pytest.mark.parametrize("fails", [True, False])
def test_a_hijacked_slot_raises_the_alarm(fails: bool, tmp_path: Path) -> None:
    flags = ("-no-pie", "-fno-pie", "-U_FORTIFY_SOURCE", "-Wl,-z,lazy,-z,norelro")
    path = program("format", tmp_path, *flags)
    quiet = events(tmp_path, "--fail-on-hijack", "--", path, stdin=b"hello\n")
    assert not [event for event in quiet if event["event"] == "write"]
    words = ["--fail-on-hijack"] if fails else []
    found = events(tmp_path, *words, "--", path, stdin=attack(path), status=3 if fails else 42)
    (write,) = [event for event in found if event["event"] == "write"]
    assert (write["object"], write["symbol"], write["target_symbol"]) == (str(path), "exit", "win")
    assert "exports no exit" in write["why"]
    assert write["noticed"] == "at exit"
    assert write["before"] != write["after"]


def test_full_relro_stops_the_same_attack(tmp_path: Path) -> None:
    lazy = program("format", tmp_path, "-no-pie", "-fno-pie", "-U_FORTIFY_SOURCE", "-Wl,-z,lazy,-z,norelro")
    typed = attack(lazy)
    closed = program("format", tmp_path, "-no-pie", "-fno-pie", "-U_FORTIFY_SOURCE", "-Wl,-z,now,-z,relro")
    assert attack(closed) != typed
    found = events(tmp_path, "--fail-on-hijack", "--", closed, stdin=attack(closed), status=-signal.SIGSEGV)
    assert not [event for event in found if event["event"] == "write"]


@pytest.mark.slow
def test_summary_and_patterns(tmp_path: Path) -> None:
    path = compiled(HELLO, tmp_path / "program", *LAZY)
    table = run("--summary", "--", path).stderr.decode()
    assert re.search(r"^program +2 .* 2 +0 \(0%\) +2 PLT slots", table, re.M), table
    assert re.search(r"\d+ lazy bindings: \d+\.\d+ ms in the resolver", table)
    found = events(tmp_path, "--symbol", "put*", "--object", "program", "--", path)
    assert [event["symbol"] for event in found if event["event"] == "bind"] == ["puts"]
    (summary,) = events(tmp_path, "--summary", "--", path)
    assert summary["objects"][0]["lazy"] == 2
    assert shutil.which("program") is None


def _is(value: object, kind: str) -> bool:
    kinds = {"integer": int, "string": str, "boolean": bool, "array": list, "null": type(None)}
    return isinstance(value, kinds[kind]) and not (kind == "integer" and isinstance(value, bool))


def test_json_is_as_the_schema_says(tmp_path: Path) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "got.schema.json").read_text())
    known = {item["properties"]["event"]["const"]: item for item in schema["oneOf"]}
    seen = set()
    script = f"perl -MPOSIX -e 'print floor 1' > {tmp_path}/out & wait; kill -9 $$"
    for event in events(tmp_path, "--", "sh", "-c", script, status=-signal.SIGKILL):
        item = known[event["event"]]
        assert event.keys() == set(item["required"]) == item["properties"].keys()
        for name, value in event.items():
            kind = item["properties"][name].get("type", "string")
            assert any(_is(value, one) for one in (kind if isinstance(kind, list) else [kind])), (name, value)
        seen.add(event["event"])
    assert {"exec", "fork", "object", "relro", "resolver", "bind", "dlopen", "exit"} <= seen


def test_dlopen_and_dlclose_are_seen_and_their_slots_are_not_taken_for_written(tmp_path: Path) -> None:
    library = compiled(
        '#include <stdlib.h>\nint f(void) { return abs(atoi(getenv("PATH"))); }', tmp_path / "lib.so", "-shared", "-fPIC"
    )
    body = f'void *h = dlopen("{library}", RTLD_LAZY); int r = ((int (*)(void))dlsym(h, "f"))(); dlclose(h); sum += r;'
    source = f"#include <dlfcn.h>\nint main(void) {{ int sum = 0; for (int i = 0; i < 3; i++) {{ {body} }} return sum; }}"
    found = [
        event
        for event in events(tmp_path, "--", compiled(source, tmp_path / "program"))
        if event.get("object") == str(library)
    ]
    kinds = [event["event"] for event in found if event["event"] in ("dlopen", "dlclose", "write")]
    assert kinds == ["dlopen", "dlclose"] * 3
    lazy = [event["symbol"] for event in found if event["event"] == "bind" and event["how"] == "lazy"]
    assert lazy == ["getenv", "atoi"] * 3


def test_python_has_it_as_typed_events() -> None:
    watch = got.watch(["true"])
    binds = [event for event in watch if isinstance(event, Bind)]
    assert watch.status == 0
    assert {bind.how for bind in binds} >= {"lazy", "startup", "irelative"}
    early = got.watch(["sh", "-c", "sleep 100"])
    assert next(iter(early)).pid == early.pid
    early.close()
    os.kill(early.pid, signal.SIGKILL)
    assert os.waitpid(early.pid, 0)[1] == signal.SIGKILL


def test_a_caller_has_its_source_line_where_dwarf_is(tmp_path: Path) -> None:
    path = program("traps", tmp_path, "-g", *LAZY)
    text = (PROGRAMS / "traps.c").read_text().splitlines()
    for event in events(tmp_path, "--how", "lazy", "--object", "traps", "--", path):
        if event["event"] == "bind":
            line = int(event["caller_line"].rpartition(":")[2])
            assert event["symbol"] in text[line - 1]


def test_a_32_bit_child_is_said_not_to_be_watched(tmp_path: Path) -> None:
    source = 'void _start(void) { __asm__ volatile("mov $1, %eax; mov $3, %ebx; int $0x80"); }'
    path = compiled(source, tmp_path / "program", "-m32", "-nostdlib", "-static")
    found = events(tmp_path, "--", "sh", "-c", f"{path}; exit $?", status=3)
    assert [event["path"] for event in found if event["event"] == "exec"][1:] == [str(path)]
    assert any("x86 32" in event["words"] for event in found if event["event"] == "note")
    kinds = [event["event"] for event in events(tmp_path, "--", path, status=3)]
    assert kinds == ["exec", "note", "exit"]
    (tmp_path / "broken").write_bytes(b"\x7fELF".ljust(64, b"\0"))
    (tmp_path / "broken").chmod(0o755)
    done = run("--", tmp_path / "broken")
    assert (done.returncode, done.stdout, done.stderr.count(b"reflective: ")) == (126, b"", 1)


def test_output_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    done = run("--json", "-o", "/dev/full", "--", "sh", "-c", f"echo x > {tmp_path}/out")
    assert (done.returncode, done.stderr) == (1, b"reflective: the events can't be written: No space left on device\n")
    assert (tmp_path / "out").read_text() == "x\n"


@pytest.mark.parametrize("words", [["--json"], ["--summary", "--json"]])
def test_without_standard_output_is_one_line(words: list[str], tmp_path: Path) -> None:
    command = 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *GOT_WATCH, *words, "--", "sh", "-c", f"echo x > {tmp_path}/out"],
        stderr=subprocess.PIPE, check=False, timeout=60, env=ENVIRONMENT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"reflective: the events can't be written: Bad file descriptor\n")
    assert (tmp_path / "out").read_text() == "x\n"


def test_a_watch_that_is_closed_before_it_begins_lets_the_program_run() -> None:
    watch = got.watch(["sh", "-c", "exit 7"])
    watch.close()
    assert os.waitstatus_to_exitcode(os.waitpid(watch.pid, 0)[1]) == 7
