"""The dynamic section and section headers, against readelf and nm, for what this machine has."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from explained import cached, compile_c, headers, needed, run

from reflective.elf import dynamic, image, sections
from reflective.elf.dynamic import Dynamic
from reflective.elf.image import ElfImage


def opened(path: str | Path) -> tuple[ElfImage, Dynamic | None, tuple[sections.Section, ...], list[tuple[int, int, str]]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        elf = image.read(fd, str(path))
        known = sections.read(fd, elf)
        return elf, dynamic.read(fd, elf), known, sections.functions(fd, elf, known)
    finally:
        os.close(fd)


def from_readelf(path: str | Path, tag: str) -> str | None:
    found = re.search(rf"\({tag}\).*\[(.*)\]", run("readelf", "-dW", path).stdout)
    return found[1] if found else None


FILES = ["/bin/ls", "/usr/bin/python3", "/lib64/ld-linux-x86-64.so.2", "libc.so.6", "libselinux.so.1", "libstdc++.so.6"]


@pytest.mark.parametrize("name", FILES)
def test_dynamic_section_is_that_of_readelf(name: str) -> None:
    path = name if name.startswith("/") else cached(name)
    elf, found, _, _ = opened(path)
    assert found is not None
    text = run("readelf", "-dW", path).stdout
    assert list(found.needed) == needed(path)
    assert found.soname == from_readelf(path, "SONAME")
    assert found.textrel == ("TEXTREL" in text)
    assert found.bind_now == bool(re.search(r"BIND_NOW|\(FLAGS_1\).*\bNOW\b", text))
    assert len(elf.segments) == len(headers(path))


def test_paths_flags_and_text_relocations(tmp_path: Path) -> None:
    source = "int main(void) { return 0; }\n"
    new = compile_c(tmp_path / "new", source, "-Wl,--enable-new-dtags,-rpath,$ORIGIN/a:/b,-z,now,-z,nodefaultlib")
    old = compile_c(tmp_path / "old", source, "-Wl,--disable-new-dtags,-rpath,$ORIGIN/a,-z,lazy")
    found, before = opened(new)[1], opened(old)[1]
    assert found is not None
    assert before is not None
    assert (found.runpath, found.rpath, found.bind_now, found.nodeflib) == ("$ORIGIN/a:/b", None, True, True)
    assert (before.runpath, before.rpath, before.bind_now, before.nodeflib) == (None, "$ORIGIN/a", False, False)


def test_a_static_program_has_no_dynamic_section(tmp_path: Path) -> None:
    assert opened(compile_c(tmp_path / "static", "int main(void) { return 0; }\n", "-static"))[1] is None


def test_without_section_headers_the_dynamic_section_is_the_same(tmp_path: Path) -> None:
    """objcopy leaves no names of sections; what the dynamic linker reads is still there."""
    path = compile_c(tmp_path / "whole", "int main(void) { return 0; }\n", "-Wl,-rpath,/somewhere")
    bare = tmp_path / "bare"
    data = bytearray(path.read_bytes())
    data[0x28:0x30], data[0x3C:0x40] = bytes(8), bytes(4)  # e_shoff, e_shnum, e_shstrndx
    bare.write_bytes(data)
    assert opened(bare)[1] == opened(path)[1]
    assert opened(bare)[2:] == ((), [])
    assert opened(path)[2]


def test_a_cut_file_gives_what_is_there(tmp_path: Path) -> None:
    """Tables that end too early are no reason to stop."""
    path = compile_c(tmp_path / "whole", "int main(void) { return 0; }\n")
    data = path.read_bytes()
    for size in (1024, 4096, len(data) // 2, len(data) - 600, len(data) - 1):
        cut = tmp_path / "cut"
        cut.write_bytes(data[:size])
        opened(cut)


def test_sections_are_those_of_readelf() -> None:
    path = cached("libc.so.6")
    text = run("readelf", "-SW", path).stdout
    rows = re.findall(r"^  \[ *\d+\] (\S+) +\S+ +([0-9a-f]{16}) ([0-9a-f]+) ([0-9a-f]+)", text, re.M)
    found = [(item.name, item.address, item.offset, item.size) for item in opened(path)[2][1:]]
    assert found == [(name, *(int(value, 16) for value in values)) for name, *values in rows]


def test_functions_are_those_of_nm() -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed: apt-get install binutils")
    path = cached("libc.so.6")
    listed = run("nm", "-DS", "--defined-only", path).stdout
    named: dict[int, set[str]] = {}
    for address, name in re.findall(r"^([0-9a-f]+) [0-9a-f]+ [TWti] ([^@\s]+)", listed, re.M):
        named.setdefault(int(address, 16), set()).add(name)
    functions = {address: name for address, _, name in opened(path)[3]}
    known = [address for address in functions if address in named]
    assert len(known) > 1000
    assert all(functions[address] in named[address] for address in known)
