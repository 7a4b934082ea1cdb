"""`reflective exec`: what the shell would have done with the program, done here."""

from __future__ import annotations

import errno
import os
import sys

from ..errors import LoadError, printable, said
from ..native import run
from ..native.child import Setup
from ..native.prepare import Request
from ..native.system import anonymous, leave_out
from ..plan.build import LoadPlan, search
from ..plan.layout import Options
from ..plan.stack import encode
from ..values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

NOT_FOUND, NOT_EXECUTABLE, USAGE = 127, 126, 2
SIGCHLD = 17
PYTHON_IGNORES = (13, 25)  # SIGPIPE, SIGXFSZ: Python ignores them at its start; the program finds them at their default


class Settings(Value):
    """The options of `reflective exec`."""

    argv0: str | None = None
    environ: tuple[bytes, ...] | None = None  # NAME=VALUE; None: as we got it
    chdir: str | None = None
    interp: str | None = None
    in_place: bool = False
    strict: bool = False
    verbose: bool = False
    layout: Options = Options()


def plain(words: list[str]) -> int:
    """Without options, and without Python's own way out, for which the program's status need not wait."""
    os._exit(execute(words, Settings()))


def execute(words: list[str], settings: Settings) -> int:
    """Starts the program and stands in for it; returns its exit status, or dies of its signal."""
    try:
        if not settings.layout.aslr:
            _without_aslr()
        if settings.chdir is not None:
            os.chdir(settings.chdir)
        plan = find(words[0], settings)
        return _run(plan, words, settings)
    except (OSError, ValueError) as error:
        complain(said(error))
        return status_of(error)


def complain(*lines: str, name: str = "reflective") -> None:
    """Lines on stderr. If that can't be written to, or is closed, there is nobody to tell."""
    if sys.stderr is None:  # what is 2 now is something else
        return
    try:  # noqa: SIM105 - contextlib takes longer to import than the rest of this module
        os.write(2, "".join(f"{name}: {printable(line)}\n" for line in lines).encode())
    except OSError:
        pass


def status_of(error: Exception) -> int:
    """What a shell returns for a program that it could not start."""
    missing = isinstance(error, LoadError) and error.errno == errno.ENOENT
    return NOT_FOUND if missing else NOT_EXECUTABLE


def settings_from(args: argparse.Namespace) -> Settings:
    """From the parsed command line. Options for the environment work in the order -i, -u, -E, as env(1) has them."""
    environ: tuple[bytes, ...] | None = None
    if args.ignore_environment or args.unset or args.set:
        given = () if args.ignore_environment else initial_environment()
        gone = {os.fsencode(name) for name in (*args.unset, *(item.partition("=")[0] for item in args.set))}
        kept = [item for item in given if item.partition(b"=")[0] not in gone]
        environ = (*kept, *(encode(item) for item in args.set))
    return Settings(
        argv0=args.argv0,
        environ=environ,
        chdir=args.chdir,
        interp=args.interp,
        in_place=args.in_place,
        strict=args.strict,
        verbose=args.verbose,
        layout=Options(aslr=not args.no_aslr, base=args.base, seed=args.seed),
    )


def initial_environment() -> tuple[bytes, ...]:
    """The environment as this process got it. Python adds LC_CTYPE to its own in the C locale (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            block = file.readall()
    except OSError:  # no /proc
        return tuple(name + b"=" + value for name, value in os.environb.items())
    return tuple(block.split(b"\0")[:-1])


def _without_aslr() -> None:
    """Begins again as setarch -R would have started us: only then is our own mmap base, which a child inherits, not random."""
    if run.fix_addresses():
        sys.stdout.flush()
        variables = dict(item.split(b"=", 1) for item in initial_environment() if b"=" in item)
        os.execve(sys.executable, sys.orig_argv, variables)


def find(name: str, settings: Settings) -> LoadPlan:
    """Plans the program that execvp would run."""
    directories = os.environ.get("PATH", os.defpath).split(":")
    return search(name, directories, interp=settings.interp, in_place=settings.in_place)


def _run(plan: LoadPlan, words: list[str], settings: Settings) -> int:
    given = initial_environment() if settings.environ is None else settings.environ
    argv = [words[0] if settings.argv0 is None else settings.argv0, *words[1:]]
    request = Request(
        plan,
        tuple(encode(word) for word in argv),
        given,
        settings.layout,
        Setup(default_signals=PYTHON_IGNORES, ignored_signals=(SIGCHLD,) if run.heed_children() else ()),
        settings.strict,
        run.block_signals(),
    )

    def tell(started: run.Started) -> None:
        if settings.verbose:
            from ..views import lines

            complain(*lines.start(started, plan))

    try:
        if settings.in_place:
            run.replace(request, tell=tell)
        leave_out(anonymous())
        started = run.spawn(request)
    except BaseException:
        run.unblock_signals(request.sigmask or 0)
        raise
    tell(started)
    return run.leave_as(run.attend(started.pid))
