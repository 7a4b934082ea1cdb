"""Reading ELF files: real ones against readelf, made ones field by field."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import elfwriter as elf
import pytest

from reflective.elf import image
from reflective.errors import LoadError

KINDS = {
    "LOAD": image.PT_LOAD, "INTERP": image.PT_INTERP, "GNU_STACK": image.PT_GNU_STACK, "GNU_RELRO": image.PT_GNU_RELRO,
    "TLS": image.PT_TLS, "PHDR": elf.PT_PHDR, "DYNAMIC": elf.PT_DYNAMIC, "NOTE": elf.PT_NOTE, "GNU_EH_FRAME": 0x6474E550,
    "GNU_PROPERTY": elf.PT_GNU_PROPERTY,
}  # fmt: skip
LINE = re.compile(r"^  ([A-Z_]+) +" + r"(0x[0-9a-f]+) " * 5 + r"(...) (0x[0-9a-f]+)$")


def files() -> list[str]:
    """Programs, libraries and interpreters of this machine, of every kind it has; each once."""
    places = ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/musl/lib", "/usr/sbin")
    found = {os.path.realpath(sys.executable), os.path.realpath("/proc/self/exe")}
    for place in places:
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        paths = [os.path.realpath(os.path.join(place, name)) for name in names]
        found |= set([path for path in dict.fromkeys(paths) if is_elf(path)][:60])
    return sorted(found)


def is_elf(path: str) -> bool:
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        start = file.read(20)
    return start[:5] == b"\x7fELF\x02" and start[16] in (image.ET_EXEC, image.ET_DYN)


def read(path: str | Path, *, as_interpreter: bool = False) -> image.ElfImage:
    fd = os.open(path, os.O_RDONLY)
    try:
        return image.read(fd, str(path), as_interpreter=as_interpreter)
    finally:
        os.close(fd)


def as_readelf_has_it(text: str) -> tuple[str, int, str | None, list[tuple[int, ...]]]:
    """Type, entry, interpreter, and offset, vaddr, filesz, memsz, flags, align of each header whose type has a name here."""
    kind = re.search(r"Elf file type is (\w+)", text)
    entry = re.search(r"Entry point (0x[0-9a-f]+)", text)
    interpreter = re.search(r"\[Requesting program interpreter: (.*)\]", text)
    assert kind is not None
    assert entry is not None
    rows: list[tuple[int, ...]] = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match and match[1] in KINDS:
            offset, vaddr, _, filesz, memsz = (int(match[group], 16) for group in range(2, 7))
            flags = sum(bit for letter, bit in (("R", 4), ("W", 2), ("E", 1)) if letter in match[7])
            rows.append((KINDS[match[1]], flags, offset, vaddr, filesz, memsz, int(match[8], 16)))
    return kind[1], int(entry[1], 16), interpreter[1] if interpreter else None, rows


def test_real_files_are_read_as_readelf_reads_them() -> None:
    seen = set()
    for path in files():
        text = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
        kind, entry, interpreter, rows = as_readelf_has_it(text)
        found = read(path)
        ours = [(s.type, s.flags, s.offset, s.vaddr, s.filesz, s.memsz, s.align) for s in found.segments]
        assert [row for row in ours if row[0] in KINDS.values()] == rows, path
        assert (found.type == image.ET_DYN, found.entry, found.interpreter) == (kind == "DYN", entry, interpreter), path
        assert [load.type for load in found.loads] == [image.PT_LOAD] * sum(row[0] == image.PT_LOAD for row in rows), path
        seen.add((kind, interpreter is not None))
    assert len(seen) >= 2, "programs and libraries"


def test_identity_is_the_file(tmp_path: Path) -> None:
    path = elf.exit_program().write(tmp_path / "program")
    status = path.stat()
    assert read(path).identity == image.FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def test_program_headers_are_found_where_a_segment_holds_them(tmp_path: Path) -> None:
    """Not at the first segment's start plus e_phoff: here another segment maps the table."""
    table = 0x3000
    program = elf.exit_program()
    moved = replace(program, phoff=table, table_offset=table).with_segments(
        elf.Segment(elf.PT_LOAD, elf.R, table, 0x900000, filesz=256), first=True
    )
    assert read(moved.write(tmp_path / "moved")).program_headers_at == 0x900000
    nowhere = replace(program, phoff=table, table_offset=table)
    assert read(nowhere.write(tmp_path / "nowhere")).program_headers_at == 0
    assert read(program.write(tmp_path / "usual")).program_headers_at == elf.TEXT_BASE + 64


@pytest.mark.parametrize(
    ("flags", "executable"), [((), False), ((elf.RW,), False), ((elf.RWX,), True), ((elf.RWX, elf.RW), False)]
)
def test_executable_stack_by_the_last_header(tmp_path: Path, flags: tuple[int, ...], executable: bool) -> None:
    program = elf.exit_program()
    for flag in flags:
        program = program.with_stack(flag)
    assert read(program.write(tmp_path / "program")).executable_stack is executable


def test_first_interpreter_counts(tmp_path: Path) -> None:
    program = elf.exit_program().with_interp(b"/second", offset=0x900).with_interp(b"/first")
    assert read(program.write(tmp_path / "program")).interpreter == "/first"
    assert read(tmp_path / "program", as_interpreter=True).interpreter is None


def test_path_of_interpreter_ends_at_its_first_nul(tmp_path: Path) -> None:
    program = elf.exit_program().with_interp(b"/lib/ld\0more\0", filesz=13)
    assert read(program.write(tmp_path / "program")).interpreter == "/lib/ld"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ident": b"\x7fELG" + bytes(12)}, "not an ELF file"),
        ({"type": elf.ET_REL}, "e_type at offset 16 is 1 (ET_REL, an object file)"),
        ({"machine": elf.EM_AARCH64}, "e_machine at offset 18 is 183 (AArch64)"),
        ({"phentsize": 32}, "e_phentsize at offset 54 is 32, not 56"),
        ({"phnum": 0}, "e_phnum at offset 56 is 0"),
        ({"phnum": 1171}, "e_phnum at offset 56 is 1171: 1 to 1170"),
        ({"phoff": 1 << 40}, "e_phoff at offset 32 is 0x10000000000: the file ends"),
        ({"phoff": (1 << 64) - 1}, "e_phoff at offset 32 is 0xffffffffffffffff: the file ends"),
    ],
)
def test_refusals_name_the_field(tmp_path: Path, change: dict[str, int], words: str) -> None:
    path = replace(elf.exit_program(), **change).write(tmp_path / "program")  # type: ignore[arg-type]
    with pytest.raises(LoadError) as refusal:
        read(path)
    assert refusal.value.errno == errno.ENOEXEC
    assert words in refusal.value.reason
    assert refusal.value.filename == str(path)


def test_a_bad_interpreter_has_its_own_errno(tmp_path: Path) -> None:
    path = replace(elf.exit_program(), machine=elf.EM_386).write(tmp_path / "interpreter")
    with pytest.raises(LoadError) as refusal:
        read(path, as_interpreter=True)
    assert refusal.value.errno == errno.ELIBBAD


@pytest.mark.parametrize("size", [0, 1, 3, 4, 17, 63])
def test_short_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(elf.exit_program().encode()[:size])
    with pytest.raises(LoadError) as refusal:
        read(path)
    assert refusal.value.errno == errno.ENOEXEC
    with pytest.raises(LoadError) as refusal:
        read(path, as_interpreter=True)
    assert refusal.value.errno == errno.EIO
