"""The kernel and reflective as judges of mutated programs (tests/mutate.py), and what they disagree on, made small.

Each judge is a process that tries many programs, in a cell in which their bytes can do no harm (tests/core/judge.c). A case is
tried once by each. If the two differ it is tried again and again, as addresses are random, and a probe may read the clock in
vvar: reflective is right while it does nothing that the kernel doesn't do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mutate import MODES, Case
from verdict import NOBODY

HERE = Path(__file__).parent
ANSWER = struct.Struct("<iiI")
RUNS_ON, LIVES, BROKEN = -1000, -1001, -1002
AGAIN, MOST = 6, 400


@dataclass(frozen=True)
class Ruling:
    """How one attempt ended: what execve returned, or the LoadError said (0: entered); the end; the output."""

    error: int
    status: int
    output: bytes = b""

    def __str__(self) -> str:
        name = errno.errorcode.get(self.error, str(self.error)) if self.error else "runs"
        special = {RUNS_ON: "and on", LIVES: "returned", BROKEN: "broken"}
        end = special.get(self.status) or (f"exit {self.status}" if self.status >= 0 else signal.Signals(-self.status).name)
        if self.status in (LIVES, BROKEN):
            return f"{name}, {end} {os.fsdecode(self.output)!a}"
        return f"{name}, {end}, {len(self.output)} bytes" if self.output else f"{name}, {end}"


def agree(kernel: Ruling, ours: Ruling) -> bool:
    """As tests/verdict.py has it: past the kernel's point of no return we may still return the errno, or die likewise."""
    if ours.status == LIVES:
        return ours.error == kernel.error != 0
    return ours == (kernel if kernel.error == 0 else Ruling(0, kernel.status))


OVER_THE_STACK = (b"over the initial stack", b"and the stack overlap", b"the stack and", b"spans the stack")
BOTH_AT_0 = (b"the executable and the interpreter overlap", b"the interpreter and the executable overlap")
LAST_PAGE = (b"0xfffffffffffff000 is beyond user space",)

# Differences that docs/kernel-parity.md has: what our reason says, our errno, what execve returns then (0: it starts).
# - A segment is laid over the initial stack. The kernel does so; then the program starts with its arguments overwritten or a
#   stack cut short, or can't (EFAULT; EINVAL if what it now takes for the arguments has no end).
# - A PIE's p_align leaves it no place but 0, and its interpreter comes to lie over it.
# - An interpreter's first segment is on the last page of all addresses. The kernel takes its own error for a load address, and
#   the process dies at some place.
DOCUMENTED = (
    (OVER_THE_STACK, errno.EFAULT, (0, errno.EFAULT, errno.EINVAL)),
    (BOTH_AT_0, errno.ENOMEM, (0,)),
    (LAST_PAGE, errno.EINVAL, (0,)),
)


def documented(kernel: Ruling, ours: Ruling) -> bool:
    """True if the two differ as the documents say."""
    return any(
        ours.status == LIVES and ours.error == error and kernel.error in errors and any(text in ours.output for text in texts)
        for texts, error, errors in DOCUMENTED
    )


def varies_alike(kernel: list[Ruling], ours: Ruling) -> bool:
    """True if ours differs only in bytes of output that differ between the kernel's own: those of a clock, say."""
    like = [one.output for one in kernel if replace(one, output=b"") == replace(ours, output=b"")]
    like = [output for output in like if len(output) == len(ours.output)]
    steady = [values == {like[0][at]} for at, values in enumerate(map(set, zip(*like, strict=True)))]
    return (
        bool(like)
        and not all(steady)
        and all(
            byte == like[0][at] for at, byte in enumerate(ours.output) if steady[at - at % 8 : at - at % 8 + 8] == [True] * 8
        )
    )


class Judge:
    """A process that rules on the programs in directories."""

    def __init__(self, command: list[str], directory: Path) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=directory, process_group=0)  # ^C is not for it

    def ask(self, name: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(name.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Ruling:
        error, status, size = ANSWER.unpack(self._read(ANSWER.size))
        return Ruling(error, status, self._read(size))

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read(size)
        if len(data) < size:
            raise RuntimeError(f"a judge died: {self.process.args!r}, status {self.process.wait()}")
        return data

    def rule(self, name: str) -> Ruling:
        self.ask(name)
        return self.answer()

    def close(self) -> None:
        self.process.communicate(timeout=20)


def modes() -> tuple[str, ...]:
    """What can be tried here: only root can be someone else."""
    return MODES if os.geteuid() == 0 else tuple(mode for mode in MODES if mode != "nobody")


class Court:
    """Both judges of every mode, and a directory that all can read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        binary = directory / "judge"
        command = ["gcc", "-std=gnu11", "-O2", "-static", "-o", str(binary), str(HERE / "core" / "judge.c")]
        subprocess.run(command, check=True)
        script = shutil.copy(HERE / "judge_ours.py", directory / "judge_ours.py")
        self.pairs: dict[str, tuple[Judge, Judge]] = {}
        for mode in modes():
            cell = [str(binary), *(["-f"] if mode == "fixed" else [])]
            user = [str(NOBODY)] if mode == "nobody" else []
            kernel = [*cell, *(["-u", *user] if user else []), "kernel"]
            ours = [*cell, "cell", sys.executable, "-B", "-I", str(script), *user]
            self.pairs[mode] = Judge(kernel, directory), Judge(ours, directory)
        self.count = 0

    def close(self) -> None:
        for pair in self.pairs.values():
            for judge in pair:
                judge.close()

    @contextlib.contextmanager
    def written(self, case: Case) -> Iterator[str]:
        """The case's files, in a directory of its own; its name."""
        self.count += 1
        name = f"case{self.count}"
        place = self.directory / name
        write(case, place)
        try:
            yield name
        finally:
            shutil.rmtree(place)

    def try_once(self, case: Case) -> tuple[Ruling, Ruling]:
        kernel, ours = self.pairs[case.mode]
        with self.written(case) as name:
            kernel.ask(name)
            ours.ask(name)
            return kernel.answer(), ours.answer()

    def differ(self, case: Case) -> tuple[Ruling, Ruling] | None:
        """The two rulings if they can't both be right, however addresses fall; else None."""
        kernel, ours = self.try_once(case)
        return None if agree(kernel, ours) or documented(kernel, ours) else self._often(case)

    def _often(self, case: Case) -> tuple[Ruling, Ruling] | None:
        """Whether reflective does what the kernel does not do, as often as it is asked."""
        kernel, ours = self.pairs[case.mode]
        with self.written(case) as name:
            seen, rulings = [ours.rule(name) for _ in range(AGAIN)], []
            for _ in range(MOST):
                rulings.append(kernel.rule(name))
                seen = [one for one in seen if not (agree(rulings[-1], one) or documented(rulings[-1], one))]
                if not seen:
                    return None
        return None if all(varies_alike(rulings, one) for one in seen) else (rulings[-1], seen[0])

    def smallest(self, case: Case) -> Case:
        """The case with as few changes as still make a difference."""
        for change in case.changes:
            fewer = replace(case, changes=tuple(one for one in case.changes if one is not change))
            if self.differ(fewer):
                case = fewer
        return case


def write(case: Case, place: Path) -> None:
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    for file, data in case.encode().items():
        (place / file).write_bytes(data)
        (place / file).chmod(0o755)


@contextlib.contextmanager
def court() -> Iterator[Court]:
    with tempfile.TemporaryDirectory(prefix="reflective-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        it = Court(Path(name))
        try:
            yield it
        finally:
            it.close()
