"""The public face, shaped like subprocess and os.posix_spawn, with the kernel's part of a start done by this package."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, SubprocessError, TimeoutExpired
from typing import Any, TypeAlias, TypeVar

from .errors import LoadError, load_error
from .native.child import Setup
from .native.prepare import Degradation, Request
from .native.run import Started, above_stdio, failed_step, replace
from .native.run import spawn as start
from .native.system import environment
from .native.zygote import start as start_by_zygote
from .plan.build import LoadPlan, build
from .plan.layout import Options
from .plan.stack import encode

__all__ = [
    "DEVNULL", "PIPE", "STDOUT", "CalledProcessError", "CompletedProcess", "Popen", "SubprocessError", "TimeoutExpired",
    "call", "check_call", "check_output", "getoutput", "getstatusoutput", "run", "spawn",
]  # fmt: skip

Found = TypeVar("Found")
Word: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
ENCODING = sys.getfilesystemencoding()
ATTEMPTS = 64
MOST_ID = 0xFFFFFFFF
USUAL, NOTHING = Options(), Setup()  # nothing special is wanted of the layout, or of the child
RESTORED = (signal.SIGPIPE.value, signal.SIGXFSZ.value)  # what Python ignores at its start and subprocess restores


def spawn(
    path: Word | LoadPlan,
    argv: Sequence[Word],
    env: Mapping[Any, Any] | None = None,
    *,
    options: Options = USUAL,
    setup: Setup = NOTHING,
    strict: bool = False,
) -> int:
    """Starts a program as os.posix_spawn does, and returns its pid, for os.waitpid.

    `path` is a path, which is not looked for in PATH, or a plan made before. Raises LoadError with the errno of execve; with
    `strict`, Degraded if something can't be as after execve.
    """
    argc, words = _joined(argv)
    program = path if isinstance(path, (str, LoadPlan)) else os.fsdecode(path)
    if not strict and (options is USUAL or options == USUAL):
        count, strings = (0, None) if env is None else _packed(env)
        started = start_by_zygote(program, words, argc, strings, count, None if setup is NOTHING else setup)
        if started:
            return started[0]

    def request() -> Request:
        plan = program if isinstance(program, LoadPlan) else build(program)
        return Request(plan, tuple(words.split(b"\0")[:-1]), _environment(env), options, setup, strict)

    return _start(request, 1 if isinstance(program, LoadPlan) else ATTEMPTS).pid


def _start(request: Callable[[], Request], attempts: int = ATTEMPTS) -> Started:
    """Plans and starts; plans again if another file lies there when it is opened to be loaded."""
    for left in reversed(range(attempts)):
        try:
            return start(request())
        except LoadError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    raise AssertionError("no attempt")


def _joined(argv: Sequence[Word]) -> tuple[int, bytes]:
    """How many arguments, and all of them, each with its NUL. Raises ValueError for a NUL in one."""
    try:
        text = "\0".join(argv) + "\0"  # type: ignore[arg-type]
        if text.count("\0") == len(argv):
            return len(argv), text.encode(ENCODING, "surrogateescape")
    except TypeError:
        pass  # bytes, paths; or what is wrong
    words = [encode(word) for word in argv]
    return len(words), b"".join([word + b"\0" for word in words])


def _packed(env: Mapping[Any, Any]) -> tuple[int, bytes]:
    """How many NAME=VALUE strings, and all of them, each with its NUL. Raises ValueError as _environment does."""
    data = getattr(env, "_data", None) if env is os.environ else None
    if type(data) is dict:  # os.environ decodes each string, to be encoded again; it refuses what must be refused here
        return len(data), b"".join([b"%b=%b\0" % item for item in data.items()])
    try:  # a few calls that loop in C: one for each string would take longer than all the rest of a start in Python
        names = "".join(env)
        text = "\0".join(map("=".join, env.items())) + "\0"
        if "=" not in names and text.count("\0") == len(env):
            return len(env), text.encode(ENCODING, "surrogateescape")
    except (TypeError, AttributeError):
        pass  # bytes, paths; or what is wrong
    strings = _environment(env)
    return len(strings), b"".join(item + b"\0" for item in strings)


def _environment(env: Mapping[Any, Any] | None) -> tuple[bytes, ...]:
    """NAME=VALUE strings. Raises ValueError for a name with "=", or a NUL, as subprocess does."""
    if env is None:
        return environment()
    items = []
    for key, value in env.items():
        name = encode(key)
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        items.append(name + b"=" + encode(value))
    return tuple(items)


class Popen(subprocess.Popen[Any]):
    """subprocess.Popen whose child is loaded by this package. `degraded` names what is not as after execve.

    Every keyword of subprocess.Popen works; exceptions are those of subprocess, with a reason.
    """

    degraded: tuple[Degradation, ...] = ()

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Callable[[], Any] | None,
        close_fds: bool,
        pass_fds: Sequence[int],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        _startupinfo: object,
        _creationflags: int,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: bool,
        gid: int | None,
        gids: Sequence[int] | None,
        uid: int | None,
        umask: int,
        start_new_session: bool,
        process_group: int,
    ) -> None:
        """Takes the place of subprocess's own, which forks and execs; called alike in Python 3.11, 3.12 and 3.13."""
        words, program = _command(args, executable, shell)
        if any(fd < 0 for fd in pass_fds):
            raise ValueError("bad value(s) in fds_to_keep")
        _check_ids(uid, gid, gids or ())
        sys.audit("subprocess.Popen", program, words, cwd, env)
        setup = Setup(
            close_fds=close_fds,
            pass_fds=tuple(map(int, pass_fds)),
            cwd=None if cwd is None else os.fsdecode(cwd),
            umask=umask,
            new_session=start_new_session,
            process_group=process_group,
            groups=None if gids is None else tuple(gids),
            gid=gid,
            uid=uid,
            default_signals=RESTORED if restore_signals else (),
        )
        with _streams(p2cread, c2pwrite, errwrite) as streams:
            try:
                self._load(program, words, env, setup.replace(streams=streams), preexec_fn)
            except OSError as error:
                if error.filename is not None:
                    error.filename = cwd if error.filename == setup.cwd and cwd is not None else program
                elif sys.version_info < (3, 12):  # where subprocess takes every failure before the exec for one of chdir
                    error.filename = cwd
                raise
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _load(
        self,
        program: Word,
        words: list[Word],
        env: Mapping[Any, Any] | None,
        setup: Setup,
        preexec_fn: Callable[[], Any] | None,
    ) -> None:
        if setup.cwd is not None:
            encode(setup.cwd)  # a NUL in it is the same ValueError in every Python
            os.close(os.open(setup.cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        name, (argc, argv) = os.fsdecode(program), _joined(words)
        count, strings = (0, None) if env is None else _packed(env)
        directories = os.get_exec_path(env)

        def launch(path: str) -> tuple[int, tuple[Degradation, ...]] | None:
            here = setup.cwd is None or os.path.isabs(path)
            return start_by_zygote(path, argv, argc, strings, count, setup) if here else None

        def request(setup: Setup, in_place: bool) -> Request:
            plan = _find(name, directories, lambda path: build(path, directory=setup.cwd, in_place=in_place))
            return Request(plan, tuple(argv.split(b"\0")[:-1]), _environment(env), Options(), setup)

        if preexec_fn is None and not setup.changes_identity:
            launched = _find(name, directories, launch)
            if launched is None:
                started = _start(lambda: request(setup, False))
                launched = started.pid, started.degraded
            self.pid, self.degraded = launched
        else:  # the program is looked for by the child: as its user, below its root directory
            self.pid, self.degraded = _fork_and_replace(lambda: request(setup.after(), True), setup, preexec_fn)
        self._child_created = True


def _find(name: str, directories: Sequence[str], act: Callable[[str], Found]) -> Found:
    """Acts on the program that subprocess would run: the first in PATH that can be executed (_posixsubprocess.c)."""
    if os.path.dirname(name):
        return act(name)
    refused: LoadError | None = None
    for place in directories:
        try:
            return act(os.path.join(place, name))
        except LoadError as error:
            if refused is None or refused.errno in (errno.ENOENT, errno.ENOTDIR):
                refused = error
    raise refused or load_error(errno.ENOENT, "PATH is empty", name)


def _command(args: Any, executable: Any, shell: bool) -> tuple[list[Word], Word]:
    """The argument list and the program, from what Popen takes."""
    if isinstance(args, os.PathLike) and shell:
        raise TypeError("path-like args is not allowed when shell is true")
    words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    if shell:
        words = [executable or "/bin/sh", "-c", *words]
        executable = executable or "/bin/sh"
    return words, words[0] if executable is None else executable


def _check_ids(uid: int | None, gid: int | None, groups: Sequence[int]) -> None:
    """Raises for what does not fit in 32 bits, as Modules/_posixsubprocess.c does."""
    for name, number in (("uid", uid), ("gid", gid)):
        if number is not None and number > MOST_ID:
            raise OverflowError(f"{name} is greater than maximum")
    if any(group > MOST_ID for group in groups):
        raise ValueError("invalid group id")


@contextlib.contextmanager
def _streams(*fds: int) -> Any:
    """The descriptors for 0, 1 and 2. One that stands where another goes is copied out of the way first."""
    copies: list[int] = []
    try:
        targets: list[int | None] = []
        for target, fd in enumerate(fds):
            if fd in (-1, target) or fd > 2:
                targets.append(None if fd == -1 else fd)
            else:
                copies.append(above_stdio(os.dup(fd)))
                targets.append(copies[-1])
        yield tuple(targets)
    finally:
        for fd in copies:
            os.close(fd)


def _fork_and_replace(
    request: Callable[[], Request], setup: Setup, preexec_fn: Callable[[], Any] | None
) -> tuple[int, tuple[Degradation, ...]]:
    """A child in which Python runs on, for preexec_fn, and which then becomes the program in place."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    writer = above_stdio(writer)
    try:
        pid = os.fork()
        if pid == 0:
            _become(request, setup, preexec_fn, writer)
    finally:
        os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            message = file.read()
    except BaseException:
        os.waitpid(pid, 0)
        raise
    degraded, _, failure = message.partition(b"\n") if message.startswith(b"[") else (b"", b"", message)
    if failure:
        os.waitpid(pid, 0)
        _raise(failure)
    return pid, tuple(Degradation(*item) for item in json.loads(degraded or b"[]"))


def _become(request: Callable[[], Request], setup: Setup, preexec_fn: Callable[[], Any] | None, writer: int) -> None:
    """In the child: everything that comes before preexec_fn, preexec_fn, the program. Does not return."""
    failure: dict[str, Any]
    try:
        setup.apply()
        try:
            if preexec_fn is not None:
                preexec_fn()
        except BaseException:
            failure = {"errno": 0, "reason": "Exception occurred in preexec_fn.", "filename": None}
        else:
            replace(request(), writer, lambda started: _tell(writer, started.degraded))
            raise AssertionError("replace returned")
    except LoadError as error:
        failure = {"errno": error.errno, "reason": error.reason, "filename": error.filename}
    except OSError as error:
        failure = {"errno": error.errno, "reason": os.strerror(error.errno or errno.EIO), "filename": error.filename}
    except BaseException as error:
        failure = {"errno": 0, "reason": repr(error), "filename": None}
    try:
        os.write(writer, json.dumps(failure).encode())
    finally:
        os._exit(255)


def _tell(writer: int, degraded: tuple[Degradation, ...]) -> None:
    os.write(writer, json.dumps([(item.what, item.why) for item in degraded]).encode() + b"\n")


def _raise(message: bytes) -> None:
    """The child's failure: JSON from Python, struct refl_report from the blob."""
    if not message.startswith(b"{"):
        number, step = failed_step(message)
        raise load_error(number, f"step {step} of the load: {os.strerror(number)}", None)
    failure = json.loads(message)
    if failure["errno"]:
        raise load_error(failure["errno"], failure["reason"], failure["filename"])
    raise SubprocessError(failure["reason"])


def run(
    *popenargs: Any,
    input: str | bytes | None = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **kwargs: Any,
) -> CompletedProcess[Any]:
    """subprocess.run with this package's Popen: starts the program, waits for it, returns what it printed and its status."""
    if input is not None:
        if kwargs.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        kwargs["stdin"] = PIPE
    if capture_output:
        if kwargs.get("stdout") is not None or kwargs.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        kwargs["stdout"] = kwargs["stderr"] = PIPE
    with Popen(*popenargs, **kwargs) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except TimeoutExpired:
            process.kill()
            process.wait()  # what it printed is in the exception; its children may keep the pipes open
            raise
        except BaseException:
            process.kill()
            raise
        status = process.returncode
    if check and status:
        raise CalledProcessError(status, process.args, output=stdout, stderr=stderr)
    return CompletedProcess(process.args, status, stdout, stderr)


def call(*popenargs: Any, timeout: float | None = None, **kwargs: Any) -> int:
    """subprocess.call: the program's status."""
    with Popen(*popenargs, **kwargs) as process:
        try:
            return process.wait(timeout=timeout)
        except BaseException:
            process.kill()
            raise


def check_call(*popenargs: Any, **kwargs: Any) -> int:
    """subprocess.check_call: raises CalledProcessError unless the status is 0."""
    status = call(*popenargs, **kwargs)
    if status:
        raise CalledProcessError(status, kwargs.get("args") or popenargs[0])
    return 0


def check_output(*popenargs: Any, timeout: float | None = None, **kwargs: Any) -> Any:
    """subprocess.check_output: what the program printed; raises CalledProcessError unless its status is 0."""
    for key in ("stdout", "check"):
        if key in kwargs:
            raise ValueError(f"{key} argument not allowed, it will be overridden.")
    return run(*popenargs, stdout=PIPE, timeout=timeout, check=True, **kwargs).stdout


def getstatusoutput(cmd: Any, *, encoding: str | None = None, errors: str | None = None) -> tuple[int, Any]:
    """subprocess.getstatusoutput: a shell command's status and what it printed, without the last newline."""
    try:
        output, status = check_output(cmd, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors), 0
    except CalledProcessError as error:
        output, status = error.output, error.returncode
    return status, output.removesuffix("\n")


def getoutput(cmd: Any, *, encoding: str | None = None, errors: str | None = None) -> Any:
    """subprocess.getoutput: what a shell command printed, to stdout or stderr, without the last newline."""
    return getstatusoutput(cmd, encoding=encoding, errors=errors)[1]
