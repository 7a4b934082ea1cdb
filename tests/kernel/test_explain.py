"""`trace --explain` of whole starts: every sentence is held against the ELF files, as readelf shows them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from explained import (
    PAGE,
    TRACE,
    Call,
    cached,
    compile_c,
    explained,
    headers,
    interpreter,
    loads,
    needed,
    relro,
    run,
    segment_words,
    span,
    words_of,
)

HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
VARIANTS = {
    "dynamic": ("gcc", ()), "now": ("gcc", ("-Wl,-z,now",)), "no-pie": ("gcc", ("-no-pie", "-fno-pie")),
    "static": ("gcc", ("-static",)), "static-pie": ("gcc", ("-static-pie", "-fPIE")),
    "musl": ("musl-gcc", ()), "musl-static": ("musl-gcc", ("-static",)),
}  # fmt: skip
GLIBC_STATIC, GLIBC_DYNAMIC = ("static", "static-pie"), ("dynamic", "now", "no-pie")
TCB_WORDS = "bytes for the static TLS block and the thread control block"


@pytest.fixture(scope="module")
def hellos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Call]]]:
    """Each hello with the calls of one run, compiled and run when first asked for."""
    directory = tmp_path_factory.mktemp("hello")

    class Hellos(dict[str, tuple[Path, list[Call]]]):
        def __missing__(self, name: str) -> tuple[Path, list[Call]]:
            compiler, flags = VARIANTS[name]
            path = compile_c(directory / f"hello-{name}", HELLO, *flags, compiler=compiler)
            self[name] = path, explained(path)
            return self[name]

    return Hellos()


Hellos = dict[str, tuple[Path, list[Call]]]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_call_of_a_hello_is_explained(hellos: Hellos, name: str) -> None:
    path, calls = hellos[name]
    silent = [call["name"] for call in calls if not call["explain"]]
    assert silent == []
    assert len(calls) > 5
    assert f"the kernel maps {path.name} ({len(loads(path))} segments)" in calls[0]["explain"]
    if interpreter(path):
        assert f"its interpreter {interpreter(path)} ({len(loads(interpreter(path)))} segments)" in calls[0]["explain"]
    assert calls[-1]["explain"].startswith("ends the process and all its threads with status 0: main has returned")


def mapped(calls: list[Call], name: str) -> list[Call]:
    """The mmap calls whose sentences are about a file."""
    return [call for call in calls if call["name"] == "mmap" and f" {name}" in call["explain"]]


def check_library(calls: list[Call], path: str, name: str) -> None:
    """Reservation, segments and .bss of a library that is loaded by glibc, each call with the sentence of its own segment."""
    first, *rest = loads(path)
    about = mapped(calls, name)
    start = about[0]
    assert start["explain"].startswith(f"reserves the whole span of {name} ({span(path)} bytes for {len(rest) + 1} PT_LOADs)")
    assert f"segment {first.index} ({first.prot}" in start["explain"]
    assert start["raw_args"][1] == span(path)
    base = start["ret"] - (first.vaddr & -PAGE)
    for load in rest:
        at = load.vaddr & -PAGE
        (call,) = (item for item in about[1:] if item["raw_args"][0] == base + at and "bss" not in item["explain"])
        assert call["raw_args"][2] == load.bits
        assert call["explain"].startswith(segment_words(load, name))
        assert call["explain"].endswith(f" at +{at:#x}")
    larger = [load for load in rest if -(-(load.vaddr + load.memsz) // PAGE) > -(-(load.vaddr + load.filesz) // PAGE)]
    bss = [call["explain"] for call in about if call["explain"].startswith(".bss")]
    assert bss == [
        f".bss of {name}: segment {load.index} has {load.memsz - load.filesz} bytes more in memory than in the file"
        for load in larger
    ]


@pytest.mark.parametrize("name", GLIBC_DYNAMIC)
def test_libc_is_loaded_segment_by_segment(hellos: Hellos, name: str) -> None:
    path, calls = hellos[name]
    libc = cached("libc.so.6")
    where = os.path.dirname(libc)
    looks = f"looks for libc.so.6 in {where} (ld.so.cache says so): DT_NEEDED of {path.name} names it"
    assert looks in words_of(calls, "openat")
    check_library(calls, libc, "libc.so.6")
    count = len(headers(libc))
    header = next(words for words in words_of(calls, "read") if "ELF header" in words)
    held = min(count, (832 - 64) // 56)
    assert f"ELF header of libc.so.6, and {'all' if held == count else f'the first {held} of'} {count} program" in header
    if held < count:
        assert f"reads the program headers of libc.so.6: {count} of 56 bytes, at e_phoff 64" in words_of(calls, "pread64")
    assert "closes libc.so.6: its segments stay mapped" in words_of(calls, "close")


@pytest.mark.parametrize("name", GLIBC_DYNAMIC)
def test_the_cache_is_found_mapped_and_unmapped(hellos: Hellos, name: str) -> None:
    _, calls = hellos[name]
    assert words_of(calls, "access") == ["ld.so.preload names libraries to load before all others: there is none"]
    opened = next(call for call in calls if call["explain"].startswith("ld.so.cache: which path"))
    mapping = next(call for call in calls if call["explain"] == "maps ld.so.cache whole, read-only")
    gone = next(call for call in calls if call["explain"].startswith("unmaps ld.so.cache"))
    assert '"/etc/ld.so.cache"' in opened["args"]
    assert mapping["raw_args"][1] == os.path.getsize("/etc/ld.so.cache")
    assert gone["raw_args"][:2] == [mapping["ret"], mapping["raw_args"][1]]
    assert "closes ld.so.cache: it stays mapped" in words_of(calls, "close")


def relros(calls: list[Call]) -> dict[str, tuple[int, int, bool]]:
    """By object: offset, size and BIND_NOW, as the sentences say."""
    found = {}
    for words in words_of(calls, "mprotect"):
        parts = re.fullmatch(r"RELRO: .* of (\S+) relocated, now read-only: (\d+) bytes at \+?(0x\w+)(;.*)?", words)
        assert parts, words
        found[parts[1]] = (int(parts[3], 16), int(parts[2]), "BIND_NOW" in (parts[4] or ""))
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_relro_of_each_object(hellos: Hellos, name: str) -> None:
    path, calls = hellos[name]
    expected = (
        {} if name == "musl-static" else {path.name: (*relro(path), name == "now")}
    )  # musl's static start protects nothing
    if name in GLIBC_DYNAMIC:
        libc, linker = cached("libc.so.6"), interpreter(path)
        expected |= {file.rsplit("/", 1)[1]: (*relro(file), binds_now(file)) for file in (libc, linker)}
    if name == "musl":
        expected |= {os.path.basename(interpreter(path)): (*relro(interpreter(path)), binds_now(interpreter(path)))}
    assert relros(calls) == expected


def binds_now(path: str | Path) -> bool:
    text = run("readelf", "-dW", path).stdout
    return any(word in text for word in ("BIND_NOW", "NOW\n", "(FLAGS_1)            Flags: NOW"))


@pytest.mark.parametrize("name", [*GLIBC_DYNAMIC, *GLIBC_STATIC])
def test_thread_control_block_of_glibc(hellos: Hellos, name: str) -> None:
    """The memory before it, FS in it, and what is registered in it."""
    _, calls = hellos[name]
    at = next(number for number, call in enumerate(calls) if call["name"] == "arch_prctl")
    before, fs = calls[at - 1], calls[at]["raw_args"][1]
    if name in GLIBC_DYNAMIC:
        size, start = before["raw_args"][1], before["ret"]
        assert before["explain"].startswith(f"{size} {TCB_WORDS}")
    else:
        start = calls[at - 2]["ret"]
        assert before["explain"].startswith(f"{before['ret'] - start} {TCB_WORDS.replace('bytes', 'bytes of heap')}")
    assert f"{fs - start:#x} into what the call before has" in calls[at]["explain"]
    for name_ in ("set_tid_address", "set_robust_list", "rseq"):
        call = next(item for item in calls if item["name"] == name_)
        assert call["explain"].endswith(f"{call['raw_args'][0] - fs:#x} into the thread control block")
    assert words_of(calls, "prlimit64") == ["how large may a stack grow? The default size of new threads' stacks"]


@pytest.mark.parametrize("name", ["musl", "musl-static"])
def test_thread_control_block_of_musl_is_in_its_data(hellos: Hellos, name: str) -> None:
    path, calls = hellos[name]
    image = interpreter(path) or path
    data = loads(image)[-1]
    where = f"segment {data.index} of {os.path.basename(image)}"
    (fs,) = words_of(calls, "arch_prctl")
    (tid,) = words_of(calls, "set_tid_address")
    assert fs == f"sets FS to the thread control block, in {where} itself"
    assert tid.endswith(f"in {where}")


def test_musl_keeps_its_bookkeeping_behind_a_guard(hellos: Hellos) -> None:
    _, calls = hellos["musl"]
    (guard,) = (call for call in calls if call["name"] == "mmap")
    first, grown = (call for call in calls if call["name"] == "brk")
    assert guard["explain"].startswith("a guard: the first of the two pages")
    assert guard["raw_args"][:3] == [first["ret"], PAGE, 0]
    assert grown["ret"] - first["ret"] == 2 * PAGE
    assert grown["explain"].startswith("two pages of heap for musl's malloc")


@pytest.mark.parametrize("name", [*GLIBC_DYNAMIC, *GLIBC_STATIC])
def test_malloc_and_stdio_of_glibc(hellos: Hellos, name: str) -> None:
    _, calls = hellos[name]
    assert words_of(calls, "getrandom")[0].startswith("malloc is called for the first time")
    heap = [call for call in calls if call["name"] == "brk"]
    number = next(number for number, call in enumerate(heap) if "malloc's first arena" in call["explain"])
    assert (
        heap[number]["explain"] == f"malloc's first arena: {(heap[number]['ret'] - heap[number - 1]['ret']) >> 10} KiB of heap"
    )
    assert heap[number - 1]["explain"] == "where does the heap end? malloc is about to make it grow"
    assert heap[0]["explain"] == "where does the heap begin? Nothing is taken yet"
    asked = words_of(calls, "newfstatat", phase="program")
    assert asked == ["stdio sets up a buffer for stdout: how large, and is it a terminal? It is a pipe"]
    assert words_of(calls, "write") == ["stdio passes on what was written to stdout, as main has returned: 6 bytes"]


def test_lines_below_the_calls_can_be_removed(hellos: Hellos, tmp_path: Path) -> None:
    path, _ = hellos["dynamic"]
    run(*TRACE, "--explain", "-o", tmp_path / "with", path)
    run(*TRACE, "-o", tmp_path / "without", path)
    lines = (tmp_path / "with").read_text().splitlines()
    plain = [line for line in lines if not re.match(r" *# ", line)]
    assert all(line.startswith("   # ") for line in lines if line not in plain)
    assert len(lines) > 1.9 * len(plain)

    def normal(some: list[str]) -> list[str]:
        return [re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+|getrandom.*|=.*|\d{4,}", "N", line)) for line in some]

    assert normal(plain) == normal((tmp_path / "without").read_text().splitlines())


def test_a_filter_changes_no_explanation(hellos: Hellos) -> None:
    path, calls = hellos["dynamic"]
    shown = explained(path, flags=("-e", "mprotect,write,rseq,munmap"))
    names = ("mprotect", "write", "rseq", "munmap")
    assert [call["explain"] for call in shown] == [call["explain"] for call in calls if call["name"] in names]


def requesters(path: str) -> dict[str, str]:
    """Who asks for each library: breadth first, as DT_NEEDED has them."""
    order, asked = [path], dict[str, str]()
    for item in order:
        for name in needed(item):
            if name not in asked and "ld-linux" not in name:
                asked[name] = os.path.basename(item)
                order.append(cached(name))
    return asked


def test_who_asks_for_each_library_of_ls() -> None:
    calls = explained("/bin/ls", "/")
    expected = requesters(os.path.realpath("/bin/ls"))
    found = re.findall(
        r"looks for (\S+) in \S+ \(ld.so.cache says so\): DT_NEEDED of (\S+) names it", "\n".join(words_of(calls, "openat"))
    )
    assert dict(found) == expected
    assert len(expected) > 2
    for name in expected:
        check_library([call for call in calls if call["phase"] == "interpreter"], cached(name), name)
    silent = [call["name"] for call in calls if call["phase"] in ("loader", "interpreter") and not call["explain"]]
    assert set(silent) <= {"statfs", "openat", "newfstatat", "read", "close", "access"}  # libselinux's constructor


def test_reflective_s_own_loader(hellos: Hellos) -> None:
    path, calls = hellos["dynamic"]
    ours = explained(path, flags=("--via", "reflective"))
    loading = [call for call in ours if call["phase"] == "loader"]
    silent = [call for call in loading if not call["explain"] and call["errno"] is None]
    assert silent == []
    about = [call["explain"] for call in loading if call["explain"].startswith("maps segment")]
    expected = [
        f"maps segment {load.index} of the {what}, {named} ({load.prot}) at +{load.vaddr & -PAGE:#x}"
        for what, named in (("executable", path), ("interpreter", "/lib64/ld-linux-x86-64.so.2"))
        for load in loads(named)
    ]
    assert about == expected

    def sentences(some: list[Call]) -> list[str]:
        return [call["explain"] for call in some if call["phase"] != "loader"]

    assert sentences(ours) == sentences(calls)


@pytest.mark.flaky(reruns=3)
def test_every_task_s_lines_are_those_without_explanations(tmp_path: Path) -> None:
    """The same lines of each task, in the same order, explanations left out."""
    words = ("sh", "-c", "(exit 3); cat /dev/null; exit 1")
    run(*TRACE, "-f", "--explain", "-o", tmp_path / "with", *words)
    run(*TRACE, "-f", "-o", tmp_path / "without", *words)

    def by_task(path: Path) -> list[list[str]]:
        tasks: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if not line.startswith("   # "):
                task, rest = line.split(None, 1)
                name = re.match(r"<\.\.\. (\w+) resumed|(\w+)\(|(\+\+\+ .*|--- \w+)", rest)
                assert name, line
                tasks.setdefault(task, []).append(next(filter(None, name.groups())))
        chance = ("wait4", "rt_sigreturn", "--- SIGCHLD")
        return [
            [name for name in names if name not in chance] for _, names in sorted(tasks.items(), key=lambda item: int(item[0]))
        ]

    def once(names: list[str]) -> list[str]:
        """An interrupted call has two lines."""
        return [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]

    assert [once(names) for names in by_task(tmp_path / "with")] == [once(names) for names in by_task(tmp_path / "without")]
    assert len(by_task(tmp_path / "with")) == 3


def test_json_is_as_the_schema_says(hellos: Hellos) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "trace.schema.json").read_text())
    item = next(one for one in schema["oneOf"] if one["properties"]["event"]["const"] == "syscall")
    assert item["properties"]["explain"]["type"] == "string"
    for name in VARIANTS:
        for call in hellos[name][1]:
            assert call.keys() == {*item["required"], "explain"} == item["properties"].keys() - {"stack"}
            assert isinstance(call["explain"], str)
            assert call["explain"].isprintable()
