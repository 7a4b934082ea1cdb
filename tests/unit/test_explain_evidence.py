"""The evidence of --explain by itself: the cache, the order of a search, files that are not what they were."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from explained import cached, compile_c, run

from reflective.elf.image import FileIdentity
from reflective.trace.explain import cache, search
from reflective.trace.explain.objects import Loaded, elf_at, flavour, function_at
from reflective.trace.explain.state import State


def loaded(path: str | Path, by: str = "") -> Loaded:
    elf = elf_at(os.path.realpath(path))
    assert elf is not None
    return Loaded(os.path.basename(path), os.path.realpath(path), elf, 0, by, os.path.dirname(os.path.realpath(path)))


def test_the_cache_has_what_ldconfig_prints() -> None:
    rows = re.findall(r"^\t(\S+) \(.*x86-64.*\) => (.*)$", run("/sbin/ldconfig", "-p").stdout, re.M)
    expected: dict[str, list[str]] = {}
    for name, path in rows:
        expected.setdefault(name, []).append(path)
    found = cache.parse(Path("/etc/ld.so.cache").read_bytes())
    assert {name: sorted(paths) for name, paths in found.items()} == {name: sorted(paths) for name, paths in expected.items()}


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"ld.so-1.7.0\0" + b"\xff" * 64, cache.MAGIC, cache.MAGIC + b"\xff" * 40])
def test_what_is_no_cache_has_nothing(data: bytes) -> None:
    assert cache.parse(data) == {}


def test_a_cut_cache_has_less() -> None:
    whole = Path("/etc/ld.so.cache").read_bytes()
    start = whole.find(cache.MAGIC)
    (count,) = struct.unpack_from("<I", whole, start + 20)
    found = cache.parse(whole[: start + 48 + 24 * (count // 2)])
    assert 0 < sum(map(len, found.values())) <= count // 2


@pytest.mark.parametrize(
    ("rpath", "runpath", "environment", "order"),
    [
        ("", "", "", []),
        ("/r", "", "/e:/f", ["RPATH of prog", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH"]),
        ("", "/r:/s", "/e", ["LD_LIBRARY_PATH", "RUNPATH of prog", "RUNPATH of prog"]),
        ("", "", "/e;/f", ["LD_LIBRARY_PATH", "LD_LIBRARY_PATH"]),
    ],
)
def test_the_order_of_glibc(rpath: str, runpath: str, environment: str, order: list[str], tmp_path: Path) -> None:
    """man ld.so: DT_RPATH unless there is DT_RUNPATH, LD_LIBRARY_PATH, DT_RUNPATH, the cache, default directories."""
    flags = [f"-Wl,--{'disable' if rpath else 'enable'}-new-dtags,-rpath,{rpath or runpath}"] if rpath or runpath else []
    program = loaded(compile_c(tmp_path / "prog", "int main(void) { return 0; }\n", *flags))
    linker = loaded("/lib64/ld-linux-x86-64.so.2")
    state = State(program, linker, environ={"LD_LIBRARY_PATH": environment} if environment else {})
    found = search.places(state, program, "libc.so.6")
    words = list(dict.fromkeys((where, why) for where, why in found))
    assert [why for _, why in words][: len(order)] == order
    rest = [why for _, why in words[len(order) :]]
    assert rest == sorted(rest, key=["ld.so.cache says so", "a default directory of ld.so"].index)
    assert len(set(rest)) == 2
    secure = search.places(state.replace(secure=True), program, "libc.so.6")
    assert "LD_LIBRARY_PATH" not in [why for _, why in secure]


def test_nothing_is_said_of_a_path_that_nobody_asked_for(tmp_path: Path) -> None:
    program = loaded(compile_c(tmp_path / "prog", "int main(void) { return 0; }\n"))
    state = State(program, loaded("/lib64/ld-linux-x86-64.so.2"))
    assert search.reason(state, "/lib/x86_64-linux-gnu/libnobody.so.1", False) is None
    found = search.reason(state, "/elsewhere/libc.so.6", False)
    assert found is not None
    assert (found.by, found.where) == ("prog", "")


def test_a_file_that_was_replaced_is_no_evidence(tmp_path: Path) -> None:
    path = compile_c(tmp_path / "lib.so", "int one;\n", "-shared", "-fPIC")
    before = FileIdentity.of(os.stat(path))
    assert elf_at(str(path), before) is not None
    compile_c(path, "int one; int two(void) { return one; }\n", "-shared", "-fPIC")
    assert elf_at(str(path), before) is None
    now = elf_at(str(path))
    assert now is not None
    assert now.image.identity == FileIdentity.of(os.stat(path))


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF" + bytes(60)])
def test_what_is_no_elf_file_is_no_evidence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert elf_at(str(tmp_path / "file")) is None
    assert elf_at(str(tmp_path / "missing")) is None
    assert elf_at("") is None


def test_whose_c_library_a_file_is_of(tmp_path: Path) -> None:
    source = "int main(void) { return 0; }\n"
    assert flavour(elf_at(os.path.realpath("/lib64/ld-linux-x86-64.so.2"))) == "glibc"
    assert flavour(elf_at(str(compile_c(tmp_path / "static", source, "-static")))) == "glibc"
    bare = compile_c(tmp_path / "bare", "void _start(void) { for (;;); }\n", "-static", "-nostdlib")
    assert flavour(elf_at(str(bare))) == ""
    musl = "/lib/ld-musl-x86_64.so.1"
    if os.path.exists(musl):
        assert flavour(elf_at(os.path.realpath(musl))) == "musl"


def test_functions_by_address() -> None:
    elf = elf_at(os.path.realpath(cached("libc.so.6")))
    assert elf is not None
    listed = run("nm", "-DS", "--defined-only", elf.image.path).stdout
    found = re.search(r"^([0-9a-f]+) ([0-9a-f]+) T malloc@", listed, re.M)
    assert found
    start, size = int(found[1], 16), int(found[2], 16)
    names = {function_at(elf, address) for address in (start, start + size - 1)}
    assert all("malloc" in name for name in names)
    assert function_at(elf, 0) == ""
