"""What a caller wants done in the child before the load: descriptors, directory, session, identity. As subprocess orders it
(Modules/_posixsubprocess.c: child_exec)."""

from __future__ import annotations

import os

from ..plan.reset import PR_SET_DUMPABLE, PR_SET_PDEATHSIG
from ..plan.steps import Call, Step
from ..values import Value
from ._core import ffi, lib

F_SETFD = 2
PTRACE_TRACEME, SIGSTOP = 0, 19
LAST_FD = (1 << 32) - 1


class ChangeDirectory(Step):
    """chdir; a failure names the directory, as subprocess has it."""

    path: str


class Setup(Value):
    """Everything is off by default. `streams` are the descriptors for 0, 1, 2 (None: as they are); see spawn for `traced`."""

    streams: tuple[int | None, int | None, int | None] = (None, None, None)
    close_fds: bool = False
    pass_fds: tuple[int, ...] = ()
    cwd: str | None = None
    umask: int = -1
    new_session: bool = False
    process_group: int = -1
    groups: tuple[int, ...] | None = None
    gid: int | None = None
    uid: int | None = None
    default_signals: tuple[int, ...] = ()
    ignored_signals: tuple[int, ...] = ()
    traced: bool = False

    @property
    def drops_privilege(self) -> bool:
        """True if the child becomes another user than root."""
        return self.uid not in (None, 0)

    @property
    def changes_identity(self) -> bool:
        """True if user or groups are others, and with them what may be executed."""
        return (self.uid, self.gid, self.groups) != (None, None, None)

    def ids(self) -> tuple[int, int, int, int]:
        """uid, euid, gid, egid of the new program."""
        uids = (os.getuid(), os.geteuid()) if self.uid is None else (self.uid, self.uid)
        gids = (os.getgid(), os.getegid()) if self.gid is None else (self.gid, self.gid)
        return *uids, *gids

    def steps(self, keep: list[int], more: list[Step]) -> tuple[Step, ...]:
        """The steps, in order; `keep` are descriptors that the load itself still needs, `more` comes last."""
        found: list[Step] = _traced(os.getpgrp()) if self.traced else []
        found += [Call("fcntl", (fd, F_SETFD, 0), "the program keeps it") for fd in self.pass_fds]
        for target, stream in enumerate(self.streams):
            if stream == target:
                found.append(Call("fcntl", (target, F_SETFD, 0), "a standard stream"))
            elif stream is not None:
                found.append(Call("dup2", (stream, target), "a standard stream"))
        if self.cwd is not None:
            found.append(ChangeDirectory(self.cwd))
        if self.umask >= 0:
            found.append(Call("umask", (self.umask,), "umask"))
        if self.new_session:
            found.append(Call("setsid", (), "a session of its own"))
        if self.process_group >= 0:
            found.append(Call("setpgid", (0, self.process_group), "process group"))
        found += self._identity()
        if self.close_fds:
            found += _close_all_but(sorted({*keep, *self.pass_fds}))
        return (*found, *more)

    def apply(self) -> None:
        """Does it in this process instead: for a child in which Python goes on running."""
        for fd in self.pass_fds:
            os.set_inheritable(fd, True)
        for target, stream in enumerate(self.streams):
            if stream == target:
                os.set_inheritable(target, True)
            elif stream is not None:
                os.dup2(stream, target)
        if self.cwd is not None:
            os.chdir(self.cwd)
        if self.umask >= 0:
            os.umask(self.umask)
        if self.default_signals:
            import signal

            for number in self.default_signals:
                signal.signal(number, signal.SIG_DFL)
        if self.new_session:
            os.setsid()
        if self.process_group >= 0:
            os.setpgid(0, self.process_group)
        if self.groups is not None:
            os.setgroups(self.groups)
        if self.gid is not None:
            os.setregid(self.gid, self.gid)
        if self.uid is not None:
            os.setreuid(self.uid, self.uid)

    def after(self) -> Setup:
        """What remains to be done once `apply` has been called."""
        return Setup(close_fds=self.close_fds, pass_fds=self.pass_fds)

    def _identity(self) -> list[Step]:
        found: list[Step] = []
        if self.groups is not None:
            found.append(SetGroups(self.groups))
        if self.gid is not None:
            found.append(Call("setregid", (self.gid, self.gid), "group"))
        if self.uid is not None:
            found.append(Call("setreuid", (self.uid, self.uid), "user"))
        return found


def _traced(group: int) -> list[Step]:
    """Asks to be traced, and stops. The blob does not know its pid, but a group in which it is alone can be meant."""
    return [
        Call("ptrace", (PTRACE_TRACEME, 0, 0, 0), "the parent traces it"),
        Call("setpgid", (0, 0), "alone in a process group"),
        Call("kill", (0, SIGSTOP), "stops until the tracer lets it go on"),
        Call("setpgid", (0, group), "back into the caller's process group"),
    ]


class SetGroups(Step):
    """Supplementary groups."""

    groups: tuple[int, ...]


def _close_all_but(keep: list[int]) -> list[Step]:
    found: list[Step] = []
    first = 3
    for fd in [fd for fd in keep if fd > 2] + [LAST_FD + 1]:
        if first < fd:
            found.append(Call("close_range", (first, fd - 1, 0), "descriptors that the program shall not have"))
        first = fd + 1
    return found


# Credentials: security/commoncap.c: cap_bprm_creds_from_file, for a file that brings none of its own.

SECBIT_NOROOT = 1
STACK_LIMIT, UNLIMITED = 8 << 20, (1 << 64) - 1  # linux/resource.h: _STK_LIM
RLIMIT_STACK = 3


class LimitStack(Step):
    """prlimit64 of RLIMIT_STACK, in bytes: who is effectively another user gets 8 MiB."""

    soft: int
    hard: int


class SetCapabilities(Step):
    """capset: execve lets a user other than root keep the ambient capabilities only, and gives root all that it may have."""

    permitted: int
    effective: int
    inheritable: int


def held() -> tuple[int, int, int, int]:
    """This thread's effective, permitted and inheritable capabilities, and its securebits."""
    sets = ffi.new("uint64_t[4]")
    lib.refl_capabilities(sets)
    return sets[0], sets[1], sets[2], sets[3]


def after_exec(uid: int, euid: int, gid: int, egid: int) -> list[Step]:
    """What must be set so that the program has what execve would leave it; nothing can be given that is not there."""
    steps = [*_saved_ids(euid, egid), *_capabilities(uid, euid)]
    return [*steps, *_elevated()] if _is_elevated(uid, euid, gid, egid) else steps


def most_stack(uid: int, euid: int, gid: int, egid: int) -> int:
    """The largest soft limit of the stack that execve leaves, in bytes: fs/exec.c: begin_new_exec."""
    return STACK_LIMIT if _is_elevated(uid, euid, gid, egid) else UNLIMITED


def _is_elevated(uid: int, euid: int, gid: int, egid: int) -> bool:
    return uid != euid or gid != egid


def _saved_ids(euid: int, egid: int) -> list[Step]:
    """The saved IDs become the effective ones; so do, with every such call, those for file systems."""
    fs_ids = ffi.new("uint32_t[2]")
    lib.refl_fs_ids(fs_ids)
    calls: list[Step] = []
    if os.getresgid()[2] != egid or fs_ids[1] != egid:
        calls.append(Call("setresgid", (-1, egid, egid), "the saved group ID becomes the effective one"))
    if os.getresuid()[2] != euid or fs_ids[0] != euid:
        calls.append(Call("setresuid", (-1, euid, euid), "the saved user ID becomes the effective one"))
    return calls


def _elevated() -> list[Step]:
    """For who is effectively another user, or in another group. fs/exec.c: begin_new_exec."""
    calls: list[Step] = [
        Call("prctl", (PR_SET_PDEATHSIG, 0), "effectively another user: the parent may not send a signal so"),
        Call("prctl", (PR_SET_DUMPABLE, 0), "effectively another user: not to be dumped"),
    ]
    if lib.refl_limit(RLIMIT_STACK) > STACK_LIMIT:
        calls.append(LimitStack(STACK_LIMIT, lib.refl_hard_limit(RLIMIT_STACK)))
    return calls


def _capabilities(uid: int, euid: int) -> list[Step]:
    effective, permitted, inheritable, securebits = held()
    root = not securebits & SECBIT_NOROOT and 0 in (uid, euid)
    ambient = 0 if not permitted or (root and euid == 0) else _ambient()
    keep = permitted if root else permitted & ambient
    use = keep if root and euid == 0 else keep & ambient
    if (keep, use) == (permitted, effective):
        return []
    return [SetCapabilities(keep, use, inheritable)]


def _ambient() -> int:
    return int(_status().get(b"CapAmb", b"0"), 16)


def _status() -> dict[bytes, bytes]:
    with open("/proc/thread-self/status", "rb") as file:
        return {name: value.strip() for name, _, value in (line.partition(b":") for line in file)}


_bounding = 0  # once: it only ever shrinks


def withheld(uid: int, euid: int) -> int:
    """The capabilities that execve would give root anew, up to the bounding set, and nobody else can give."""
    global _bounding
    _, permitted, inheritable, securebits = held()
    if 0 not in (uid, euid) or securebits & SECBIT_NOROOT or (_bounding and not (_bounding | inheritable) & ~permitted):
        return 0
    status = _status()
    _bounding = int(status[b"CapBnd"], 16)
    return (_bounding | inheritable) & ~permitted if status.get(b"NoNewPrivs") != b"1" else 0
