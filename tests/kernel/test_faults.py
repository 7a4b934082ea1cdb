"""What other user-space loaders get wrong: a test for each row of "What the others get wrong" in docs/kernel-parity.md."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from skips import SETS_EXE
from support import ENVIRONMENT, PROGRAMS

import reflective

AT_PHDR, AT_RANDOM, AT_EXECFN, AT_PLATFORM, AT_SYSINFO_EHDR, AT_BASE, AT_ENTRY = 3, 25, 31, 15, 33, 7, 9
ADDRESSES = {AT_PHDR, AT_RANDOM, AT_EXECFN, AT_PLATFORM, AT_SYSINFO_EHDR, AT_BASE, AT_ENTRY}
KINDS = {
    "dynamic": ("-pie", "-fPIE"),
    "no-pie": ("-no-pie", "-fno-pie"),
    "static": ("-static", "-no-pie", "-fno-pie"),
    "static-pie": ("-static-pie", "-fPIE"),
}
CAT = "/bin/cat"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """facts.c, of each kind."""
    directory = tmp_path_factory.mktemp("facts")
    for kind, flags in KINDS.items():
        subprocess.run(["gcc", "-O1", *flags, PROGRAMS / "facts.c", "-o", directory / kind], check=True)
    return {kind: directory / kind for kind in KINDS}


def both(argv: Sequence[Any], **keywords: Any) -> tuple[bytes, bytes]:
    """What it prints natively, and what by reflective. It succeeds both ways."""
    keywords = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "check": True, "timeout": 20, **keywords}
    return subprocess.run(argv, **keywords).stdout, reflective.run(argv, **keywords).stdout


def assert_same(argv: Sequence[Any], **keywords: Any) -> bytes:
    kernel, ours = both(argv, **keywords)
    assert ours == kernel
    return kernel


@pytest.mark.parametrize("kind", KINDS)
def test_static_and_static_pie_and_dynamic(facts: Mapping[str, Path], kind: str) -> None:
    assert b"SigIgn" in assert_same([facts[kind], "signals"])


def test_scripts(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh -e\necho "$0" "$@"\n')
    script.chmod(0o755)
    assert assert_same([script, "a b", "c"]).endswith(b"script a b c\n")


def test_600_arguments() -> None:
    assert len(assert_same(["/bin/echo", *map(str, range(600))]).split()) == 600


def test_arguments_and_environment_that_are_not_utf_8() -> None:
    assert assert_same([b"/bin/echo", b"\xff\xfe", b"a\x80b"]) == b"\xff\xfe a\x80b\n"
    assert b"A\xff=\xfe\x80" in assert_same(["/usr/bin/env"], env={b"A\xff": b"\xfe\x80", b"B": b""})


def auxv(raw: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", raw))


def test_auxv_has_the_kernels_entries_in_its_order() -> None:
    kernel, ours = (auxv(told) for told in both([CAT, "/proc/self/auxv"]))
    assert [key for key, _ in ours] == [key for key, _ in kernel]
    assert kernel[-1] == ours[-1] == (0, 0)
    assert len(kernel) >= 20
    for (key, theirs), (_, value) in zip(kernel, ours, strict=True):
        if key in ADDRESSES:
            assert value % 4096 == theirs % 4096 or key in (AT_RANDOM, AT_EXECFN, AT_PLATFORM), key
            assert 4096 <= value < 1 << 47, key
        else:
            assert value == theirs, key


@pytest.mark.parametrize("kind", KINDS)
def test_at_random_is_fresh_and_on_the_stack(facts: Mapping[str, Path], kind: str) -> None:
    """The canary is made of it: the first 8 bytes, the lowest of them 0."""
    seen = set()
    for told in [reflective.check_output([facts[kind], "random"], text=True) for _ in range(5)]:
        where, random, canary = told.split()
        assert where == "[stack]"
        assert int(canary, 16) == int.from_bytes(bytes.fromhex(random)[:8], "little") & ~0xFF != 0
        seen.add(random)
    assert len(seen) == 5


def test_heap() -> None:
    """[heap] begins behind the program and grows by brk."""
    for told in both([CAT, "/proc/self/maps"]):
        lines = told.decode().splitlines()
        heap = next(index for index, line in enumerate(lines) if line.endswith("[heap]"))
        assert "/cat" in lines[heap - 1]


@pytest.mark.parametrize("name", ["cmdline", "environ", "comm"])
def test_proc(name: str) -> None:
    assert len(assert_same([CAT, f"/proc/self/{name}"])) > 3


@SETS_EXE
def test_proc_exe() -> None:
    assert assert_same(["/usr/bin/readlink", "/proc/self/exe"]) == b"/usr/bin/readlink\n"


def test_proc_auxv_is_the_programs() -> None:
    """AT_ENTRY in /proc/self/auxv is where cat was mapped, not where Python was."""
    with reflective.Popen([CAT], stdin=subprocess.PIPE) as process:
        entry = dict(auxv(Path(f"/proc/{process.pid}/auxv").read_bytes()))[AT_ENTRY]
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        process.communicate(b"")
    code = next(line for line in lines if line.endswith("/cat") and " r-xp " in line)
    start, end = (int(word, 16) for word in code.split()[0].split("-"))
    assert start <= entry < end


def permissions(maps: bytes) -> list[tuple[str, str]]:
    """(permissions, name) of each mapping, less what the loader names as its own, whether or not the kernel takes names."""
    split = [line.split(maxsplit=5) for line in maps.decode().splitlines()]
    named = [(words[1], words[5] if len(words) > 5 else "") for words in split]
    return [(perms, name) for perms, name in named if (perms, name.split(":")[0]) not in (("---p", "[anon"), ("---p", ""))]


def test_segment_permissions() -> None:
    """As the file says: nothing is writable and executable."""
    kernel, ours = (permissions(told) for told in both([CAT, "/proc/self/maps"]))
    assert ours == kernel
    assert not [item for item in ours if "w" in item[0] and "x" in item[0]]


def test_maps_are_file_backed() -> None:
    """Of a program's mappings with a file behind them, the same natively and by reflective: path, offset, inode."""
    kernel, ours = (
        [line.split()[1:] for line in told.decode().splitlines() if "/" in line] for told in both([CAT, "/proc/self/maps"])
    )
    assert ours == kernel
    assert len([line for line in ours if line[-1].endswith("/cat")]) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_rseq_and_robust_list_and_alternate_stack(facts: Mapping[str, Path], kind: str) -> None:
    assert b"rseq registered: 1" in assert_same([facts[kind], "thread"])


def test_signals(facts: Mapping[str, Path]) -> None:
    """Handlers are gone, what Python ignores is not ignored, what was blocked stays blocked."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        told = assert_same([facts["dynamic"], "signals"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, before)
    assert b"SigIgn:\t0000000000000000" in told
    assert b"SigBlk:\t0000000000000800" in told
    assert b"SigCgt:\t0000000000000000" in told


def test_yes_head() -> None:
    """Where SIGPIPE is left ignored, `yes` complains instead of dying."""
    command = [sys.executable, "-m", "reflective", "exec", "bash", "-c", 'yes | head -1; echo "${PIPESTATUS[@]}"']
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == (b"y\n141 0\n", b"")


def test_close_on_exec_descriptors_are_closed() -> None:
    """And the others are not, whatever they are numbered."""
    with open("/dev/null", "rb") as closed, open("/dev/zero", "rb") as kept:
        high = os.dup2(kept.fileno(), 321)
        try:
            os.set_inheritable(kept.fileno(), True)
            kernel, ours = both(["/bin/ls", "/proc/self/fd"], close_fds=False)
            assert ours == kernel
            assert str(kept.fileno()).encode() in ours.split()
            assert b"321" in ours.split()
            assert str(closed.fileno()).encode() not in ours.split()[:-1]
        finally:
            os.close(high)


def test_executable_stack(tmp_path: Path) -> None:
    for flag in ("-static", "-pie"):
        program = tmp_path / flag
        subprocess.run(["gcc", "-O1", flag, "-Wl,-z,execstack", PROGRAMS / "stackcode.c", "-o", program], check=True)
        assert assert_same([program]) == b"42\n"


@SETS_EXE
def test_origin_in_rpath(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int answer(void) { return 0; }")
    (tmp_path / "main.c").write_text("int answer(void); int main(void) { return answer(); }")
    for command in ("gcc -shared -fPIC one.c -o libone.so", "gcc main.c -L. -lone -Wl,-rpath,$ORIGIN -o main"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    assert_same([tmp_path / "main"])


@pytest.mark.parametrize("kind", KINDS)
def test_p_align_of_2_mib(tmp_path: Path, kind: str) -> None:
    align = "0x200000"
    linked = [*KINDS[kind], f"-Wl,-z,max-page-size={align}", "-o", str(tmp_path / "program")]
    subprocess.run(["gcc", "-O1", str(PROGRAMS / "segments.c"), *linked], check=True)
    assert assert_same([tmp_path / "program", align]) == b"aligned\n"


@pytest.mark.parametrize(
    "contents",
    [None, b"", b"text\n", b"\x7fELF", b"\x7fELF\x01" + bytes(60), b"\x7fELF" + b"\xff" * 99, b"#!/no/such/sh\n", b"#!\n"],
)  # fmt: skip
def test_errors_are_one_line(tmp_path: Path, contents: bytes | None) -> None:
    """On standard error, with the path; no traceback."""
    path = tmp_path / "bad"
    if contents is not None:
        path.write_bytes(contents)
        path.chmod(0o755)
    command = [sys.executable, "-m", "reflective", "exec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == (127 if contents is None or b"no/such" in contents else 126)
    assert done.stdout == ""
    assert done.stderr.startswith("reflective: ")
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr or "/no/such/sh" in done.stderr
