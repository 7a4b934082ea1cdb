"""Handlers of binfmt_misc: the same file run by the kernel and by reflective, in a namespace with handlers of its own.

`python tests/kernel/test_binfmt.py WORK WITNESS` is what runs there; since Linux 6.7 a user namespace has its own handlers.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from elfwriter import EM_RISCV
from elfwriter import program as elf_program
from skips import needs
from support import ENVIRONMENT, loaded, native

from reflective.conform.documented import table, why
from reflective.conform.start import Start, differences
from reflective.conform.variants import Compiler

MISC = Path("/proc/sys/fs/binfmt_misc")
# argv[1], four bytes of it, to standard output; exit status argc
RISCV = struct.pack("<8I", 0x01013583, 0x00100513, 0x00400613, 0x04000893, 0x73, 0x00013503, 0x05D00893, 0x73)
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount"]
QEMU = Path("/usr/share/binfmts/qemu-riscv64")  # Debian's, for update-binfmts

# Handlers in the order of their registration, then the file that is run: name and contents. WITNESS is the program that tells.
CASES: dict[str, tuple[tuple[str, ...], str, bytes]] = {
    "extension": ((":one:E::foo::WITNESS:",), "file.foo", b"x"),
    "last extension counts": ((":one:E::foo::WITNESS:",), "file.bar.foo", b"x"),
    "extension in a directory's name": ((":one:E::foo::WITNESS:",), "d.foo/x", b"x"),
    "magic": ((":one:M::magic::WITNESS:",), "file", b"magic and more"),
    "magic at an offset under a mask": ((r":one:M:4:ab:\xff\xf0:WITNESS:",), "file", b"0123ao"),
    "magic does not match": ((":one:M::magic::WITNESS:",), "file", b"nothing"),
    "keeps argv[0]": ((":one:E::foo::WITNESS:P",), "file.foo", b"x"),
    "open file": ((":one:E::foo::WITNESS:O",), "file.foo", b"x"),
    "open file, argv[0], credentials, fixed": ((":one:E::foo::WITNESS:POCF",), "file.foo", b"x"),
    "credentials imply the open file": ((":one:E::foo::WITNESS:C",), "file.foo", b"x"),
    "the newest of two": ((":old:E::foo::/bin/false:", ":new:M::xyz::WITNESS:P"), "file.foo", b"xyz"),
    "before scripts": ((":one:M::#!::WITNESS:",), "file", b"#!/bin/false\n"),
    "before ELF": ((":one:E::foo::WITNESS:O",), "file.foo", b"ELF"),
    "the handler is a script": ((":one:E::foo::SCRIPT:P",), "file.foo", b"x"),
    "a script whose interpreter has a handler": ((":one:E::foo::WITNESS:PO",), "script", b"#!INNER with argument\n"),
    "a handler's interpreter has a handler": ((":one:E::foo::WITNESS:P", ":two:E::bar::INNER:P"), "file.bar", b"x"),
    "two open files": ((":one:E::foo::WITNESS:O", ":two:E::bar::INNER:O"), "file.bar", b"x"),
    "in a circle": ((":one:E::foo::INNER:",), "file.foo", b"x"),
    "the interpreter is missing": ((":one:E::foo::/nonexistent:",), "file.foo", b"x"),
    "switched off": ((":one:E::foo::WITNESS:", "0"), "file.foo", b"x"),
    "one switched off": ((":one:E::foo::WITNESS:", ":two:E::foo::/bin/false:", "two=0"), "file.foo", b"x"),
}

# The kernel has opened the file it hands over for execution: __FMODE_EXEC, which open() does not take.
HANDED_OVER = {"descriptors[4].status_flags": (str(os.O_RDONLY | 0o100000), "opened by the kernel")}
EXCEPTIONS = table() | HANDED_OVER


def namespaces() -> bool:
    """Whether handlers of our own can be registered."""
    script = f"mount -t binfmt_misc none {MISC} && echo ':a:E::a::/a:' >{MISC}/register"
    return subprocess.run([*NAMESPACES, "sh", "-c", script], capture_output=True, check=False).returncode == 0


def run_there(*arguments: str | Path) -> str:
    """This file's other side."""
    if not namespaces():
        pytest.skip("no binfmt_misc of one's own: needs user namespaces and Linux 6.7")
    command = [*NAMESPACES, sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["dynamic", "entry-static"])
def verdicts(request: pytest.FixtureRequest, compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What differs, by case."""
    return dict(json.loads(run_there(tmp_path_factory.mktemp("binfmt"), compiler.build(request.param))))


@pytest.mark.parametrize("case", CASES)
def test_handler(verdicts: dict[str, str], case: str) -> None:
    """The interpreter finds everything as after execve, or the same error comes."""
    assert verdicts[case] == ""


def test_riscv(tmp_path: Path) -> None:
    """Another machine's program runs, and it is reflective that loads qemu."""
    needs("qemu-riscv64-static", "qemu-user-static")
    program = tmp_path / "hello-riscv"
    program.write_bytes(replace(elf_program(RISCV), machine=EM_RISCV).encode())
    program.chmod(0o755)
    assert run_there("riscv", program) == "".join(f"{flags} (3, b'word')\n" * 2 for flags in ("", "P", "PF", "OCP"))


def test_riscv_without_a_handler(tmp_path: Path) -> None:
    """The error names the machine, and what would run it."""
    program = tmp_path / "hello-riscv"
    program.write_bytes(replace(elf_program(RISCV), machine=EM_RISCV).encode())
    program.chmod(0o755)
    done = loaded([program])
    assert done.returncode == 126
    assert b"RISC-V 64" in done.stderr
    assert b"qemu-riscv64" in done.stderr
    assert b"binfmt_misc" in done.stderr


# Below: what runs in the namespace.


def register(line: str) -> None:
    """A handler; or NAME=VALUE for its file, or a value for all of them."""
    name, _, value = ("register", "", line) if line.startswith(":") else line.rpartition("=")
    (MISC / (name or "status")).write_text(value)


def compare(case: str, work: Path, witness: Path) -> str:
    """Runs the case both ways; what differs."""
    lines, name, contents = CASES[case]
    inner, script = work / "inner.foo", work / "handler.sh"
    inner.write_bytes(b"x")
    script.write_text(f"#!{witness} argument\n")
    program = work / name
    program.parent.mkdir(exist_ok=True)
    program.write_bytes(witness.read_bytes() if contents == b"ELF" else contents.replace(b"INNER", bytes(inner)))
    for path in (inner, script, program):
        path.chmod(0o755)
    (MISC / "status").write_text("-1")  # removes all
    (MISC / "status").write_text("1")
    for line in lines:
        register(line.replace("WITNESS", str(witness)).replace("SCRIPT", str(script)).replace("INNER", str(inner)))
    with open("/dev/null", "rb") as extra:
        kernel, ours = (outcome(way, program, extra.fileno()) for way in (native, loaded))
    if isinstance(kernel, int) or isinstance(ours, int):
        return "" if kernel == ours else f"natively {kernel!r}, by reflective {ours!r}"
    first = witness.name == "entry-static"
    told = [Start(json.loads(text), exact=False, first=first, huge=False).properties() for text in (kernel, ours)]
    return "\n".join(str(one) for one in differences(*told) if not why(one, EXCEPTIONS))


def outcome(way: object, program: Path, fd: int) -> bytes | int:
    """What the witness told; an errno if it could not be run."""
    import reflective

    run = subprocess.run if way is native else reflective.run
    try:
        done = run(
            ["argv 0", "one", "", "three"], executable=program, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, pass_fds=(fd,), timeout=20, check=False,
        )  # fmt: skip
    except OSError as error:
        return error.errno or 0
    return bytes(done.stdout)


def riscv(program: Path) -> None:
    """Flags, status and output of the program, by the kernel and by reflective."""
    told = dict(line.split(" ", 1) for line in QEMU.read_text().splitlines())
    for flags in ("", "P", "PF", "OCP"):
        (MISC / "status").write_text("-1")
        register(f":qemu-riscv64:M::{told['magic']}:{told['mask']}:/usr/bin/qemu-riscv64-static:{flags}")
        for way in (native, loaded):
            done = way([program, "word", "more"])
            print(flags, (done.returncode, done.stdout))


if __name__ == "__main__":
    subprocess.run(["mount", "-t", "binfmt_misc", "none", MISC], check=True)
    if sys.argv[1] == "riscv":
        riscv(Path(sys.argv[2]))
    else:
        print(json.dumps({case: compare(case, Path(sys.argv[1]), Path(sys.argv[2])) for case in CASES}))
