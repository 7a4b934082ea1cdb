"""Starting: a plan becomes a child, or this process itself; and standing in for the child."""

from __future__ import annotations

import os
import sys

from ..elf.image import ElfImage, File, FileIdentity
from ..errors import LoadError, load_error
from ..plan import steps
from ..plan.build import LoadPlan, open_executable
from ..plan.layout import Layout
from ..values import Value
from . import encode
from ._core import lib
from .prepare import ADDR_NO_RANDOMIZE, Degradation, Prepared, Request, lay_out, prepare, structure, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EACCES, EEXIST, ESTALE, EBUSY, ETXTBSY = 13, 17, 116, 16, 26
SIGKILL = 9
ATTEMPTS = 16


class Started(Value):
    """A child on its way: its pid, where things are in it, and what could not be as after execve."""

    pid: int
    layout: Layout
    degraded: tuple[Degradation, ...]


class _Outcome(Value):
    """What the C core said, and what it was given: the steps, of which the first `callers` are the caller's wishes."""

    result: int
    layout: Layout
    steps: tuple[steps.Step, ...]
    callers: int


class Files:
    """The planned files, open for one start. Raises LoadError (ESTALE) if others, or other contents, are there now."""

    def __init__(self, plan: LoadPlan) -> None:
        planned = {"exe": plan.executable, "interp": plan.interpreter, "binary": plan.binary}
        self.images = {name: file for name, file in planned.items() if file}
        self.fds: dict[str, int] = {}

    def __enter__(self) -> dict[str, int]:
        try:
            for name, image in self.images.items():
                self.fds[name] = _open_planned(image)
        except BaseException:
            self.__exit__()
            raise
        return self.fds

    def __exit__(self, *_: object) -> None:
        for fd in self.fds.values():
            os.close(fd)


def _open_planned(image: ElfImage | File) -> int:
    fd, status = open_executable(image.path)
    if FileIdentity.of(status) != image.identity:
        os.close(fd)
        raise load_error(ESTALE, "the file has changed since it was planned", image.path, "plan again")
    return above_stdio(fd)


def above_stdio(fd: int) -> int:
    """The descriptor, or a copy of it that is not where the child's standard streams go; then the caller's is closed."""
    if fd > 2:
        return fd
    import fcntl

    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return copy


def spawn(request: Request, watch: Callable[[int, Layout], None] | None = None) -> Started:
    """Starts the program in a child, of which the caller is the parent: os.waitpid works.

    Returns when the program has been entered. Raises LoadError if it could not be, and then no child is left. With
    `setup.traced` the child stops, traced by this thread, before anything has been done; `watch` must then let it go on.
    """
    prepared = prepare(request, in_place=False)
    with Files(request.plan) as files:
        return spawn_prepared(prepared, files, watch)


def spawn_prepared(prepared: Prepared, files: dict[str, int], watch: Callable[[int, Layout], None] | None = None) -> Started:
    """The same, over and over: what a start has in common with the one before is made once, and the files stay open."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            writer = above_stdio(writer)
            outcome = _act(lib.refl_spawn, prepared, files, writer)
        finally:
            os.close(writer)
        report = _read_report(reader, outcome, watch)
    finally:
        os.close(reader)
    if report:
        _reap(outcome.result)
        raise _failure(report, outcome, prepared.request.plan)
    return Started(outcome.result, outcome.layout, prepared.degraded)


def replace(request: Request, report_fd: int = -1, tell: Callable[[Started], None] | None = None) -> None:
    """This process becomes the program; returns only by an exception, before anything has changed.

    Past that point a failure goes to `report_fd` as struct refl_report (see `failed_step`); without one the process is killed,
    as the kernel does. `tell` is called at the last moment. Raises LoadError, also (EBUSY) when there are other threads, which
    only the kernel could end.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise load_error(EBUSY, f"this process has {threads} threads, in place there may be one", request.plan.path)
    prepared = prepare(request, in_place=True)
    with Files(request.plan) as files:
        _act(lib.refl_replace, prepared, files, report_fd, tell)


def _act(
    call: Callable[[Any], int],
    prepared: Prepared,
    files: dict[str, int],
    report_fd: int,
    tell: Callable[[Started], None] | None = None,
) -> _Outcome:
    """Lays out, encodes and calls the C core; again, with another place for the blob, if the first was taken."""
    keep = [fd for fd in (*files.values(), report_fd) if fd >= 0]
    all_steps, callers = whole(prepared, keep)
    for attempt in range(ATTEMPTS):
        layout = lay_out(prepared, attempt)
        start, alive = structure(prepared, layout, all_steps, files, report_fd)
        if tell is not None:
            tell(Started(os.getpid(), layout, prepared.degraded))
        result = int(call(start))
        del alive
        if result != -EEXIST:
            break
    if result < 0:
        raise load_error(-result, f"the child can't be made: {os.strerror(-result)}", prepared.request.plan.path)
    return _Outcome(result, layout, all_steps, callers)


def _read_report(reader: int, outcome: _Outcome, watch: Callable[[int, Layout], None] | None) -> bytes:
    """What the child reports: nothing if it has become the program. Interrupted here (by ^C, say), it does not live on."""
    try:
        if watch is not None:
            watch(outcome.result, outcome.layout)
        return os.read(reader, encode.REPORT.size)
    except BaseException:
        os.kill(outcome.result, SIGKILL)
        _reap(outcome.result)
        raise


def _reap(pid: int) -> None:
    try:  # noqa: SIM105 - contextlib takes long to import
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # another thread waits for any child, or SIGCHLD is ignored


def failed_step(report: bytes) -> tuple[int, int]:
    """The errno and the step's number in what the blob reported."""
    number, error, *_ = encode.REPORT.unpack(report)
    return error, number


def _failure(report: bytes, outcome: _Outcome, plan: LoadPlan) -> LoadError:
    """The exception for what the blob reported."""
    number, error, kind, nr, at = encode.REPORT.unpack(report)
    step = outcome.steps[number]
    what = encode.NAMES.get(nr, f"system call {nr}") if kind == encode.CALL else step.kind
    path = getattr(step, "path", None) or (None if number < outcome.callers else plan.path)
    if isinstance(step, steps.SetMm) and error == EACCES:  # kernel/fork.c: replace_mm_exe_file, and we may execute it
        return load_error(ETXTBSY, "the file is open for writing", path)
    return load_error(error, f"step {number} ({step.kind}): {what}({at:#x}, …): {os.strerror(error)}", path)


# Standing in for the program before the shell that waits for us: csrc/host/attend.c.


def block_signals() -> int:
    """Blocks every signal, so that none is lost between the start and `attend`; returns the mask that was set before."""
    return int(lib.refl_block_signals())


def unblock_signals(mask: int) -> None:
    """Sets the mask again."""
    lib.refl_unblock_signals(mask)


def heed_children() -> bool:
    """Makes children waitable; True if SIGCHLD had been ignored."""
    return bool(lib.refl_heed_children())


def attend(pid: int) -> int:
    """Waits until the program has ended: passes signals on, stops when it stops. Returns its wait status."""
    return int(lib.refl_attend(pid))


def die_of(number: int) -> None:
    """Dies of a signal, without leaving a core dump; returns if the signal can't kill."""
    lib.refl_die_of(number)


def leave_as(status: int) -> int:
    """The exit status that stands for a wait status; a death by a signal becomes ours, if that signal can kill."""
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    if sys.stdout is not None:
        sys.stdout.flush()
    die_of(os.WTERMSIG(status))
    return 128 + os.WTERMSIG(status)


def fix_addresses() -> bool:
    """Sets ADDR_NO_RANDOMIZE, which takes effect with the next execve; False if it is set already, or can't be."""
    before = lib.refl_personality()
    return not before & ADDR_NO_RANDOMIZE and lib.refl_set_personality(before | ADDR_NO_RANDOMIZE) == 0


def addresses_fixed() -> bool:
    """True if ADDR_NO_RANDOMIZE is set, here and so in every child."""
    return bool(lib.refl_personality() & ADDR_NO_RANDOMIZE)
