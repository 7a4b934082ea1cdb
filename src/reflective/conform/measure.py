"""Runs the witness by execve and by a loader, and says where the two differ."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ReflectiveError
from ..values import Value
from . import documented
from .documented import Documented
from .situations import SITUATIONS, Situation
from .start import Difference, Properties, Start, differences
from .variants import VARIANTS, Compiler

IN_SITUATIONS = ("dynamic", "entry-static", "entry-pie")  # variants that are started in every situation
PLAIN = "plain"
TIMEOUT_S = 60
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h


class Outcome(Value):
    """One start by the loader, held against one by the kernel.

    `properties` of the kernel's, of which `same` are the loader's too. `failed`: why there is nothing to compare, or "".
    """

    variant: str
    situation: str
    properties: int
    same: int
    documented: tuple[Difference, ...]
    different: tuple[Difference, ...]
    failed: str


class Skipped(Value):
    """A start that this machine or user can't make natively either, and why."""

    variant: str
    situation: str
    why: str


def starts() -> list[tuple[str, str]]:
    """Variant and situation of every start: all variants as they are, some in every situation."""
    return [(variant, PLAIN) for variant in VARIANTS] + [(variant, name) for variant in IN_SITUATIONS for name in SITUATIONS]


def measure(
    loader: Sequence[str], compiler: Compiler, *, aslr: bool = True, exceptions: bool = True
) -> Iterator[Outcome | Skipped]:
    """Every start, one after the other.

    `loader` is a command in which {} stands for the program; the program's arguments follow. `exceptions`: what reflective
    documents is told apart. Raises ReflectiveError if the kernel's own start fails.
    """
    for variant, name in starts():
        if not VARIANTS[variant].available:
            yield Skipped(variant, name, f"{VARIANTS[variant].compiler} is not installed")
            continue
        program, situation = str(compiler.build(variant)), SITUATIONS.get(name, Situation())
        try:
            kernel, failed = _start([program], variant, situation, aslr)
        except subprocess.SubprocessError:
            yield Skipped(variant, name, "it takes a privilege that this process lacks")
            continue
        if kernel is None:
            raise ReflectiveError(f"the kernel's own start of {program} ({name}) failed: {failed}")
        told, failed = _start([word.replace("{}", program) for word in loader], variant, situation, aslr)
        table = documented.table(name) if exceptions else {}
        yield _outcome(variant, name, kernel, told, failed, table)


def _outcome(variant: str, name: str, kernel: Properties, told: Properties | None, failed: str, table: Documented) -> Outcome:
    found = differences(kernel, told) if told is not None else []
    same = len(kernel) - sum(one.kernel is not None for one in found) if told is not None else 0
    known = tuple(one for one in found if documented.why(one, table))
    others = tuple(one for one in found if one not in known)
    return Outcome(variant, name, len(kernel), same, known, others, failed)


def _start(command: Sequence[str], variant: str, situation: Situation, aslr: bool) -> tuple[Properties | None, str]:
    """What the witness says; or why it says nothing."""

    def prepare() -> None:
        if not aslr and ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE) < 0:
            raise OSError("personality")
        situation.prepare()

    try:
        done = subprocess.run(
            [*command, *situation.arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S,
            env=situation.environment, cwd=Path(situation.cwd), preexec_fn=prepare,
        )  # fmt: skip
    except OSError as error:
        return None, str(error)
    except subprocess.TimeoutExpired:
        return None, f"no end after {TIMEOUT_S} s"
    return read(done, variant, aslr)


def read(done: subprocess.CompletedProcess[bytes], variant: str, aslr: bool) -> tuple[Properties | None, str]:
    """The properties that an ended witness has told; or why there are none."""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode < 0:
        return None, f"killed by signal {-done.returncode}"
    try:
        account: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None, f"exit status {done.returncode}" + (f": {said[-1][:120]}" if said else "")
    shape = VARIANTS[variant]
    try:
        return Start(account, exact=not aslr, first=shape.first, huge=shape.huge).properties(), ""
    except (KeyError, ValueError, IndexError) as error:
        return None, f"its account can't be read: {type(error).__name__} {error}"
