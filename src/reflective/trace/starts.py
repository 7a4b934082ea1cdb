"""Many starts of one program, each stopped at its entry and looked at: the collector behind `reflective aslr`.

A start is fork, exec or load, a hardware breakpoint at AT_ENTRY (by then the dynamic linker has mapped every library), two
files in /proc, SIGKILL. Workers are pinned to one CPU each: tracer and tracee on two cost a wake-up across CPUs at every stop.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ..errors import LoadError, SessionError
from ..native import traced
from ..native.child import Setup
from ..native.prepare import Request, prepare
from ..native.run import Files, spawn_prepared
from ..native.system import leave_out
from ..plan import stack as initial
from ..plan.build import LoadPlan
from ..plan.layout import Layout
from ..proc import bases, maps
from ..proc.tracer import tracer
from ..values import Value

KERNEL, REFLECTIVE = "kernel", "reflective"
FEW = 40  # starts for which a second worker is not worth its fork
BATCH = 25
KERNELS = ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]")  # a child moves its vdso to where the program shall have it
PYTHON_IGNORES = (13, 25)  # SIGPIPE, SIGXFSZ


class Program(Value):
    """What is to be started, and how."""

    plan: LoadPlan
    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...]


class Sample(Value):
    """The bases of many starts, by region, in the order of the starts, and how long they took (ns)."""

    via: str
    runs: int
    bases: dict[str, tuple[int, ...]]
    elapsed_ns: int


def sample(program: Program, via: str, runs: int, advance: Callable[[int], None]) -> Sample:
    """Starts the program `runs` times; `advance` is called with the number of starts done since. Raises SessionError."""
    begun = time.monotonic_ns()
    found: list[dict[str, int]] = []
    for batch in _collect(program, via, runs):
        found += batch
        advance(len(batch))
    names = [name for name in found[0] if all(name in one for one in found)]
    regions = {name: tuple(one[name] for one in found) for name in names}
    return Sample(via, runs, regions, time.monotonic_ns() - begun)


def _collect(program: Program, via: str, runs: int) -> Iterator[list[dict[str, int]]]:
    cpus = sorted(os.sched_getaffinity(0))[: 1 + (runs - 1) // FEW]
    shares = [runs // len(cpus) + (index < runs % len(cpus)) for index in range(len(cpus))]
    workers = [_worker(program, via, share, cpu) for share, cpu in zip(shares, cpus, strict=True)]
    try:
        for _, file in workers:
            yield from _batches(file)
    finally:
        for pid, file in workers:
            file.close()
            os.kill(pid, signal.SIGKILL)  # its tracee goes with it: PTRACE_O_EXITKILL
            os.waitpid(pid, 0)


def _batches(file: BinaryIO) -> Iterator[list[dict[str, int]]]:
    while True:
        try:
            item = pickle.load(file)
        except EOFError:
            raise SessionError("a worker died") from None
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item


def _worker(program: Program, via: str, runs: int, cpu: int) -> tuple[int, BinaryIO]:
    """A process that does a share of the starts and writes what it finds to the file."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, os.fdopen(reader, "rb")
    status = 1
    try:
        os.close(reader)
        os.sched_setaffinity(0, {cpu})
        gc.freeze()  # else every collection writes to pages that the last fork made copy-on-write
        gc.disable()
        with os.fdopen(writer, "wb") as file:
            _work(program, via, runs, file)
        status = 0
    finally:
        os._exit(status)


def _work(program: Program, via: str, runs: int, file: BinaryIO) -> None:
    try:
        once = _by_kernel(program) if via == KERNEL else _by_reflective(program)
        for done in range(0, runs, BATCH):
            pickle.dump([once() for _ in range(min(BATCH, runs - done))], file)
            file.flush()
        pickle.dump(None, file)
    except LoadError as error:
        pickle.dump(SessionError(f"{error}{why_not_traced(error)}"), file)
    except (OSError, SessionError) as error:
        pickle.dump(SessionError(str(error)), file)


def why_not_traced(error: LoadError) -> str:
    """Why ptrace(PTRACE_TRACEME) is refused: kernel/ptrace.c: ptrace_traceme, or a filter; and what to do about it."""
    if "ptrace" not in error.reason:
        return ""
    known = tracer("self")
    if known:
        return (
            f": it is traced already, as this process is, by {known}, and a process has one tracer: start this outside of that"
        )
    return ": is ptrace forbidden here (by seccomp, as in some containers)? There --cap-add=SYS_PTRACE may help"


def _by_kernel(program: Program) -> Callable[[], dict[str, int]]:
    command = traced.Command(program.plan.path, program.argv, program.envp)

    def once() -> dict[str, int]:
        pid = command.start()
        try:
            _stopped(pid)
            with open(f"/proc/{pid}/auxv", "rb", buffering=0) as file:
                vector = dict(initial.parse_auxv(file.readall()))
            _to(pid, vector[initial.AT_ENTRY])
            return bases.read(pid, vector[initial.AT_ENTRY], vector.get(initial.AT_BASE, 0))
        finally:
            _end(pid)

    return once


def _by_reflective(program: Program) -> Callable[[], dict[str, int]]:
    """The plan is prepared once, and its files stay open; each start draws its addresses, forks, loads and is stopped anew."""
    plan = program.plan
    setup = Setup(default_signals=PYTHON_IGNORES, traced=True)
    prepared = prepare(Request(plan, program.argv, program.envp, setup=setup), in_place=False)
    files = Files(plan).__enter__()  # until this worker ends
    own = (one for one in maps.read(os.getpid()) if one.path not in KERNELS)
    leave_out([(one.start, one.end) for one in own])

    def watch(pid: int, layout: Layout) -> None:
        if os.WIFSTOPPED(_wait(pid)):
            _to(pid, layout.exe + plan.executable.entry)

    def once() -> dict[str, int]:
        started = spawn_prepared(prepared, files, watch)
        try:
            layout = started.layout
            interpreter = layout.interp + _first(plan) if plan.interpreter else 0
            return bases.read(started.pid, layout.exe + plan.executable.entry, interpreter)
        finally:
            _end(started.pid)

    return once


def _first(plan: LoadPlan) -> int:
    return plan.interpreter.loads[0].vaddr & -4096 if plan.interpreter else 0


def _wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _stopped(pid: int) -> None:
    status = _wait(pid)
    if not os.WIFSTOPPED(status):
        raise SessionError(f"the program did not start: {_ending(status)}")


def _to(pid: int, entry: int) -> None:
    status = traced.run_to(pid, entry)
    if status:
        raise SessionError(f"the program ended before its first instruction: {_ending(status)}")


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass  # it has ended, and has been waited for
