"""Whatever a program can observe of its own start is as after a real execve.

Each test runs one program both ways and compares all it says, property by property (tests/start.py).
`python tests/kernel/test_state.py VARIANT` prints the properties of a native start.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Unpack

import pytest
from start import Difference, Properties, Start, differences, split_smaps
from support import VARIANTS, Argv, Compiler, StartOptions, loaded, native
from verdict import may_set_exe

# The differences that user space cannot avoid: property, what reflective may have there (a pattern), and why.
# Each has a row in docs/kernel-parity.md; any other difference is a bug.
DOCUMENTED = {
    "registers.rflags.ZF": ("1", "the last munmap is issued from the vdso, whose code goes on to clear registers by xor"),
    "registers.rflags.PF": ("1", "the last munmap is issued from the vdso, whose code goes on to clear registers by xor"),
    "stack.word just below sp": ("the entry address", "that code in the vdso returns to it"),
    "maps.own": (
        r"\[anon:reflective: (mmap base|unnamed)\] ---p",
        "gives each child of one process its own mmap base",
    ),
    "stat.flags.PF_FORKNOEXEC": ("1", "set by fork, cleared by execve alone"),
    "stat.flags.PF_SUPERPRIV": ("0|1", "has used a privilege: fork forgets it, setting /proc/self/exe uses one"),
}

if not may_set_exe():
    DOCUMENTED["proc.exe"] = (re.escape(os.readlink("/proc/self/exe")), "setting it takes a capability: degraded says so")

# CPython ignores these before the loader's first line runs; what they were before, nobody can tell then.
UNKNOWABLE_IN_PYTHON = {
    "signals.action 13": (r"\[0, 0, 0, 0\]", "SIGPIPE"),
    "signals.action 25": (r"\[0, 0, 0, 0\]", "SIGXFSZ"),
    "status.SigIgn": ("0+", "SIGPIPE and SIGXFSZ"),
    "stat.sigignore": ("0", "SIGPIPE and SIGXFSZ"),
}

PR_SET_NO_NEW_PRIVS = 38
PR_SET_TIMERSLACK = 29
PR_SET_KEEPCAPS = 8
PR_SET_THP_DISABLE = 41
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
CAP_SYS_TIME = 25


Documented = dict[str, tuple[str, str]]


class Way(Protocol):
    """native or loaded."""

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
    if not compiler.available(variant):
        pytest.skip(f"{VARIANTS[variant].compiler} is not installed")
    program = compiler.build(variant)
    told = account(way([program, *arguments], aslr=aslr, **options))
    shape = VARIANTS[variant]
    return Start(told, exact=not aslr, first=shape.first, huge=shape.huge).properties()


def is_documented(difference: Difference, table: Documented) -> bool:
    """Whether the table has this property, with this value."""
    pattern, _ = table.get(difference.name, ("", ""))
    return bool(pattern) and re.fullmatch(pattern, str(difference.reflective)) is not None


def assert_same(kernel: Properties, reflective: Properties, documented: Documented) -> None:
    """Fails with every undocumented difference at once."""
    found = [one for one in differences(kernel, reflective) if not is_documented(one, documented)]
    if found:
        pytest.fail(f"{len(found)} of {len(kernel)} properties differ\n" + "\n".join(map(str, found)), pytrace=False)


def prctl(option: int, value: int) -> None:
    """prctl in this process, which is about to become a witness."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class Scenario:
    """What a process inherits before it starts the witness."""

    arguments: tuple[str | bytes, ...] = ()
    options: StartOptions = field(default_factory=StartOptions)
    before: tuple[Callable[[], object], ...] = ()
    documented: Documented = field(default_factory=dict)

    def start(self, way: Way, compiler: Compiler, variant: str) -> Properties:
        """Starts the variant as a process of this scenario does."""
        options: StartOptions = {"preexec_fn": self.prepare}
        options.update(self.options)
        return start(way, compiler, variant, *self.arguments, **options)

    def prepare(self) -> None:
        """Runs in the child, before execve."""
        for step in self.before:
            step()


def _limit(kind: int, soft: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


def _ignore(*signals: int) -> Callable[[], object]:
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in signals]


def _write(path: str, text: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(text, encoding="ascii")


SCENARIOS = {
    "arguments": Scenario(("", "a b", "--", "-x", b"\xff\xfe\x80", "é", "x" * 5000, "")),
    "600 arguments": Scenario(tuple(f"argument {number}" for number in range(600))),
    "longest argument": Scenario(("x" * (131072 - 1),)),
    "1 MiB of arguments": Scenario(("y" * 100_000,) * 10),
    "no environment": Scenario(options={"env": {}}),
    "C locale": Scenario(options={"env": {"PATH": "/bin", "LC_ALL": "", "A": "1"}}),
    "bytes in the environment": Scenario(options={"env": {b"\xff": b"\x80=\xfe", b"B": b"", b"LANG": b"C.UTF-8"}}),
    "900 variables": Scenario(options={"env": {f"VARIABLE_{number}": "v" * 40 for number in range(900)}}),
    "ignored signals": Scenario(before=(_ignore(signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 3),)),
    "ignored SIGCHLD": Scenario(before=(_ignore(signal.SIGCHLD),)),
    "ignored SIGINT": Scenario(before=(_ignore(signal.SIGINT),)),
    "ignored SIGPIPE": Scenario(
        before=(_ignore(signal.SIGPIPE, signal.SIGXFSZ),), documented=UNKNOWABLE_IN_PYTHON
    ),
    "blocked signals": Scenario(
        before=(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM, signal.SIGRTMAX}),)
    ),
    "1 MiB stack": Scenario(before=(_limit(resource.RLIMIT_STACK, 1 << 20),)),
    "512 MiB stack": Scenario(before=(_limit(resource.RLIMIT_STACK, 512 << 20),)),
    "unlimited stack": Scenario(before=(_limit(resource.RLIMIT_STACK, resource.RLIM_INFINITY),)),
    "limited address space": Scenario(before=(_limit(resource.RLIMIT_AS, 2 << 30),)),
    "limited data": Scenario(before=(_limit(resource.RLIMIT_DATA, 256 << 20),)),
    "few descriptors": Scenario(before=(_limit(resource.RLIMIT_NOFILE, 64),)),
    "root as directory": Scenario(options={"cwd": "/"}),
    "umask": Scenario(before=(lambda: os.umask(0o027),)),
    "nice": Scenario(before=(lambda: os.nice(5),)),
    "one processor": Scenario(before=(lambda: os.sched_setaffinity(0, {0}),)),
    "no new privileges": Scenario(before=(lambda: prctl(PR_SET_NO_NEW_PRIVS, 1),)),
    "keep capabilities": Scenario(before=(lambda: prctl(PR_SET_KEEPCAPS, 1),)),
    "not dumpable": Scenario(before=(lambda: prctl(PR_SET_DUMPABLE, 0),)),
    "timer slack": Scenario(before=(lambda: prctl(PR_SET_TIMERSLACK, 70_000),)),
    "no huge pages": Scenario(before=(lambda: prctl(PR_SET_THP_DISABLE, 1),)),
    "core dump filter": Scenario(before=(_write("/proc/self/coredump_filter", "0x7f"),)),
    "out-of-memory score": Scenario(before=(_write("/proc/self/oom_score_adj", "300"),)),
    "other groups": Scenario(before=(lambda: os.setgroups([7, 9]), lambda: os.setresgid(7, 7, 7))),
    "one capability less": Scenario(before=(lambda: prctl(PR_CAPBSET_DROP, CAP_SYS_TIME),)),
    "closed input": Scenario(before=(lambda: os.close(0),)),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("aslr", [True, False], ids=["aslr", "no-aslr"])
def test_start(compiler: Compiler, variant: str, aslr: bool) -> None:
    """Every kind of program, with random addresses and without."""
    kernel = start(native, compiler, variant, aslr=aslr)
    reflective = start(loaded, compiler, variant, aslr=aslr)
    assert_same(kernel, reflective, DOCUMENTED)


@pytest.mark.parametrize("variant", ["dynamic", "entry-static", "entry-pie"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_inherited(compiler: Compiler, variant: str, name: str) -> None:
    """Whatever the starting process hands on, or sets and execve takes back."""
    scenario = SCENARIOS[name]
    kernel = scenario.start(native, compiler, variant)
    reflective = scenario.start(loaded, compiler, variant)
    assert_same(kernel, reflective, DOCUMENTED | scenario.documented)


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
    assert_same(kernel, reflective, DOCUMENTED)


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
    assert_same(told[0], told[1], DOCUMENTED)


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


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_is_seen(compiler: Compiler, name: str) -> None:
    """Each scenario that is not undone by execve makes a start that differs from the plain one, and repeats itself."""
    scenario = SCENARIOS[name]
    plain = start(native, compiler, "entry-static")
    first, second = (scenario.start(native, compiler, "entry-static") for _ in range(2))
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
