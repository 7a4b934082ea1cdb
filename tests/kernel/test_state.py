"""Whatever a program can observe of its own start is as after a real execve.

Each test runs one program both ways and compares all it says, property by property (src/reflective/conform/start.py).
`python tests/kernel/test_state.py VARIANT` prints the properties of a native start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Unpack

import pytest
from support import Argv, StartOptions, loaded, native, spawned

from reflective.conform.documented import Documented, table, why
from reflective.conform.situations import SITUATIONS, Situation
from reflective.conform.start import Properties, Start, differences, split_smaps
from reflective.conform.variants import VARIANTS, Compiler

FORKS = ("limited address space", "limited data")  # where there is no room for a zygote


def by_zygote(name: str = "") -> Documented:
    """What may differ of a program that was started by way of a zygote, which the kernel has executed."""
    return {
        key: row for key, row in table(name).items() if name in FORKS or key not in ("maps.own", "stat.flags.PF_FORKNOEXEC")
    }


class Way(Protocol):
    """native, loaded or spawned."""

    def __call__(
        self, argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]
    ) -> subprocess.CompletedProcess[bytes]: ...


def account(done: subprocess.CompletedProcess[bytes]) -> Mapping[str, Any]:
    """What the witness printed; fails with all there is to know if it did not end well."""
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    told = f"{len(done.stdout)} bytes of its account" if done.stdout else "no account"
    error = done.stderr.decode(errors="replace")
    pytest.fail(f"{told}, exit status {done.returncode}: {done.args}\n{error}", pytrace=False)


def start(
    way: Way,
    compiler: Compiler,
    variant: str,
    *arguments: str | bytes,
    aslr: bool = True,
    **options: Unpack[StartOptions],
) -> Properties:
    """Starts the variant and returns what can be compared of it."""
    if not VARIANTS[variant].available:
        pytest.skip(f"{VARIANTS[variant].compiler} is not installed")
    program = compiler.build(variant)
    told = account(way([program, *arguments], aslr=aslr, **options))
    shape = VARIANTS[variant]
    return Start(told, exact=not aslr, first=shape.first, huge=shape.huge).properties()


def assert_same(kernel: Properties, reflective: Properties, documented: Documented) -> None:
    """Fails with every undocumented difference at once."""
    found = [one for one in differences(kernel, reflective) if not why(one, documented)]
    if found:
        pytest.fail(f"{len(found)} of {len(kernel)} properties differ\n" + "\n".join(map(str, found)), pytrace=False)


def start_in(situation: Situation, way: Way, compiler: Compiler, variant: str) -> Properties:
    """Starts the variant as a process in this situation does."""
    if situation.privileged and os.geteuid():
        pytest.skip("only root can make this situation")
    return start(
        way, compiler, variant, *situation.arguments,
        preexec_fn=situation.prepare, env=situation.environment, cwd=situation.cwd,
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("aslr", [True, False], ids=["aslr", "no-aslr"])
def test_start(compiler: Compiler, variant: str, aslr: bool) -> None:
    """Every kind of program, with random addresses and without."""
    kernel = start(native, compiler, variant, aslr=aslr)
    reflective = start(loaded, compiler, variant, aslr=aslr)
    assert_same(kernel, reflective, table())


@pytest.mark.parametrize("variant", ["dynamic", "entry-static", "entry-pie"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_inherited(compiler: Compiler, variant: str, name: str) -> None:
    """Whatever the starting process hands on, or sets and execve takes back."""
    kernel = start_in(SITUATIONS[name], native, compiler, variant)
    reflective = start_in(SITUATIONS[name], loaded, compiler, variant)
    assert_same(kernel, reflective, table(name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_start_by_zygote(compiler: Compiler, variant: str) -> None:
    """Every kind of program; what huge pages fit is forked."""
    kernel, reflective = start(native, compiler, variant), start(spawned, compiler, variant)
    assert_same(kernel, reflective, table() if VARIANTS[variant].huge else by_zygote())


@pytest.mark.parametrize("length", [*range(3, 40), 255, 1000, 4000])
def test_path_by_zygote(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """The strings on its stack move by what the program's path is longer, or shorter, than the one that the zygote has."""
    monkeypatch.chdir(tmp_path)
    os.symlink(compiler.build("entry-pie"), "x")
    path = f".{'/' * (length - 2)}x"
    told = [account(way([path, ""], env={"PYTHONCOERCECLOCALE": "0", "LONG": "x" * length})) for way in (native, spawned)]
    kernel, reflective = (Start(one, exact=False, first=True, huge=False).properties() for one in told)
    assert_same(kernel, reflective, by_zygote())


@pytest.mark.parametrize("variant", ["dynamic", "entry-static"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_inherited_by_zygote(compiler: Compiler, variant: str, name: str) -> None:
    """Whatever the starting process hands on, or sets and execve takes back."""
    kernel = start_in(SITUATIONS[name], native, compiler, variant)
    reflective = start_in(SITUATIONS[name], spawned, compiler, variant)
    assert_same(kernel, reflective, by_zygote(name))


def test_descriptors(compiler: Compiler) -> None:
    """Inherited descriptors arrive under their numbers, and none of the loader's own does."""
    with open("/dev/zero", "rb") as kept, open("/dev/null", "rb"):
        high = os.dup2(kept.fileno(), 200)
        try:
            kernel, reflective = (
                start(way, compiler, "entry-static", pass_fds=(kept.fileno(), high)) for way in (native, loaded)
            )
        finally:
            os.close(high)
    assert f" {high}" in str(kernel["descriptors"])
    assert_same(kernel, reflective, table())


def test_names_through_a_symlink(compiler: Compiler, tmp_path: Path) -> None:
    """comm and AT_EXECFN are the link's name, /proc/self/exe is the file's."""
    compiler.build("entry-static")
    link = tmp_path / "a-name-longer-than-fifteen-bytes"
    link.symlink_to(compiler.built["entry-static"])
    told = [
        Start(account(way([link])), exact=False, first=True, huge=False).properties()
        for way in (native, loaded)
    ]  # fmt: skip
    assert told[0]["stat.comm"] == "a-name-longer-t"
    assert_same(told[0], told[1], table())


@pytest.mark.parametrize("variant", ["dynamic", "static", "static-pie", "entry-pie"])
def test_text_is_the_file(compiler: Compiler, variant: str) -> None:
    """Executable pages are the page cache's: mapped from the very file, and not one copied."""
    program = compiler.build(variant)
    blocks = split_smaps(account(loaded([program]))["proc"]["smaps"])
    text = [(region, fields) for region, fields in blocks if "x" in region.perms and region.inode]
    assert program.stat().st_ino in [region.inode for region, _ in text]
    for region, fields in text:
        assert fields["Anonymous"] == "0 kB", region


# The comparison itself: it finds nothing where there is nothing, and something where there is something.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("aslr", [True, False], ids=["aslr", "no-aslr"])
def test_native_is_native(compiler: Compiler, variant: str, aslr: bool) -> None:
    """Two native starts do not differ in any property, documented or not."""
    assert_same(start(native, compiler, variant, aslr=aslr), start(native, compiler, variant, aslr=aslr), {})


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation_is_seen(compiler: Compiler, name: str) -> None:
    """Each situation that is not undone by execve makes a start that differs from the plain one, and repeats itself."""
    plain = start(native, compiler, "entry-static")
    first, second = (start_in(SITUATIONS[name], native, compiler, "entry-static") for _ in range(2))
    assert_same(first, second, {})
    undone = {"keep capabilities", "not dumpable"}
    assert bool(differences(plain, first)) != (name in undone)


def different(kernel: Properties, other: Properties) -> set[str]:
    """The names of the properties that differ."""
    return {difference.name for difference in differences(kernel, other)}


def test_ignored_signal_is_reported(compiler: Compiler) -> None:
    """restore_signals=False leaves SIGPIPE ignored, as CPython has it."""
    found = different(start(native, compiler, "dynamic"), start(native, compiler, "dynamic", restore_signals=False))
    assert f"signals.action {int(signal.SIGPIPE)}" in found
    assert "status.SigIgn" in found


def test_extra_descriptor_is_reported(compiler: Compiler) -> None:
    """One open descriptor more."""
    with open("/dev/null", "rb") as extra:
        number = extra.fileno()
        found = different(start(native, compiler, "dynamic"), start(native, compiler, "dynamic", pass_fds=(number,)))
    assert f"descriptors[{number}].target" in found
    assert "descriptors" in found


def test_other_argv0_is_reported(compiler: Compiler) -> None:
    """Another argv[0], with everything that follows from its length."""
    told = account(native(["another name"], executable=compiler.build("dynamic")))
    other = Start(told, exact=False, first=False, huge=False).properties()
    found = different(start(native, compiler, "dynamic"), other)
    assert {"proc.cmdline", "stack.arguments", "stack.argv", "libc.program_invocation_name"} <= found
    assert "maps.order" not in found


def test_moved_image_is_reported(compiler: Compiler) -> None:
    """Where addresses are compared as they are, random ones differ."""
    program = compiler.build("entry-static-pie")
    first, second = (Start(account(native([program])), exact=True, first=True, huge=False).properties() for _ in range(2))
    found = different(first, second)
    assert {"auxv.ENTRY", "registers.rsp", "maps[[stack]#0].at", "stat.startcode", "stat.start_brk"} <= found


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for variant_name in sys.argv[1:] or ["dynamic"]:
            for key, told_value in start(native, Compiler(Path(directory)), variant_name).items():
                print(f"{key:40} {told_value!r:.150}")
