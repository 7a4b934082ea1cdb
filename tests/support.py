"""Where the C programs are, and the two ways of starting them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from reflective.conform.situations import ENVIRONMENT as ENVIRONMENT
from reflective.conform.variants import PROGRAMS as WITNESSES

PROGRAMS = Path(__file__).parent / "programs"
CSRC = Path(__file__).parents[1] / "csrc"
FREESTANDING = {"blob", "template", "adopt.c", "settle.c", "zygote.c"}  # as csrc/build.py has it
HOST_SOURCES = sorted(str(path) for path in CSRC.rglob("*.c") if not FREESTANDING & {*path.relative_to(CSRC).parts})
INCLUDES = f"-I{WITNESSES}"  # sys.h


def stub_code(directory: Path) -> None:
    """The headers that setup.py makes of freestanding code, with one byte each: it is copied, not run."""
    for name in ("blob", "zygote", "template"):
        (directory / f"{name}_bytes.h").write_text(f"#include <stdint.h>\nstatic const uint8_t {name}_bytes[] = {{0xf4}};\n")


def mmap_rnd_bits() -> int:
    """vm.mmap_rnd_bits; only root can read it, 28 is the default and the least."""
    try:
        return int(Path("/proc/sys/vm/mmap_rnd_bits").read_text())
    except PermissionError:
        return 28


class StartOptions(TypedDict, total=False):
    """What the tests hand on to subprocess, the same for both ways."""

    env: dict[bytes, bytes] | dict[str, str]
    cwd: str | Path
    executable: str | Path
    pass_fds: Sequence[int]
    preexec_fn: Callable[[], object]
    restore_signals: bool
    timeout: float


Argv = Sequence[str | bytes | Path]


def native(argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]) -> subprocess.CompletedProcess[bytes]:
    """Runs argv under the kernel's execve."""
    return _run([*([] if aslr else ["setarch", "-R", "--"]), *argv], options)


def loaded(argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]) -> subprocess.CompletedProcess[bytes]:
    """Runs argv under reflective."""
    command = [sys.executable, "-m", "reflective", "exec", *([] if aslr else ["--no-aslr"]), "--"]
    return _run([*command, *argv], options)


SPAWN = """
import os, sys, reflective
from reflective.native.child import Setup
with open("/proc/self/environ", "rb") as file:
    env = dict(item.split(b"=", 1) for item in file.read().split(b"\\0") if item)
words = [os.fsencode(word) for word in sys.argv[1:]]
pid = reflective.spawn(words[0], words, env, setup=Setup(default_signals=(13, 25)))
try:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
except ChildProcessError:  # SIGCHLD is ignored: it has ended, but nobody is told how
    pass
"""


def spawned(argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]) -> subprocess.CompletedProcess[bytes]:
    """Runs argv under reflective.spawn, which has a zygote where `reflective exec` has a fork."""
    return _run([*([] if aslr else ["setarch", "-R", "--"]), sys.executable, "-c", SPAWN, *argv], options)


def _run(argv: Argv, options: StartOptions) -> subprocess.CompletedProcess[bytes]:
    settings: StartOptions = {"env": dict(ENVIRONMENT), "timeout": 20}
    settings.update(options)
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, **settings)
