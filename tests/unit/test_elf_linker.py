"""What is read of a dynamic linker and of libraries' search paths, against what binutils says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from skips import needs

from reflective.elf import image, linker

LD_SO = os.path.realpath("/lib64/ld-linux-x86-64.so.2")


def read(path: str | Path) -> image.ElfImage:
    fd = os.open(path, os.O_RDONLY)
    try:
        return image.read(fd, str(path))
    finally:
        os.close(fd)


def test_variables_are_where_the_symbols_say() -> None:
    needs("readelf", "binutils")
    rows = subprocess.run(["readelf", "-W", "--dyn-syms", LD_SO], capture_output=True, text=True, check=True).stdout
    symbols = {
        words[7].partition("@")[0]: (int(words[1], 16), int(words[2]))
        for words in map(str.split, rows.splitlines())
        if len(words) > 7 and words[6] != "UND" and words[0].endswith(":")
        if words[0] != "Num:"
    }
    known = linker.linker(read(LD_SO))
    assert known is not None
    assert known.variables == tuple(symbols[name] for name in linker.VARIABLES)


def test_the_call_is_cut_where_it_returns() -> None:
    needs("objdump", "binutils")
    found = read(LD_SO)
    known = linker.linker(found)
    assert known is not None
    span = [f"--start-address={found.entry}", f"--stop-address={known.resume}"]
    text = subprocess.run(["objdump", "-d", *span, LD_SO], capture_output=True, text=True, check=True).stdout
    instructions = [line.split("\t")[2].split() for line in text.splitlines() if line.count("\t") == 2]
    assert [words[:2] for words in instructions] == [
        ["mov", "%rsp,%rdi"],
        ["call", f"{known.dl_start:x}"],
        ["mov", "%rax,%r12"],
    ]


@pytest.mark.parametrize("at", [0, 3, 8, 40, 59])
def test_another_start_is_not_known(tmp_path: Path, at: int) -> None:
    """One byte less or more: not the code that may be cut. Byte 4 to 7 are a distance, which may be any."""
    found = read(LD_SO)
    load = next(load for load in found.loads if load.vaddr <= found.entry < load.vaddr + load.filesz)
    content = bytearray(Path(LD_SO).read_bytes())
    content[found.entry - load.vaddr + load.offset + at] ^= 1
    other = tmp_path / "ld.so"
    other.write_bytes(content)
    assert linker.linker(read(other)) is None


def test_not_a_dynamic_linker() -> None:
    assert linker.linker(read(os.path.realpath("/bin/true"))) is None


def test_search_paths(tmp_path: Path) -> None:
    needs("cc", "gcc")
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    for flag in ("--enable-new-dtags", "--disable-new-dtags"):
        command = ["cc", "-o", str(tmp_path / "main"), str(tmp_path / "main.c"), f"-Wl,{flag},-rpath,/one:$ORIGIN/two"]
        subprocess.run(command, check=True)
        assert linker.search_paths(read(tmp_path / "main")) == ["/one", "$ORIGIN/two"]
    assert linker.search_paths(read(os.path.realpath("/bin/true"))) == []
