"""`trace --explain` of searches and loads that a test sets up: paths, preloads, dlopen, threads; and what is not explained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from explained import TRACE, Call, compile_c, explained, loads, run, segment_words, span, words_of

FOO = "static int four[1000] = {4}; int zero[5000]; int foo(void) { return four[zero[0]] - 4; }\n"
CALLS_FOO = "int foo(void);\nint main(void) { return foo(); }\n"
LAYOUTS = {
    "four segments": (),
    "two segments": ("-Wl,-z,noseparate-code",),
    "aligned to 2 MiB": ("-Wl,-z,max-page-size=0x200000",),
    "aligned to 64 KiB": ("-Wl,-z,max-page-size=0x10000", "-Wl,-z,now"),
}


def library(target: Path, *flags: str, source: str = FOO, compiler: str = "gcc") -> Path:
    return compile_c(target, source, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", *flags, compiler=compiler)


def program(target: Path, lib: Path, *flags: str, compiler: str = "gcc") -> Path:
    return compile_c(target, CALLS_FOO, f"-L{lib.parent}", "-lfoo", *flags, compiler=compiler)


def looks(calls: list[Call], name: str) -> list[Call]:
    """The calls that open a file of that name, from the first that does."""
    return [call for call in calls if call["name"] in ("open", "openat") and f"looks for {name}" in call["explain"]]


SEARCHES = {
    "runpath": (("-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib",), False, "RUNPATH of prog: $ORIGIN/lib"),
    "rpath": (("-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib",), False, "RPATH of prog: $ORIGIN/lib"),
    "environment": ((), True, "LD_LIBRARY_PATH"),
    "rpath before environment": (("-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib",), True, "RPATH of prog: $ORIGIN/lib"),
    "environment before runpath": (("-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib",), True, "LD_LIBRARY_PATH"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_which_list_a_directory_is_from(name: str, tmp_path: Path) -> None:
    flags, environment, words = SEARCHES[name]
    lib = library(tmp_path / "lib" / "libfoo.so")
    path = program(tmp_path / "prog", lib, *flags)
    empty = tmp_path / "nothing"
    calls = explained(path, env={"LD_LIBRARY_PATH": f"{empty}:{lib.parent}"} if environment else {})
    opened = looks(calls, "libfoo.so")
    assert opened[-1]["explain"] == f"looks for libfoo.so in {lib.parent} ({words}): DT_NEEDED of prog names it"
    assert all(call["explain"].endswith("DT_NEEDED of prog names it; it is not there") for call in opened[:-1])
    assert all(call["errno"] == "ENOENT" for call in opened[:-1])
    if words == "LD_LIBRARY_PATH":
        assert f"looks for libfoo.so in {empty} (LD_LIBRARY_PATH): DT_NEEDED of prog names it; it is not there" in [
            call["explain"] for call in opened
        ]
    variants = [call for call in opened if "variant" in call["explain"]]
    for call in variants:
        rest = re.search(r"the variant (\S+) for this processor", call["explain"])
        assert rest
        assert f"/{rest[1]}/libfoo.so" in call["args"][1]
    silent = [call["name"] for call in calls if call["phase"] == "interpreter" and not call["explain"]]
    assert silent == []


def test_a_library_s_own_runpath_serves_what_it_needs(tmp_path: Path) -> None:
    inner = library(tmp_path / "inner" / "libinner.so", source="int inner(void) { return 0; }\n")
    outer = library(
        tmp_path / "outer" / "libfoo.so", f"-L{inner.parent}", "-linner", f"-Wl,--enable-new-dtags,-rpath,{inner.parent}",
        source="int inner(void);\nint foo(void) { return inner(); }\n",
    )  # fmt: skip
    path = program(
        tmp_path / "prog", outer, f"-Wl,--enable-new-dtags,-rpath,{outer.parent}", f"-Wl,-rpath-link,{inner.parent}"
    )
    calls = explained(path)
    assert looks(calls, "libfoo.so")[-1]["explain"].endswith("(RUNPATH of prog): DT_NEEDED of prog names it")
    assert looks(calls, "libinner.so")[-1]["explain"] == (
        f"looks for libinner.so in {inner.parent} (RUNPATH of libfoo.so): DT_NEEDED of libfoo.so names it"
    )


def test_a_library_that_is_missing_is_looked_for_in_the_default_directories(tmp_path: Path) -> None:
    lib = library(tmp_path / "lib" / "libfoo.so")
    path = program(tmp_path / "prog", lib)
    shutil.rmtree(lib.parent)
    calls = explained(path)
    found = [re.search(r" in (\S+) \(a default directory of ld.so\)", call["explain"]) for call in looks(calls, "libfoo.so")]
    assert {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"} <= {item[1] for item in found if item}
    assert all(found)


def test_preloaded(tmp_path: Path) -> None:
    lib = library(tmp_path / "libfoo.so")
    calls = explained("/bin/true", env={"LD_PRELOAD": str(lib)})
    assert looks(calls, "libfoo.so")[0]["explain"] == f"looks for libfoo.so in {tmp_path}: LD_PRELOAD names it"


def test_musl_searches_in_its_own_order(tmp_path: Path) -> None:
    lib = library(tmp_path / "lib" / "libfoo.so", compiler="musl-gcc")
    path = program(tmp_path / "prog", lib, "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib", compiler="musl-gcc")
    (opened,) = looks(explained(path), "libfoo.so")
    assert opened["explain"] == f"looks for libfoo.so in {lib.parent} (RPATH of prog: $ORIGIN/lib): DT_NEEDED of prog names it"
    first = looks(explained(path, env={"LD_LIBRARY_PATH": f"/nonexistent:{lib.parent}"}), "libfoo.so")
    assert [call["explain"].partition("(")[2].partition(")")[0] for call in first] == ["LD_LIBRARY_PATH"] * 2
    calls = explained(path)
    silent = [call["name"] for call in calls if call["phase"] == "interpreter" and not call["explain"]]
    assert silent == []
    for load in loads(lib)[1:]:
        assert any(words.startswith(segment_words(load, "libfoo.so")) for words in words_of(calls, "mmap"))


def test_musl_looks_last_where_its_path_file_says(tmp_path: Path) -> None:
    lib = library(tmp_path / "lib" / "libfoo.so", compiler="musl-gcc")
    path = program(tmp_path / "prog", lib, compiler="musl-gcc")
    directories = Path("/etc/ld-musl-x86_64.path").read_text().replace(":", "\n").split()
    calls = explained(path)
    assert [call["explain"] for call in looks(calls, "libfoo.so")] == [
        f"looks for libfoo.so in {where} (musl's own list of directories): DT_NEEDED of prog names it; it is not there"
        for where in directories
    ]
    about = [call["explain"] for call in calls if "musl's" in call["explain"] and "looks for" not in call["explain"]]
    assert about == [
        "two pages of heap for musl's malloc: the next call makes the first a guard, its bookkeeping is in the other",
        "musl's list of directories to look for libraries in", "how large is musl's path file: it is read whole",
        "reads musl's path file", "closes musl's path file",
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_segments_are_those_of_the_file_that_is_there(layout: str, tmp_path: Path) -> None:
    """One program, and a library that is replaced: the sentences follow the file."""
    lib = library(tmp_path / "lib" / "libfoo.so")
    path = program(tmp_path / "prog", lib, f"-Wl,-rpath,{lib.parent}")
    library(lib, *LAYOUTS[layout])
    calls = [call for call in explained(path) if "libfoo.so" in call["explain"]]
    first, *rest = loads(lib)
    start = next(call for call in calls if "whole span" in call["explain"])
    assert f"segment {first.index} ({first.prot}" in start["explain"]
    assert start["raw_args"][1] == span(lib)
    about = [call for call in calls if call["explain"].startswith("maps segment")]
    for load, call in zip(rest, about, strict=True):
        assert call["explain"].startswith(segment_words(load, "libfoo.so"))
        assert call["explain"].endswith(f" at +{load.vaddr & -4096:#x}")
        assert call["raw_args"][0] == start["ret"] + (load.vaddr & -4096)
    large = any(word in layout for word in ("2 MiB", "64 KiB"))
    assert large == any("to choose a multiple of its alignment" in call["explain"] for call in calls)
    assert large == any("left over" in call["explain"] for call in calls)
    assert not [call for call in explained(path) if call["phase"] == "interpreter" and not call["explain"]]


def test_dlopen_is_a_load_after_main_began(tmp_path: Path) -> None:
    inner = library(tmp_path / "libinner.so", source="int inner(void) { return 0; }\n")
    outer = library(
        tmp_path / "libouter.so", f"-L{tmp_path}", "-linner", f"-Wl,--enable-new-dtags,-rpath,{tmp_path}",
        source="int inner(void);\nint outer(void) { return inner(); }\n",
    )  # fmt: skip
    source = f'#include <dlfcn.h>\nint main(void) {{ return dlclose(dlopen("{outer}", RTLD_NOW)); }}\n'
    calls = explained(compile_c(tmp_path / "prog", source))
    assert looks(calls, "libouter.so")[0]["explain"] == (
        f"looks for libouter.so in {tmp_path}: dlopen, as main has begun and no DT_NEEDED asks for it"
    )
    assert looks(calls, "libinner.so")[-1]["explain"] == (
        f"looks for libinner.so in {tmp_path} (RUNPATH of libouter.so): DT_NEEDED of libouter.so names it"
    )
    assert not [call for call in calls if call["phase"] == "interpreter" and "dlopen" in call["explain"]]
    assert {words for words in words_of(calls, "munmap") if "unloads" in words} == {
        f"unloads lib{name}.so: its whole span" for name in ("inner", "outer")
    }
    assert inner.exists()


@pytest.mark.flaky(reruns=3)
def test_threads(tmp_path: Path) -> None:
    source = """
        #include <pthread.h>
        #include <stdlib.h>
        static void *volatile kept;
        static void *work(void *p) { kept = malloc(100); return p; }
        int main(void) { pthread_t t; return pthread_create(&t, 0, work, 0) || pthread_join(t, 0); }
    """
    calls = explained(compile_c(tmp_path / "prog", source, "-pthread"), flags=("-f",))
    stack = next(call for call in calls if "for a thread's stack" in call["explain"])
    usable = next(call for call in calls if "thread's stack usable" in call["explain"])
    guard = usable["raw_args"][0] - stack["ret"]
    assert usable["explain"] == f"makes the thread's stack usable; the lowest {guard} bytes stay its guard"
    assert usable["raw_args"][0] + usable["raw_args"][1] == stack["ret"] + stack["raw_args"][1]
    made = next(call for call in calls if call["explain"].startswith("starts a thread"))
    thread = [call for call in calls if call["tid"] != call["pid"]]
    assert {call["tid"] for call in thread} == {made["ret"]}
    assert f"tid {made['ret']}, on the stack mapped at {stack['ret']:#x}" in made["explain"]
    tls = stack["ret"] + stack["raw_args"][1] - int(re.findall(r"block (0x\w+) below", made["explain"])[0], 16)
    for name in ("rseq", "set_robust_list"):
        (call,) = (item for item in thread if item["name"] == name)
        assert call["explain"].endswith(f"{call['raw_args'][0] - tls:#x} into the thread control block")
    assert [words for words in words_of(thread, "mmap") if words.startswith("malloc's arena for this thread")]
    assert words_of(thread, "exit") == ["ends this thread alone"]


ODD = """
    #include <fcntl.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/random.h>
    #include <sys/stat.h>
    #include <sys/uio.h>
    #include <unistd.h>
    int main(int count, char **words)
    {
        char eight[8], *memory, *file;
        struct stat status;
        int fd = open(words[1], O_RDONLY);
        read(fd, eight, 8);
        fstat(fd, &status);
        fstat(1, &status);
        file = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 4096);
        mmap(file, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
        close(fd);
        memory = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(memory, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        mprotect(memory + 4096, 4096, PROT_READ);
        munmap(memory, 12288);
        mmap(0, 128 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        getrandom(eight, 8, GRND_NONBLOCK);
        sbrk(0x21000);
        openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY);
        openat(AT_FDCWD, "/usr/lib/locale/C.utf8/LC_TIME", O_RDONLY);
        ioctl(1, TIOCGWINSZ, eight);
        open(words[1], O_RDONLY | O_CLOEXEC);
        madvise(file, 4096, MADV_DONTNEED);
        write(1, "direct\\n", 7);
        writev(1, &(struct iovec){"direct\\n", 7}, 1);
        return count - 2;
    }
"""


@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc"])
@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["dynamic", "static"])
def test_what_a_program_does_for_itself_is_not_explained(flags: tuple[str, ...], compiler: str, tmp_path: Path) -> None:
    """Each looks like something that a linker or libc would do, but for the evidence."""
    path = compile_c(tmp_path / "odd", ODD, "-w", "-D_GNU_SOURCE", *flags, compiler=compiler)
    calls = [call for call in explained(path, "/bin/true") if call["phase"] == "program"]
    found = [(call["name"], call["explain"]) for call in calls if call["explain"]]
    assert set(found) <= {("write", "writes 7 bytes to stdout"), ("writev", "writes 7 bytes to stdout")}
    made = {call["name"] for call in calls}
    assert made >= {"mmap", "getrandom", "write", "writev", "ioctl", "mprotect", "munmap", "close", "madvise"}


def test_a_child_goes_on_from_what_its_parent_knew(tmp_path: Path) -> None:
    source = """
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void)
        {
            if (!fork()) { puts("child"); return 3; }
            wait(0);
            execl("/bin/true", "true", (char *)0);
        }
    """
    calls = explained(compile_c(tmp_path / "prog", source), flags=("-f",))
    parent = calls[0]["pid"]
    child = [call for call in calls if call["pid"] != parent]
    assert words_of(child, "write") == ["stdio passes on what was written to stdout: 6 bytes"]
    assert words_of(child, "exit_group")[0].endswith("with status 3: exit has run handlers and destructors")
    assert "malloc's first arena: 132 KiB of heap" in words_of(child, "brk")
    again = [call for call in calls if call["name"] == "execve" and call["pid"] == parent]
    assert "the kernel maps true" in again[1]["explain"]
    after = calls[calls.index(again[1]) :]
    assert [words for words in words_of(after, "openat") if "DT_NEEDED of true names it" in words]
    assert [words for words in words_of(after, "mprotect") if " of true relocated" in words]


def test_the_dynamic_linker_as_a_program(tmp_path: Path) -> None:
    linker = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
    path = compile_c(tmp_path / "prog", "int main(void) { return 0; }\n")
    calls = explained(linker, path)
    assert "a dynamic linker that was started as a program" in calls[0]["explain"]
    assert "opens prog: the program that the dynamic linker was asked to run" in words_of(calls, "openat")
    for load in loads(path)[1:]:
        assert any(words.startswith(segment_words(load, "prog")) for words in words_of(calls, "mmap"))
    assert any("DT_NEEDED of prog names it" in words for words in words_of(calls, "openat"))


def test_wrong_use_of_text_and_count_stays_quiet() -> None:
    done = run(*TRACE, "-c", "--explain", "-o", "/dev/null", "true")
    assert (done.returncode, done.stderr) == (0, "")


def from_glibc(path: Path, env: dict[str, str]) -> list[tuple[str, str]]:
    """Each file that ld.so tries, and which list its directory is from, as it says itself (LD_DEBUG=libs)."""
    found: list[tuple[str, str]] = []
    source = ""
    for line in run(path, env=env | {"LD_DEBUG": "libs"}).stderr.splitlines():
        if words := re.search(r"search path=.*\t\t\((.*)\)$", line):
            kind, _, file = words[1].partition(" from file ")
            named = {"system search path": "a default directory of ld.so"}
            source = f"{kind} of {os.path.basename(file)}" if file else named.get(kind, kind)
        elif "search cache=" in line:
            source = "ld.so.cache says so"
        elif words := re.search(r"trying file=(.*)$", line):
            found.append((words[1], source))
    return found


def from_explanations(calls: list[Call]) -> list[tuple[str, str]]:
    found = []
    for call in calls:
        if call["name"] == "openat" and (words := re.search(r"looks for .* \(([^()]*)\): DT_NEEDED", call["explain"])):
            found.append((call["args"][1].strip('"'), words[1].partition(": ")[0]))
    return found


def needing(target: Path, needed: list[Path], *flags: str) -> Path:
    """A library that needs others."""
    calls = "".join(f"int f_{item.stem}(void); " for item in needed)
    body = " + ".join(f"f_{item.stem}()" for item in needed) or "0"
    source = f"{calls}\nint f_{target.stem}(void) {{ return {body}; }}\n"
    links = [word for item in needed for word in (f"-L{item.parent}", f"-l{item.stem.removeprefix('lib')}")]
    return library(target, "-Wl,--allow-shlib-undefined", *links, *flags, source=source)


OLD, NEW = "-Wl,--disable-new-dtags,-rpath,", "-Wl,--enable-new-dtags,-rpath,"


@pytest.mark.parametrize(
    ("program_path", "first_path", "second_path", "environment"),
    [
        (OLD + "$ORIGIN/a:$ORIGIN/b:$ORIGIN/c", "", "", ""),
        (OLD + "$ORIGIN/a", OLD + "$ORIGIN/../b", OLD + "$ORIGIN/../c", ""),
        (OLD + "$ORIGIN/a:$ORIGIN/c", NEW + "$ORIGIN/../b", "", ""),
        (NEW + "$ORIGIN/a", OLD + "$ORIGIN/../b:$ORIGIN/../c", "", ""),
        (NEW + "$ORIGIN/a", NEW + "${ORIGIN}/../b", NEW + "$ORIGIN/../c", "x"),
        (NEW + "$ORIGIN/a:$ORIGIN/d", "", "", "b:c"),
        ("", OLD + "$ORIGIN/../b", OLD + "/nonexistent", "c:a"),
        ("", NEW + "$ORIGIN/$LIB:$ORIGIN/../b", "", "a:c"),
    ],
)
def test_ld_so_says_the_same_of_its_search(
    program_path: str, first_path: str, second_path: str, environment: str, tmp_path: Path
) -> None:
    """prog needs liba, in a, which needs libb, in b, which needs libc3, in c."""
    third = needing(tmp_path / "c" / "libc3.so", [])
    second = needing(tmp_path / "b" / "libb.so", [third], *([second_path] if second_path else []))
    first = needing(tmp_path / "a" / "liba.so", [second], *([first_path] if first_path else []))
    source = "int f_liba(void);\nint main(void) { return f_liba(); }\n"
    flags = [program_path] if program_path else []
    path = compile_c(tmp_path / "prog", source, f"-L{first.parent}", "-la", "-Wl,--allow-shlib-undefined", *flags)
    words = ":".join(str(tmp_path / name) for name in environment.split(":")) if environment else ""
    env = {"LD_LIBRARY_PATH": words} if words else {}
    assert run(path, env=env).returncode == 0
    theirs, ours = from_glibc(path, env), from_explanations(explained(path, env=env))
    assert ours == theirs
    assert {os.path.basename(file) for file, _ in theirs} == {"liba.so", "libb.so", "libc3.so", "libc.so.6"}


def test_a_library_that_is_loaded_already_under_another_name(tmp_path: Path) -> None:
    lib = compile_c(tmp_path / "libfoo.so", FOO, "-shared", "-fPIC")  # no DT_SONAME: only the file tells
    path = program(tmp_path / "prog", lib, f"-Wl,-rpath,{tmp_path}")
    (tmp_path / "libother.so").symlink_to(lib)
    calls = explained(path, env={"LD_PRELOAD": str(tmp_path / "libother.so")})
    assert "closes libfoo.so: it is libother.so, which is loaded already" in words_of(calls, "close")
    assert not [words for words in words_of(calls, "mmap") if " libfoo.so" in words]


def test_of_an_attached_process_only_what_is_known(tmp_path: Path) -> None:
    """Its heap is not the first arena; a library that it loads from now on is explained."""
    lib = library(tmp_path / "libfoo.so")
    source = f"""
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        int main(void)
        {{
            char *volatile kept = malloc(1000);
            puts("ready");
            fflush(stdout);
            getchar();
            for (int i = 0; i < 4; i++) kept = malloc(100000);
            return !dlopen("{lib}", RTLD_NOW) || !kept;
        }}
    """
    path = compile_c(tmp_path / "prog", source)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        out = tmp_path / "out"
        with subprocess.Popen([*TRACE, "--explain", "-p", str(process.pid), "-o", out], stderr=subprocess.DEVNULL) as tracer:
            status = Path(f"/proc/{process.pid}/status")
            while "TracerPid:\t0\n" in status.read_text():
                assert tracer.poll() is None
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait(30) == 0
            assert tracer.wait(30) == 0
    text = out.read_text()
    assert "malloc's first arena" not in text
    assert "malloc's arena grows" in text
    assert f"looks for libfoo.so in {tmp_path}: dlopen" in text
    assert f"maps segment {loads(lib)[1].index} of libfoo.so ({loads(lib)[1].prot}" in text
    assert "RELRO" in text
