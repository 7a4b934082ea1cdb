"""`reflective stack` against what the program itself would see, by the kernel and by reflective; and the session's phases."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from skips import needs

from reflective.errors import SessionError
from reflective.native.system import environment
from reflective.plan.build import build
from reflective.proc import maps
from reflective.trace.session import PHASES, Session
from reflective.trace.starts import Program

COMMAND = (sys.executable, "-m", "reflective", "stack")
ENVIRONMENT = {"A": "1", "EMPTY": "", "ODD": "\x1b[31m\udcff"}
VIA = ("kernel", "reflective")


def stack(
    *words: str | Path, before: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, *COMMAND, *words], capture_output=True, text=True, check=False, timeout=30, env=env)


def records(via: str, *words: str | Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    done = stack("--json", "--via", via, *words, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["schema"] for row in rows} == {"reflective.stack/1"}
    return [row for row in rows if row["record"] == "item"], rows[-1]


@pytest.mark.parametrize("via", VIA)
def test_items(via: str) -> None:
    items, registers = records(via, "/bin/ls", "one", "")
    texts = {
        kind: [item["text"] for item in reversed(items) if item["kind"] == kind] for kind in {item["kind"] for item in items}
    }
    assert texts["argument"] == ["/bin/ls", "one", ""]
    assert texts["environment"] == [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    assert (texts["path"], texts["platform"], texts["argc"]) == (["/bin/ls"], ["x86_64"], ["3"])
    assert len(texts["argv"]) == len(texts["envp"]) == 4
    assert len(bytes.fromhex(texts["random"][0])) == 16
    assert items[-1]["address"] == registers["rsp"]
    assert items[0]["text"] == "zeros"
    assert {
        name: value for name, value in registers.items() if name in ("rax", "rbx", "rdx", "rdi", "rbp", "r11")
    } == dict.fromkeys(("rax", "rbx", "rdx", "rdi", "rbp", "r11"), 0)


@pytest.mark.parametrize("via", VIA)
def test_no_byte_is_left_out(via: str) -> None:
    items, _ = records(via, "/bin/ls")
    for above, below in itertools.pairwise(items):
        assert below["address"] + below["size"] == above["address"]
    assert (items[0]["address"] + items[0]["size"]) % 4096 == 0


def test_kernel_and_reflective_build_the_same() -> None:
    """Kinds, names, texts and sizes alike; but the random bytes, addresses, and how much was left out."""
    kept = [
        [
            (item["kind"], item["name"], item["text"], item["target"])
            for item in records(via, "/bin/ls", "x")[0]
            if item["kind"] not in ("random", "unused")
        ]
        for via in VIA
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("via", VIA)
def test_auxv_is_what_the_program_gets(via: str, tmp_path: Path) -> None:
    """The names and numbers that ld.so shows, of a program that no interpreter is needed for too."""
    items, _ = records(via, "/bin/true")
    vector = {item["name"]: item for item in items if item["kind"] == "auxv"}
    shown = subprocess.run(["/bin/true"], env={"LD_SHOW_AUXV": "1"}, capture_output=True, text=True, check=True).stdout
    expected = {line.partition(":")[0] for line in shown.splitlines() if "???" not in line}
    assert expected - {"AT_MINSIGSTKSZ", "AT_SYSINFO"} <= set(vector)
    assert vector["AT_PAGESZ"]["value"] == 4096
    assert vector["AT_ENTRY"]["target"].startswith(os.path.realpath("/bin/true"))
    assert "ld-linux" in vector["AT_BASE"]["target"]
    assert vector["AT_SYSINFO_EHDR"]["target"] == "[vdso]"
    assert vector["AT_RANDOM"]["target"] == "[stack]"


@pytest.mark.parametrize("via", VIA)
def test_text_has_no_control_characters(via: str) -> None:
    done = stack("--via", via, "/bin/ls", env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert '"ODD=\\x1b[31m\\xff"' in done.stdout
    lines = done.stdout.splitlines()
    assert "registers: rip 0x" in lines[-1]


@pytest.mark.parametrize("via", VIA)
def test_errors_are_one_line(via: str) -> None:
    done = stack("--via", via, "/no/such")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (127, "", 1)
    needs("strace", "strace")
    done = stack("--via", via, "/bin/ls", before=("strace", "-f", "-o", "/dev/null"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it is traced already, as this process is, by strace (" in done.stderr


def test_32_bit_program(tmp_path: Path) -> None:
    image = bytearray(Path("/bin/true").read_bytes())
    image[4], image[18] = 1, 3  # ELFCLASS32, EM_386
    (tmp_path / "old").write_bytes(image)
    (tmp_path / "old").chmod(0o755)
    done = stack(tmp_path / "old")
    assert (done.returncode, done.stderr.count("\n")) == (126, 1)
    assert "32-bit" in done.stderr


def program(*words: str | Path) -> Program:
    return Program(build(words[0]), tuple(os.fsencode(word) for word in words), environment())


def compiled(directory: Path, *options: str, compiler: str = "gcc") -> Path:
    (directory / "main.c").write_text(
        '#include <unistd.h>\nint main(int c, char **v) { (void)!write(1, "main\\n", 5); _exit(c > 1 ? 7 : 0); }'
    )
    subprocess.run([compiler, "main.c", "-o", "main", *options], cwd=directory, check=True)
    return directory / "main"


def address_of_main(path: Path) -> int:
    lines = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.endswith(" T main"))


@pytest.mark.parametrize("via", VIA)
@pytest.mark.parametrize(
    "options", [(), ("-static",), ("-static-pie",), ("-no-pie",)], ids=["pie", "static", "static-pie", "no-pie"]
)
def test_phases(via: str, options: tuple[str, ...], tmp_path: Path) -> None:
    path = compiled(tmp_path, *options)
    where = address_of_main(path)
    subprocess.run(["strip", path], check=True)
    with Session(program(path), via) as session:
        for phase in PHASES:
            if phase == "interpreter" and "-static" in " ".join(options):
                with pytest.raises(SessionError, match="has no interpreter"):
                    session.run_to(phase)
                continue
            session.run_to(phase)
            assert session.phase == phase
            if phase == "main":
                assert session.registers()["rip"] & 0xFFF == where & 0xFFF
                assert session.registers()["rdi"] == 1  # argc
            space = maps.read(session.pid)
            loader = [one for one in space if one.prot & 4 and not one.file and not one.path.startswith("[v")]
            assert len(loader) == (phase == "loader" and via == "reflective")
        with pytest.raises(SessionError, match="past main"):
            session.run_to("main")
        pid = session.pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("via", VIA)
@pytest.mark.parametrize("options", [(), ("-static",), ("-static-pie",), ("-no-pie",)], ids=lambda options: "".join(options))
def test_main_with_musl(via: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Its _start_c jumps to __libc_start_main."""
    path = compiled(tmp_path, *options, compiler="musl-gcc")
    where = address_of_main(path)
    subprocess.run(["strip", path], check=True)
    with Session(program(path), via) as session:
        session.run_to("main")
        assert session.registers()["rip"] & 0xFFF == where & 0xFFF
        assert session.registers()["rdi"] == 1  # argc


@pytest.mark.parametrize("via", VIA)
def test_a_session_leaves_no_breakpoint(via: str, tmp_path: Path) -> None:
    """Every byte of the code is as in the file, at main and at the exit."""
    path = compiled(tmp_path)
    code = path.read_bytes()
    with Session(program(path), via) as session:
        for phase in ("entry", "main", "exit"):
            session.run_to(phase)
            text = next(one for one in maps.read(session.pid) if one.path == str(path) and one.prot & 4)
            expected = code[text.offset : text.offset + text.end - text.start]
            assert session.read(text.start, len(expected)) == expected


def test_program_without_main() -> None:
    with (
        Session(program("/lib64/ld-linux-x86-64.so.2"), "kernel") as session,
        pytest.raises(SessionError, match="try --at entry"),
    ):
        session.run_to("main")


@pytest.mark.parametrize("via", VIA)
def test_program_that_ends_before(via: str, tmp_path: Path) -> None:
    path = tmp_path / "main"
    (tmp_path / "main.c").write_text("int answer(void); int main(void) { return answer(); }")
    (tmp_path / "lib.c").write_text("int answer(void) { return 42; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "lib.c", "-o", "liblib.so"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "main.c", "-o", "main", "-L.", "-llib"], cwd=tmp_path, check=True)
    with Session(program(path), via) as session, pytest.raises(SessionError, match="ended before entry"):
        session.run_to("entry")
