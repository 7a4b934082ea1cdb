"""What must load: every kind of image, linked in every way, and what such a program then does. Natively and by reflective."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from elfwriter import ET_DYN, ET_EXEC, PT_LOAD, R, exit_code, program, write_out
from elfwriter import TASK_SIZE as TASK_END
from skips import SETS_EXE, needs
from support import ENVIRONMENT, INCLUDES, PROGRAMS, loaded, native
from verdict import assert_same_verdict, least_address, may_set_exe

import reflective

MIN_ADDRESS = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
DEBIAN_PYTHON = Path(f"/usr/bin/python3.{sys.version_info.minor}")  # ET_EXEC at 0x400000

# What is linked, and with what.
KINDS = {
    "pie": ("gcc", "-pie", "-fPIE"),
    "no-pie": ("gcc", "-no-pie", "-fno-pie"),
    "static": ("gcc", "-static", "-no-pie", "-fno-pie"),
    "static-pie": ("gcc", "-static-pie", "-fPIE"),
    "musl": ("musl-gcc",),
    "musl-static": ("musl-gcc", "-static"),
}
EXERCISES = (
    "hello", "constructors", "ifunc", "threads", "children", "again", "stack", "jump", "alternate-stack", "filter", "heap",
)  # fmt: skip
LINKS = {
    "64 KiB pages": ("-Wl,-z,max-page-size=0x10000",),
    "2 MiB pages": ("-Wl,-z,max-page-size=0x200000",),
    "16 MiB pages": ("-Wl,-z,max-page-size=0x1000000",),
    "noseparate-code": ("-Wl,-z,noseparate-code",),
    "separate-code": ("-Wl,-z,separate-code",),
    "executable stack": ("-Wl,-z,execstack",),
    "no executable stack": ("-Wl,-z,noexecstack",),
    "not even relro": ("-Wl,-z,norelro",),
    "all bound at once": ("-Wl,-z,now",),
    "other base": ("-Wl,-Ttext-segment=0x10000000",),
    "stripped": ("-s",),
}
BASES = (
    MIN_ADDRESS, 0x10000, 0x100000, 0x400000, 0x7FFF_0000, 0x8000_0000, 0x1_0000_0000, 0x1000_0000_0000, 0x5555_5555_4000,
    0x7000_0000_0000, 0x7E80_0000_0000, 0x7F00_0000_0000, 0x7F80_0000_0000, 0x7FF8_0000_0000, 0x7FFB_FF00_0000,
    TASK_END - 0x2000,
)  # fmt: skip

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(compiler, source, *flags): the program, compiled once a session for each set of flags."""
    directory = tmp_path_factory.mktemp("images")
    built: dict[tuple[str, ...], Path] = {}

    def compile_once(compiler: str, source: str, *flags: str) -> Path:
        key = (compiler, source, *flags)
        if key not in built:
            needs(compiler, {"musl-gcc": "musl-tools", "g++": "g++"}.get(compiler, "gcc"))
            built[key] = directory / f"program{len(built)}"
            command = [compiler, "-O1", "-pthread", INCLUDES, str(PROGRAMS / source), *flags, "-o", str(built[key])]
            subprocess.run(command, check=True, capture_output=True)
        return built[key]

    return compile_once


def same(argv: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    """Runs it both ways, fails if they differ in anything, and returns how it ran."""
    kernel, ours = native(argv), loaded(argv)
    assert (ours.returncode, ours.stdout, ours.stderr) == (kernel.returncode, kernel.stdout, kernel.stderr)
    return kernel


def refused(path: Path) -> bool:
    """True if it lies where this user may map nothing: refused either way, with the same errno (this is compared)."""
    if not 0 <= lowest(path) < least_address():
        return False
    assert assert_same_verdict(str(path)).errno == errno.EPERM
    return True


def lowest(path: Path) -> int:
    """The lowest address that the program asks for; -1 if it goes anywhere."""
    elf = path.read_bytes()
    loads = [header[3] for header in headers(elf) if header[0] == PT_LOAD]
    return min(loads) if struct.unpack_from("<H", elf, 16)[0] == ET_EXEC else -1


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("kind", KINDS)
def test_exercises(build: Build, kind: str, exercise: str) -> None:
    """Constructors, IFUNC, thread-local storage in 64 threads, children, /proc/self/exe, 6 MB of stack, seccomp …"""
    if exercise == "again" and not may_set_exe():
        pytest.skip("executes /proc/self/exe, which stays the parent's: run as root")
    compiler, *flags = KINDS[kind]
    done = same([build(compiler, "exercise.c", *flags), exercise])
    assert done.returncode == {"hello": 7, "again": 9}.get(exercise, 0)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_links(build: Build, kind: str, link: str) -> None:
    """Page sizes, segments in one or many, a base of its own, also for a position-independent executable."""
    compiler, *flags = KINDS[kind]
    path = build(compiler, "exercise.c", *flags, *LINKS[link])
    if refused(path):  # 16 MiB pages: from address 0 on
        return
    done = same([path, "heap"])
    if (kind, link) != ("static-pie", "other base"):  # of which glibc 2.36 makes nothing
        assert done.stdout == b"heap grows\n"


@pytest.mark.parametrize("size", ["0x10000", "0x200000", "0x1000000"])
@pytest.mark.parametrize("kind", ["pie", "no-pie", "static", "static-pie"])
def test_alignment(build: Build, kind: str, size: str) -> None:
    """Each segment of a position-independent executable lies at a multiple of p_align, not only of a page."""
    compiler, *flags = KINDS[kind]
    path = build(compiler, "segments.c", *flags, f"-Wl,-z,max-page-size={size}")
    if refused(path):
        return
    done = same([path, size])
    assert done.stdout.startswith(b"aligned")


def test_rwx(build: Build) -> None:
    """`ld -N`: text and data in one writable, executable segment."""
    linked = ("-nostdlib", "-ffreestanding", "-static", "-no-pie", "-fno-pie", "-Wl,-N", "-Wl,--no-warn-rwx-segments")
    assert same([build("gcc", "rwx.c", *linked)]).returncode == 84


@pytest.mark.parametrize("kind", ["pie", "no-pie", "static", "static-pie"])
@pytest.mark.parametrize("stack", ["execstack", "noexecstack"])
def test_code_on_the_stack(build: Build, kind: str, stack: str) -> None:
    """It runs with -z execstack and is killed without."""
    compiler, *flags = KINDS[kind]
    done = same([build(compiler, "stackcode.c", *flags, f"-Wl,-z,{stack}")])
    assert (done.stdout, done.returncode) == ((b"42\n", 0) if stack == "execstack" else (b"", -11))


@pytest.mark.parametrize("kind", KINDS)
def test_1_gib_of_bss(build: Build, kind: str) -> None:
    compiler, *flags = KINDS[kind]
    assert same([build(compiler, "bss.c", *flags)]).stdout == b"zero, then 3\n"


@pytest.mark.parametrize("kind", KINDS)
def test_no_section_headers(build: Build, tmp_path: Path, kind: str) -> None:
    """As sstrip leaves it: nothing behind the last segment, no section header table."""
    compiler, *flags = KINDS[kind]
    bare = tmp_path / "bare"
    bare.write_bytes(without_sections(build(compiler, "exercise.c", *flags).read_bytes()))
    bare.chmod(0o755)
    assert b"no sections" in subprocess.run(["readelf", "-S", bare], capture_output=True, check=True).stdout
    assert same([bare, "constructors"]).stdout == b"first second\ndestructor\n"


def headers(elf: bytes) -> list[tuple[int, ...]]:
    """Program headers: type, flags, offset, vaddr, paddr, filesz, memsz, align."""
    phoff, phnum = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    return [struct.unpack_from("<II6Q", elf, phoff + 56 * index) for index in range(phnum)]


def without_sections(elf: bytes) -> bytes:
    image = bytearray(elf[: max(header[2] + header[5] for header in headers(elf))])
    struct.pack_into("<Q", image, 40, 0)
    struct.pack_into("<3H", image, 58, 0, 0, 0)
    return bytes(image)


@pytest.mark.parametrize("base", BASES, ids=hex)
def test_base_address(tmp_path: Path, base: int) -> None:
    """From vm.mmap_min_addr to the last pages of user space, where stack, libraries and vdso would be."""
    elf = program(write_out(b"here\n") + exit_code(3), base=base)
    done = same([elf.write(tmp_path / "based")])
    assert (done.stdout, done.returncode) == (b"here\n", 3)


@pytest.mark.parametrize("base", [MIN_ADDRESS, 0x10000, 0x1000000, 0x7F00_0000])
@pytest.mark.parametrize("kind", ["static", "no-pie"])
def test_base_address_of_a_real_program(build: Build, kind: str, base: int) -> None:
    compiler, *flags = KINDS[kind]
    assert same([build(compiler, "exercise.c", *flags, f"-Wl,-Ttext-segment={base:#x}"), "heap"]).returncode == 0


@pytest.mark.parametrize("base", [0x10000, 0x10_0000_0000, 0x7000_0000_0000], ids=hex)
def test_position_independent_with_a_base(tmp_path: Path, base: int) -> None:
    """It goes anywhere all the same."""
    elf = program(write_out(b"here\n") + exit_code(3), type=ET_DYN, base=base)
    assert same([elf.write(tmp_path / "based")]).returncode == 3


def test_over_every_mapping_of_the_parent(tmp_path: Path) -> None:
    """An image where this very process has its executable, heap, libc, stack, vdso."""
    starts: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = re.match(r"(\w+)-\w+ ....(?: \S+){3} +(\S+)$", line)
        if found and found[2] != "[vsyscall]":
            starts.setdefault(found[2], int(found[1], 16))
    assert {"[heap]", "[stack]", "[vdso]"} <= starts.keys()
    assert any("libc" in name for name in starts)
    for name, start in starts.items():
        elf = program(exit_code(3), base=start)
        done = reflective.run([elf.write(tmp_path / "over")], check=False)
        assert done.returncode == 3, f"over {name}"


def pythons() -> dict[str, Path]:
    """This Python and Debian's of the same version, if it is another, each named by its kind."""
    found = {path.resolve(): path for path in (DEBIAN_PYTHON, Path(sys.executable)) if path.exists()}
    kinds = {2: "not a PIE", 3: "a PIE"}
    return {kinds[struct.unpack_from("<H", real.read_bytes()[:20], 16)[0]]: path for real, path in found.items()}


@pytest.mark.parametrize("parent", pythons().values(), ids=pythons())
@pytest.mark.parametrize("kind", KINDS)
def test_by_every_kind_of_python(build: Build, parent: Path, kind: str) -> None:
    """A non-PIE program lies where a non-PIE Python does. Debian's Python is none, one built from source is."""
    compiler, *flags = KINDS[kind]
    argv: list[str | Path] = [build(compiler, "exercise.c", *flags), "children"]
    places = ":".join(path for path in sys.path if path)
    command = [parent, "-m", "reflective", "exec", "-u", "PYTHONPATH", *argv]
    kernel = native(argv)
    ours = native(command, env={**ENVIRONMENT, "PYTHONPATH": places})
    assert (ours.returncode, ours.stdout, ours.stderr) == (kernel.returncode, kernel.stdout, kernel.stderr)


@pytest.mark.parametrize("pie", [True, False])
def test_another_interpreter(build: Build, tmp_path: Path, pie: bool) -> None:
    """PT_INTERP may be anything. Ours says that it was here, and enters the program."""
    linked = ("-shared", "-nostdlib", "-fPIC", "-Wl,-e,interpreter_start", "-Wl,-Bsymbolic")
    interpreter = build("gcc", "tiny_interpreter.c", *linked)
    elf = program(write_out(b"program\n") + exit_code(5), type=ET_DYN if pie else 2)
    path = elf.with_interp(str(interpreter).encode()).write(tmp_path / "interpreted")
    done = same([path])
    assert (done.stdout, done.returncode) == (b"interpreter\nprogram\n", 5)


def test_interpreter_at_a_fixed_address(build: Build, tmp_path: Path) -> None:
    """An ET_EXEC can be an interpreter, too."""
    interpreter = program(write_out(b"I am all there is\n") + exit_code(6), base=0x2000000).write(tmp_path / "ld.so")
    elf = replace(program(exit_code(5), type=ET_DYN)).with_interp(str(interpreter).encode())
    assert same([elf.write(tmp_path / "interpreted")]).returncode == 6


def test_read_only_program_has_no_code_to_run(tmp_path: Path) -> None:
    """Jumping into a segment that is not executable is the program's own death."""
    assert same([program(exit_code(5), flags=R).write(tmp_path / "readable")]).returncode == -11


@SETS_EXE
@pytest.mark.parametrize("tag", ["--enable-new-dtags", "--disable-new-dtags"], ids=["RUNPATH", "RPATH"])
def test_origin(tmp_path: Path, tag: str) -> None:
    """A library found by $ORIGIN: the dynamic linker reads /proc/self/exe for it."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "answer.c").write_text("int answer(void) { return 43; }")
    (tmp_path / "main.c").write_text("int answer(void); int main(void) { return answer(); }")
    linked = ["-L", "lib", "-lanswer", "-Wl,-rpath,$ORIGIN/lib", f"-Wl,{tag}"]
    for command in (["-shared", "-fPIC", "answer.c", "-o", "lib/libanswer.so"], ["main.c", *linked, "-o", "main"]):
        subprocess.run(["gcc", *command], cwd=tmp_path, check=True)
    assert same([tmp_path / "main"]).returncode == 43


@pytest.mark.parametrize("kind", ["pie", "no-pie", "static"])
def test_cxx_exceptions(build: Build, kind: str) -> None:
    """Unwinding finds its tables by the program headers; also those of a library that dlopen loads."""
    needs("g++", "g++")
    library = build("g++", "throws.cpp", "-shared", "-fPIC")
    arguments = [] if kind == "static" else [library]
    done = same([build("g++", "exceptions.cpp", *KINDS[kind][1:]), *arguments])
    assert done.returncode == -6
    assert (b"from the library" in done.stdout) == (kind != "static")


@pytest.mark.parametrize("kind", ["pie", "static"])
def test_text_is_shared_with_the_page_cache(build: Build, kind: str) -> None:
    """Two of the same program at once: no page of their text is private to either."""
    compiler, *flags = KINDS[kind]
    path = build(compiler, "sleeper.c", *flags)
    running = [reflective.Popen([path], stdin=reflective.PIPE, stdout=reflective.PIPE) for _ in range(2)]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.read(6) == b"ready\n"
        for process in running:
            blocks = re.split(r"(?m)^(?=[0-9a-f]+-)", Path(f"/proc/{process.pid}/smaps").read_text())
            text = [block for block in blocks if " r-xp " in block.partition("\n")[0] and "/" in block.partition("\n")[0]]
            assert str(path) in text[0]
            for block in text:
                sizes = dict(re.findall(r"(?m)^(\w+): +(\d+) kB", block))
                assert int(sizes["Rss"]) > 0, block
                assert int(sizes["Anonymous"]) == int(sizes["Private_Clean"]) == int(sizes["Private_Dirty"]) == 0, block
    finally:
        for process in running:
            process.communicate(b"")
