"""Who writes a slot: the dynamic linker at start and at a first call, or the program; in threads, too."""

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
from skips import needs
from test_got_list import LAZY, build, namespace

from reflective.cli.got_verify import verify
from reflective.errors import SessionError
from reflective.plan.build import search
from reflective.trace.session import ENTRY, Session
from reflective.trace.starts import KERNEL, Program
from reflective.trace.watchpoint import Watchpoint

COMMAND = """
import argparse, sys
blocked = sys.argv[1] == "without"
if blocked:
    sys.modules["capstone"] = None
from reflective.cli.got_verify import verify
sys.exit(verify(argparse.Namespace(
    pid=None, verify=sys.argv[2], program=sys.argv[3], arguments=sys.argv[4:], json=not blocked, color="never")))
"""
NOW = ("-pie", "-fPIE", "-Wl,-z,now")
LINKER = "/ld-linux-x86-64.so.2"


def under(symbol: str, *argv: Path | str, letters: str = "", capstone: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, "with" if capstone else "without", symbol, *argv]
    return subprocess.run(command, input=letters, capture_output=True, text=True, timeout=60, check=False)


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def disassembled(program: Path, symbol: str) -> list[tuple[int, bytes, str]]:
    """binutils' view of a function: link-time address, bytes, instruction."""
    needs("objdump", "binutils")
    text = subprocess.run(
        ["objdump", "-d", "--insn-width=15", f"--disassemble={symbol}", str(program)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = re.findall(r"^ +([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t?(.*)$", text, re.MULTILINE)
    return [(int(address, 16), bytes.fromhex(code), words.strip()) for address, code, words in rows]


@pytest.mark.parametrize("flags", [LAZY, ("-no-pie", "-fno-pie", "-Wl,-z,lazy")])
def test_the_first_call_and_a_write_by_the_program(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = build(tmp_path, *flags)
    done = under("puts", program, letters="hohd")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line[:1] != "{"] == [
        "ready", "hello", "overwritten", "impostor: hello", "overwritten",
    ]  # fmt: skip
    found = events(done)
    *startup, lazy, hijack, data = found
    assert [event["how"] for event in startup] in ([], ["startup"])  # without a bias there is nothing to relocate
    assert [event["how"] for event in (lazy, hijack, data)] == ["lazy", "write", "write"]
    assert all(event["writer_object"].endswith(LINKER) for event in (*startup, lazy))
    assert lazy["target_symbol"] == "puts@GLIBC_2.2.5"
    assert [event["before"] for event in found[1:]] == [event["after"] for event in found[:-1]]

    bias = lazy["slot"] - int(_slot_of(program, "puts"), 16)
    [store] = [row for row in disassembled(program, "overwrite") if row[2].startswith("mov ") and row[2].endswith(")")]
    for event in (hijack, data):
        assert (event["writer"] - bias, bytes.fromhex(event["bytes"])) == store[:2]
        assert (event["writer_object"], event["writer_symbol"]) == (str(program), "overwrite")
        assert event["instruction"].startswith("mov")
        assert event["stack"][0]["symbol"] == "main"
    assert (hijack["target_symbol"], data["target_symbol"].partition(".")[0]) == ("impostor", "data")
    calls = [at + len(code) for at, code, words in disassembled(program, "main") if "puts@plt" in words]
    assert lazy["caller"] - bias in calls
    assert (lazy["caller_object"], lazy["caller_symbol"]) == (str(program), "main")


def _slot_of(program: Path, symbol: str) -> str:
    text = subprocess.run(["readelf", "-rW", str(program)], capture_output=True, text=True, check=True).stdout
    [place] = [line.split()[0] for line in text.splitlines() if f" {symbol}@" in line]
    return place


def test_a_slot_that_is_bound_at_start(tmp_path: Path) -> None:
    program = build(tmp_path, *NOW)
    [event] = events(under("puts@GLIBC_2.2.5", program, letters="hh"))
    assert (event["how"], event["target_symbol"], event["caller"]) == ("startup", "puts@GLIBC_2.2.5", None)
    assert event["writer_object"].endswith(LINKER)
    assert len(bytes.fromhex(event["bytes"])) <= 15


def test_without_a_disassembler_the_bytes_are_shown(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    done = under("puts", program, letters="o", capstone=False)
    [store] = [
        code for _, code, words in disassembled(program, "overwrite") if words.startswith("mov ") and words.endswith(")")
    ]
    assert re.search(rf"write: slots overwrite.*  ends with [0-9a-f ]*{store.hex(' ')} \(pip install", done.stderr)
    assert "written 2 times" in done.stderr
    assert done.stdout == "ready\noverwritten\n"


def test_every_thread_is_watched(tmp_path: Path) -> None:
    (tmp_path / "threads.c").write_text(
        "#include <pthread.h>\n#include <stdio.h>\n#include <stdint.h>\n"
        "static void *work(void *text) { puts(text); return NULL; }\n"
        "int main(void) { for (int i = 0; i < 20; i++) { pthread_t one;\n"
        'pthread_create(&one, 0, work, "thread"); pthread_join(one, 0); } return 5; }'
    )
    program = tmp_path / "threads"
    subprocess.run(["gcc", "-O1", *LAZY, "-pthread", str(tmp_path / "threads.c"), "-o", str(program)], check=True)
    done = under("puts", program)
    assert done.returncode == 5
    assert done.stdout.count("thread\n") == 20
    startup, lazy = events(done)
    assert lazy["how"] == "lazy"
    assert lazy["tid"] != lazy["pid"] == startup["tid"]
    assert lazy["caller_symbol"] == "work"


def test_a_string_instruction_is_found(tmp_path: Path) -> None:
    (tmp_path / "movs.c").write_text(
        "#include <stdio.h>\n#include <link.h>\nextern ElfW(Dyn) _DYNAMIC[];\n"
        "int main(void) { static void *from[4]; void *to = NULL; long count = 4;\n"
        "for (ElfW(Dyn) *d = _DYNAMIC; d->d_tag; d++) if (d->d_tag == DT_PLTGOT) to = (void **)d->d_un.d_ptr + 3;\n"
        '__asm__ volatile("movs_here: rep movsq" : "+D"(to), "+c"(count) : "S"(from) : "memory");\n'
        'return from[0] == to ? puts("") : 0; }'
    )
    program = tmp_path / "movs"
    subprocess.run(["gcc", "-O1", *LAZY, str(tmp_path / "movs.c"), "-o", str(program)], check=True)
    _, event = events(under("puts", program))
    assert (event["how"], event["bytes"], event["after"]) == ("write", "f348a5", 0)


def test_what_the_kernel_writes_is_seen_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "kernel.c").write_text(
        "#include <stdio.h>\n#include <link.h>\n#include <unistd.h>\nextern ElfW(Dyn) _DYNAMIC[];\n"
        'int other(const char *text) { return printf("other %s\\n", text); }\n'
        "int main(void) { int ends[2]; void *to = NULL, *with = other;\n"
        "for (ElfW(Dyn) *d = _DYNAMIC; d->d_tag; d++) if (d->d_tag == DT_PLTGOT) to = (void **)d->d_un.d_ptr + 3;\n"
        "if (pipe(ends) || write(ends[1], &with, 8) != 8) return 1;\n"
        'puts("hello"); if (read(ends[0], to, 8) != 8) return 2; puts("hello"); return 0; }'
    )
    program = tmp_path / "kernel"
    subprocess.run(["gcc", "-O1", *LAZY, str(tmp_path / "kernel.c"), "-o", str(program)], check=True)
    done = under("puts", program)
    assert "hello\nother hello\n" in re.sub("{.*\n", "", done.stdout)
    found = events(done)
    assert [event["how"] for event in found] == ["startup", "lazy", "unseen"]
    assert found[2]["before"] == found[1]["after"] != found[2]["after"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('__asm__("int3");', -signal.SIGTRAP),
        ("abort();", -signal.SIGABRT),
        ("raise(SIGCHLD); signal(SIGUSR1, SIG_IGN); raise(SIGUSR1); exit(9);", 9),
        ('execl("/bin/sh", "sh", "-c", "exit 4", NULL);', 4),
        ('if (fork() == 0) { puts("child"); fflush(stdout); _exit(1); } int s; wait(&s); exit(WEXITSTATUS(s) + 1);', 2),
    ],
)
def test_signals_and_ends_are_the_programs_own(tmp_path: Path, body: str, status: int) -> None:
    (tmp_path / "ends.c").write_text(
        "#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\n"
        f"int main(int argc, char **argv) {{ if (argc > 0) {{ {body} }} puts(argv[argc - 1]); return 77; }}"
    )
    program = tmp_path / "ends"
    subprocess.run(["gcc", "-O1", *LAZY, str(tmp_path / "ends.c"), "-o", str(program)], check=True)
    assert under("puts", program).returncode == status


def test_leaving_early_leaves_nothing_behind() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    program = Program(search("/bin/sh", []), (b"sh", b"-c", b"echo; exec sleep 100"), (b"PATH=/bin",))
    with Session(program, KERNEL) as session:
        session.run_to(ENTRY)
        top = session.registers()["rsp"] - 8 & -8
        watch = Watchpoint(session.hand_over(), top, 0x1000, started=True)
        for _ in watch:  # the first push
            break
    assert os.WTERMSIG(watch.status) == signal.SIGKILL
    assert not os.path.exists(f"/proc/{watch.pid}")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(watch.pid, 0)


def test_what_can_not_be_watched(tmp_path: Path) -> None:
    program = build(tmp_path, *LAZY)
    with pytest.raises(SessionError, match="slots has no slot for nothing: --list shows"):
        verify(namespace(str(program), verify="nothing"))
    with pytest.raises(ValueError, match="is no symbol"):
        verify(namespace(str(program), verify="a:b:c"))
    with pytest.raises(SessionError, match="needs a program that it starts"):
        verify(namespace(pid=1, verify="puts"))


def test_a_librarys_slot(tmp_path: Path) -> None:
    (tmp_path / "library.c").write_text('#include <stdio.h>\nvoid greet(void) { puts("hello"); }')
    (tmp_path / "main.c").write_text("void greet(void);\nint main(void) { greet(); return 0; }")
    library, program = tmp_path / "libgreet.so", tmp_path / "main"
    flags = ["-O1", "-Wl,-z,lazy"]
    subprocess.run(["gcc", *flags, "-shared", "-fPIC", str(tmp_path / "library.c"), "-o", str(library)], check=True)
    search_path = [f"-L{tmp_path}", "-lgreet", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), *search_path, "-o", str(program)], check=True)
    [event] = events(under("libgreet.so:puts", program))
    # Compiled at -O1 the call is a call, at -O2 a jump: then main would be the caller.
    assert (event["how"], event["object"], event["caller_symbol"]) == ("lazy", str(library), "greet")
