"""reflective.Template: the public face of templates."""

from __future__ import annotations

import os
import subprocess
import time
import weakref
from _thread import allocate_lock
from collections.abc import Mapping, Sequence
from typing import Any

from .. import process
from ..native.child import Setup
from ..native.prepare import Degradation, Request
from ..native.run import addresses_fixed
from ..native.system import environment_block
from ..native.template import PLAIN, Files, Gone, Refused, Stale, Start
from ..plan.build import LoadPlan, build
from ..plan.stack import encode
from ..process import PIPE, CalledProcessError, CompletedProcess, Word
from . import key
from .repeat import Repeat, repeatable
from .request import attributes, descriptors, directory
from .warm import Warm, warm

MOST = 4  # templates of one program at a time, for different environments
ATTEMPTS = 3
STRINGS_MOST = 24 << 10  # bytes of arguments and environment: what a slot and a template's stack have room for
SETTLED_S = 0.1  # a template that is stale sooner would be made again and again: the ordinary way, then


class Template:
    """A program that is started many times: its dynamic linker does its work once, in a process that is cloned for each start.

    What a program can observe of its own start is as after execve, but for addresses, which all clones of one template share
    (`refresh`), and the rows in docs/templates.md. A start that the template can't serve takes the ordinary way,
    reflective.spawn: static and set-user-ID programs, an unknown dynamic linker. A template of a file that has changed, or of
    a caller who has, is made anew. `pool` clones are made ahead; they and the template are children of this process.

    For any number of threads. In a child made by fork it starts anew. Raises LoadError if the program can't be started at all.
    """

    def __init__(self, path: Word, *, pool: int = 0) -> None:
        if pool < 0:
            raise ValueError(f"pool is {pool}: it can't be negative")
        self._path, self._pool = os.fsdecode(encode(path)), pool
        self._lock = allocate_lock()
        self._warm: dict[tuple[bytes, ...], Warm | Files] = {}  # Files: as long as they are the same there can be none
        self._latest: Warm | None = None  # the one that was used last
        self._last: tuple[bytes, tuple[bytes, ...]] = b"", ()  # an environment, and what ld.so reads of it
        self._repeat: Repeat | None = None
        self._env: object = None  # of the start before
        self._plan = build(self._path)
        self._age, self._born = 0.0, time.monotonic()
        self._closed = False
        _open.add(self)

    def __enter__(self) -> Template:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spawn(self, argv: Sequence[Word], env: Mapping[Any, Any] | None = None) -> int:
        """Starts the program as os.posix_spawn does, and returns its pid, for os.waitpid. Raises LoadError."""
        pid = self._again(argv, env)
        if pid is None:
            pid = self._start(argv, env, None)
        return process.spawn(self._path, argv, env) if pid is None else pid

    def Popen(self, args: Any, **keywords: Any) -> subprocess.Popen[Any]:
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

    def __del__(self) -> None:
        if "_warm" in self.__dict__:
            self.close()

    @property
    def degraded(self) -> tuple[Degradation, ...]:
        """What is not as after execve in the clones of the template that was used last."""
        return self._latest.process.made.degraded if self._latest else ()

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
            if isinstance(one, Warm):
                one.end()
        self._warm.clear()
        self._latest = self._repeat = None
        self._born = time.monotonic()

    def _again(self, argv: Sequence[Word], env: Mapping[Any, Any] | None) -> int | None:
        """The same as the last time, if it was: what it takes is at hand. None if not, or if there was none."""
        with self._lock:
            repeat = self._repeat
            if repeat is None or not repeat.same(argv, env) or self._old():
                return None
            try:
                return repeat.warm.start(repeat.start)
            except (Gone, Stale, Refused):
                return None

    def _old(self) -> bool:
        return bool(self._age) and time.monotonic() - self._born > self._age

    def _start(self, argv: Sequence[Word], env: Mapping[Any, Any] | None, setup: Setup | None) -> int | None:
        """The pid of a clone that becomes the program; None if the ordinary way must be taken."""
        if setup is None:
            return self._attempts(argv, env, Start(None, -1, PLAIN))
        if setup.changes_identity or setup.process_group >= 0:
            return None
        try:
            fds = descriptors(setup)
        except OSError:
            return None
        with directory(setup.cwd) as where:
            return self._attempts(argv, env, Start(fds, where, attributes(setup)))

    def _attempts(self, argv: Sequence[Word], env: Mapping[Any, Any] | None, what: Start) -> int | None:
        with self._lock:
            if self._closed:
                raise ValueError("the template is closed")
            if self._old():
                self._drop()
            for _ in range(ATTEMPTS):
                try:
                    return self._attempt(argv, env, what)
                except Refused:
                    return None
                except Gone:
                    self._remove(self._latest)
                except Stale:
                    again = self._latest is not None and time.monotonic() - self._latest.born < SETTLED_S
                    self._remove(self._latest)
                    if again:
                        return None
        return None

    def _attempt(self, argv: Sequence[Word], env: Mapping[Any, Any] | None, what: Start) -> int | None:
        words = process._joined(argv)
        block = environment_block() if env is None else process._packed(env)[1]
        what.envc = block.count(b"\0")
        plan = self._plan
        what.argc, what.strings = _strings(plan, words, block)
        one = self._for(len(what.strings), block)
        if self._plan is not plan:  # another #! line, perhaps
            what.argc, what.strings = _strings(self._plan, words, block)
        if one is None or (what.directory >= 0 and one.files.relative):
            return None
        self._latest = one
        pid = one.start(what)
        if env is self._env and what.attributes is PLAIN and repeatable(argv, env):
            self._repeat = Repeat(argv, block if env is None else env, one, what)
        self._env = env
        return pid

    def _for(self, size: int, environment: bytes) -> Warm | None:
        if environment != self._last[0]:
            self._last = environment, key.read_by_linker(environment)
        strings = self._last[1]
        one = self._warm.get(strings)
        if isinstance(one, Warm) and one.process.fits(size):
            return one
        if size > STRINGS_MOST or (isinstance(one, Files) and key.same(one)):
            return None
        if isinstance(one, Warm):
            self._remove(one)
        if len(self._warm) >= MOST:
            self._drop()
        self._plan = build(self._path)
        try:
            if self._plan.notes or key.handled(self._plan) or key.active(strings) or addresses_fixed():
                raise Gone("each start must have a dynamic linker of its own")
            made = self._warm[strings] = warm(Request(self._plan, (), ()), strings, size, self._pool)
            return made
        except Gone:
            self._warm[strings] = key.files(key.files_of(self._plan, strings, ()))
            return None

    def _remove(self, one: Warm | None) -> None:
        self._repeat = None
        if one is self._latest:
            self._latest = None
        if one is not None:
            one.end()
        self._warm = {strings: other for strings, other in self._warm.items() if other is not one}


def _strings(plan: LoadPlan, words: tuple[int, bytes], block: bytes) -> tuple[int, bytes]:
    """How many arguments, and they and the environment, each with its NUL."""
    argc, joined = words
    if argc and not plan.prefix:
        return argc, joined + block
    argv = plan.argv(joined.split(b"\0")[:-1])
    return len(argv), b"\0".join([*argv, block])


class _Popen(process.Popen):
    """Popen that asks a template first."""

    def __init__(self, template: Template, args: Any, **keywords: Any) -> None:
        self._template = template
        keywords.setdefault("executable", template._path)
        super().__init__(args, **keywords)

    def _load(self, program: Any, words: list[Any], env: Any, setup: Setup, preexec_fn: Any) -> None:
        if preexec_fn is None and os.fsdecode(program) == self._template._path:
            pid = self._template._start(words, env, setup)
            if pid is not None:
                self.pid, self.degraded = pid, self._template.degraded
                self._child_created = True
                return
        super()._load(program, words, env, setup, preexec_fn)


_open: weakref.WeakSet[Template] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child made by os.fork: it has no templates yet, and no thread that could hold a lock."""
    for template in list(_open):
        template._lock = allocate_lock()
        for one in template._warm.values():
            if isinstance(one, Warm):
                one.forget()
        template._warm, template._latest, template._repeat = {}, None, None


os.register_at_fork(after_in_child=_after_fork)
