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
INCLUDES = f"-I{WITNESSES}"  # sys.h


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


def _run(argv: Argv, options: StartOptions) -> subprocess.CompletedProcess[bytes]:
    settings: StartOptions = {"env": dict(ENVIRONMENT), "timeout": 20}
    settings.update(options)
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, **settings)
