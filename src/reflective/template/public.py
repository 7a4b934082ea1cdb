"""reflective.Template: the public face of templates."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import weakref
from _thread import allocate_lock
from collections.abc import Mapping, Sequence
from typing import Any

from .. import process
from ..errors import LoadError, load_error
from ..native.child import Setup
from ..native.prepare import Request
from ..native.run import addresses_fixed
from ..native.template import DESCRIPTORS, Gone, Start
from ..plan.build import LoadPlan, build
from ..plan.stack import encode
from ..process import PIPE, CalledProcessError, CompletedProcess, Word
from . import key
from .state import State, descriptors, state
from .warm import Warm, warm

MOST = 4  # templates of one program at a time, for different environments
STRINGS_MOST = 24 << 10  # bytes of arguments and environment that a start from a template may have


class Template:
    """A program that is started many times: its dynamic linker does its work once, in a process that is cloned for each start.

    What a program can observe of its own start is as after execve, but for addresses, which all clones of one template share
    (`refresh`), and the rows in docs/templates.md. A start that the template can't serve takes the ordinary way, reflective.spawn:
    static and set-user-ID programs, an unknown dynamic linker, a changed file, another user. `pool` clones are made ahead; they
    are children of this process, which waitpid(-1) sees.

    Safe to use from several threads. In a child made by fork it starts anew. Raises LoadError if the program can't be started at
    all.
    """

    def __init__(self, path: Word, *, pool: int = 0) -> None:
        if pool < 0:
            raise ValueError(f"pool is {pool}: it can't be negative")
        self._path, self._pool = os.fsdecode(encode(path)), pool
        self._lock = allocate_lock()
        self._warm: dict[tuple[object, ...], Warm | None] = {}
        self._plan = build(self._path)
        self._age, self._born = 0.0, time.monotonic()
        self._closed = False
        self._owner = os.getpid()
        _open.add(self)

    def __enter__(self) -> Template:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spawn(self, argv: Sequence[Word], env: Mapping[Any, Any] | None = None) -> int:
        """Starts the program as os.posix_spawn does, and returns its pid, for os.waitpid. Raises LoadError."""
        words, envp = [encode(word) for word in argv], process._environment(env)
        pid = self._start(words, envp, Setup())
        return process.spawn(self._path, words, env) if pid is None else pid

    def Popen(self, args: Any, **keywords: Any) -> subprocess.Popen[Any]:  # noqa: N802 - it stands for the class
        """subprocess.Popen of this program: every keyword works; `args` are the arguments, argv[0] first."""
        return _Popen(self, args, **keywords)

    def run(
        self,
        args: Any,
        *,
        input: str | bytes | None = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> CompletedProcess[Any]:
        """subprocess.run of this program."""
        if input is not None:
            if keywords.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            keywords["stdin"] = PIPE
        if capture_output:
            if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
                raise ValueError("stdout and stderr arguments may not be used with capture_output.")
            keywords["stdout"] = keywords["stderr"] = PIPE
        with self.Popen(args, **keywords) as started:
            try:
                stdout, stderr = started.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
                raise
            except BaseException:
                started.kill()
                raise
            status = started.returncode
        if check and status:
            raise CalledProcessError(status, started.args, output=stdout, stderr=stderr)
        return CompletedProcess(started.args, status, stdout, stderr)

    def refresh(self, *, every: float = 0.0) -> None:
        """Ends the template: the next start makes another, with other addresses. With `every`, again after so many seconds."""
        with self._lock:
            self._drop()
            self._age = every

    def close(self) -> None:
        """Ends the template and the clones that wait. Programs that were started go on."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        for one in self._warm.values():
            if one is not None:
                one.end()
        self._warm.clear()
        self._born = time.monotonic()

    def _start(self, words: list[bytes], envp: tuple[bytes, ...], setup: Setup) -> int | None:
        """The pid of a clone that becomes the program; None if the ordinary way must be taken."""
        now = None if setup.changes_identity or setup.process_group >= 0 or setup.cwd is not None else state()
        if now is None:
            return None
        with self._lock:
            if self._closed:
                raise ValueError("the template is closed")
            if self._owner != os.getpid() or (self._age and time.monotonic() - self._born > self._age):
                self._drop()
                self._owner = os.getpid()
            for _ in range(2):  # one that was killed is made anew, once
                start = self._request(words, envp, setup, now)
                one = start and self._for(start, envp, now)
                if not one or not start:
                    return None
                try:
                    return one.spawn(start)
                except Gone:
                    self._drop()
        return None

    def _request(self, words: list[bytes], envp: tuple[bytes, ...], setup: Setup, now: State) -> Start | None:
        """The start as the core takes it; None if it is too large."""
        argv = self._plan.argv(words)
        strings = b"".join([word + b"\0" for word in (*argv, *envp)])
        fds = descriptors(setup)
        if len(strings) + 8 * (len(argv) + len(envp)) > STRINGS_MOST or len(fds) > DESCRIPTORS:
            return None
        return Start(strings, len(argv), len(envp), fds, now.blocked)

    def _for(self, start: Start, envp: tuple[bytes, ...], now: State) -> Warm | None:
        """The template for such a start, made now if there is none; None if there can be none."""
        strings = key.read_by_linker(envp)
        name = (strings, now.identity)
        if name in self._warm:
            one = self._warm[name]
            if one is None:
                return None
            if one.current and one.process.fits(len(start.strings)):
                return one
            one.end()
            del self._warm[name]
        if len(self._warm) >= MOST:
            self._drop()
        self._plan = build(self._path)
        try:
            if self._plan.notes or key.active(strings) or addresses_fixed():
                raise Gone("each start must have a dynamic linker of its own")
            self._warm[name] = one = warm(Request(self._plan, (), ()), strings, len(start.strings), self._pool)
        except Gone:
            self._warm[name] = one = None
        return one


class _Popen(process.Popen):
    """Popen that asks a template first."""

    def __init__(self, template: Template, args: Any, **keywords: Any) -> None:
        self._template = template
        keywords.setdefault("executable", template._path)
        super().__init__(args, **keywords)

    def _load(self, program: Any, words: list[Any], env: Any, setup: Setup, preexec_fn: Any) -> None:
        if preexec_fn is None and os.fsdecode(program) == self._template._path:
            pid = self._template._start([encode(word) for word in words], process._environment(env), setup)
            if pid is not None:
                self.pid = pid
                self._child_created = True
                return
        super()._load(program, words, env, setup, preexec_fn)


_open: weakref.WeakSet[Template] = weakref.WeakSet()
