"""What makes a template anew, and what its clones have in common."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from shell_template import SHELL, same, say, warm
from verdict import may_set_exe

from reflective import Template
from reflective.conform.start import parse_maps
from reflective.template.key import read_by_linker


def test_other_state_makes_another_template(shell: Template) -> None:
    """What is not handed to each clone, the template must have: it is made again."""
    first = warm(shell)[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 100, hard))
    try:
        assert same(shell, "ulimit -n") == f"{soft - 100}\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same(shell, "ulimit -n") == f"{soft}\n"
    assert first not in warm(shell)


@pytest.mark.parametrize("number", range(8))
def test_each_template_knows_what_it_was_born_with(number: int) -> None:
    """Signals that are ignored here are not in what it starts, and the other way round."""
    script = "grep SigIgn /proc/self/status"
    with Template(SHELL, pool=number % 2) as template:
        for restore in (True, False):
            same(template, script, restore_signals=restore)


def test_linker_environment(tmp_path: Path) -> None:
    """What ld.so reads of the environment is read anew: another template, or the ordinary way."""
    source = tmp_path / "hello.c"
    source.write_text('#include <unistd.h>\n__attribute__((constructor)) void c(void) { write(1, "preloaded\\n", 10); }\n')
    library = tmp_path / "hello.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with Template("/bin/true") as template:
        assert template.run(["true"], capture_output=True).stdout == b""
        for _ in range(2):
            assert template.run(["true"], capture_output=True, env={"LD_PRELOAD": str(library)}).stdout == b"preloaded\n"
            assert template.run(["true"], capture_output=True, env={}).stdout == b""
        assert len(warm(template)) == 2
        for name in ("LD_TRACE_LOADED_OBJECTS", "LD_SHOW_AUXV"):
            assert b"AT_" in (out := template.run(["true"], capture_output=True, env={name: "1"}).stdout) or b"libc.so" in out
        wrong = template.run(["true"], capture_output=True, env={"LD_PRELOAD": "/nowhere.so"})
        assert b"cannot be preloaded" in wrong.stderr, "a warning of ld.so comes with each start"


def test_names_that_the_linker_reads() -> None:
    """Every environment variable that this ld.so knows makes another key."""
    text = Path("/lib64/ld-linux-x86-64.so.2").read_bytes()
    names = [word for word in text.split(b"\0") if word.isupper() and word.startswith((b"LD_", b"MALLOC_", b"GLIBC_TUNABLES"))]
    known = [name for name in names if b"." not in name]
    assert {b"LD_LIBRARY_PATH", b"LD_PRELOAD", b"GLIBC_TUNABLES", b"MALLOC_PERTURB_"} <= set(known)
    assert [name for name in known if not read_by_linker(b"A=1\0" + name + b"=1\0")] == []


def test_changed_program(tmp_path: Path) -> None:
    """A changed file is noticed: replaced, overwritten, without permission, gone."""
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    with Template(program) as template:
        assert template.run(["x"]).returncode == 0
        shutil.copy("/bin/false", tmp_path / "other")
        os.replace(tmp_path / "other", program)
        assert template.run(["x"]).returncode == 1
        program.chmod(0o644)
        with pytest.raises(PermissionError):
            template.run(["x"])
        program.unlink()
        with pytest.raises(FileNotFoundError):
            template.run(["x"])


def test_changed_library(tmp_path: Path) -> None:
    """So is a changed library, and one that appears in a directory that is searched earlier."""
    for name, value in (("first", 1), ("second", 2)):
        (tmp_path / name).mkdir()
        source = tmp_path / f"{name}.c"
        source.write_text(f"int value(void) {{ return {value}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name / "libvalue.so", source], check=True)
    main = tmp_path / "main.c"
    main.write_text("int value(void); int main(void) { return value(); }\n")
    origin = "$ORIGIN" if may_set_exe() else tmp_path  # which is looked up by /proc/self/exe
    link = ["-L", str(tmp_path / "second"), "-lvalue", f"-Wl,-rpath,{tmp_path}/early:{origin}/second"]
    subprocess.run(["cc", "-o", tmp_path / "main", main, *link], check=True)
    (tmp_path / "early").mkdir()
    with Template(tmp_path / "main") as template:
        assert template.run(["main"]).returncode == 2
        assert warm(template)
        shutil.copy(tmp_path / "first" / "libvalue.so", tmp_path / "early" / "libvalue.so")
        assert template.run(["main"]).returncode == 1
        (tmp_path / "early" / "libvalue.so").unlink()
        assert template.run(["main"]).returncode == 2


def test_relative_to_another_directory(tmp_path: Path) -> None:
    """What is looked for relative to the directory is looked for in the one that the program is started in."""
    for name, status in (("here", 3), ("there", 4)):
        (tmp_path / name).mkdir()
        source = tmp_path / f"{name}.c"
        source.write_text(f"int value(void) {{ return {status}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / name / "libvalue.so", source], check=True)
    main = tmp_path / "main.c"
    main.write_text("int value(void); int main(void) { return value(); }\n")
    program = tmp_path / "main"
    subprocess.run(["cc", "-o", program, main, f"-L{tmp_path / 'here'}", "-lvalue"], check=True)
    with contextlib.chdir(tmp_path / "here"), Template(program) as template:
        for where, status in ((None, 3), (tmp_path / "there", 4), (tmp_path / "here", 3)):
            assert template.run(["main"], cwd=where, env={"LD_LIBRARY_PATH": "."}).returncode == status
    (tmp_path / "here" / "run").symlink_to("/bin/true")
    (tmp_path / "there" / "run").symlink_to("/bin/false")
    with contextlib.chdir(tmp_path / "here"), Template("./run") as template:
        assert template.run(["run"]).returncode == 0
        assert template.run(["run"], cwd=tmp_path / "there").returncode == 1


def test_script(tmp_path: Path) -> None:
    """A template of a script is one of its interpreter, with the arguments in place."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\necho $0 $1\n")
    script.chmod(0o755)
    with Template(script) as template:
        for word in ("a", "b"):
            assert template.run(["ignored", word], capture_output=True, text=True).stdout == f"{script} {word}\n"
        assert warm(template)


def test_addresses(shell: Template) -> None:
    """The heap is another for each clone, what the template has mapped is not, until it is refreshed."""

    def places() -> tuple[int, int]:
        regions = parse_maps(say(shell, "cat /proc/$$/maps; :"))
        return (
            next(region.start for region in regions if "libc.so" in region.name),
            next(region.start for region in regions if region.name == "[heap]"),
        )

    (library, heap), (library_2, heap_2) = places(), places()
    assert library == library_2
    assert heap != heap_2
    shell.refresh()
    assert places()[0] != library


def test_refresh_every(shell: Template) -> None:
    """With an age that is always past, each start has a template of its own."""
    shell.refresh(every=1e-9)
    pids = set()
    for _ in range(3):
        say(shell, "true")
        pids.add(warm(shell)[0].process.pid)
    assert len(pids) == 3


def test_secrets(tmp_path: Path) -> None:
    """AT_RANDOM, the stack protector's canary and the pointer guard are each clone's own, and agree as glibc makes them."""
    source = tmp_path / "secrets.c"
    source.write_text("""
        #include <stdio.h>
        #include <string.h>
        #include <sys/auxv.h>
        int main(void) {
            unsigned long canary, guard, random[2];
            __asm__("mov %%fs:0x28, %0" : "=r"(canary));
            __asm__("mov %%fs:0x30, %0" : "=r"(guard));
            memcpy(random, (void *)getauxval(AT_RANDOM), 16);
            printf("%lx %d %d\\n", random[0], canary == (random[0] & ~0xfful), guard == random[1]);
            return 0;
        }""")
    subprocess.run(["cc", "-o", tmp_path / "secrets", source], check=True)
    with Template(tmp_path / "secrets", pool=1) as template:
        said = [template.run(["x"], capture_output=True, text=True).stdout.split() for _ in range(4)]
        assert warm(template)
    assert [words[1:] for words in said] == [["1", "1"]] * 4
    assert len({words[0] for words in said}) == 4
