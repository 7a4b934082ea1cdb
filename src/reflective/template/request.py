"""From what a caller wants (native.child.Setup) to what a clone is given (native.template.Start)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from ..native.child import Setup
from ..native.template import DESCRIPTORS, Start, inheritable

STRINGS_MOST = 24 << 10  # bytes of arguments, environment and their pointers: what a slot and a template's stack have room for


@contextlib.contextmanager
def directory(path: str | None) -> Iterator[int]:
    """A descriptor of the directory to start in; -1 if that is the caller's. Raises OSError as chdir would."""
    if path is None:
        yield -1
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.stat(".", dir_fd=fd)  # may it be entered?
        yield fd
    finally:
        os.close(fd)


def request(argv: Sequence[bytes], environment: bytes, setup: Setup | None, where: int) -> Start | None:
    """The start; None if it is too large for a template, or has too many descriptors. Without a `setup` as posix_spawn."""
    strings = b"\0".join([*argv, environment])
    envc = environment.count(b"\0")
    if len(strings) + 8 * (len(argv) + envc) > STRINGS_MOST:
        return None
    start = Start(strings, len(argv), envc)
    start.directory = where
    if setup is None:
        return start
    if setup.close_fds or setup.pass_fds or setup.streams != (None, None, None):
        start.descriptors = descriptors(setup)
        if start.descriptors is None:
            return None
    start.to_default, start.to_ignore = _mask(setup.default_signals), _mask(setup.ignored_signals)
    start.umask, start.new_session = setup.umask, setup.new_session
    return start


def _mask(signals: Sequence[int]) -> int:
    return sum(1 << number - 1 for number in signals)


def descriptors(setup: Setup) -> tuple[tuple[int, int], ...] | None:
    """What the program has: (ours, its), ascending by its; None if they are too many."""
    wanted: dict[int, int] = {}
    try:
        for fd in filter(_inheritable, range(3)) if setup.close_fds else inheritable():
            wanted[fd] = fd
    except OSError:
        return None
    for fd in setup.pass_fds:
        wanted[fd] = fd
    for target, stream in enumerate(setup.streams):
        if stream is not None:
            wanted[target] = stream
    return tuple((wanted[target], target) for target in sorted(wanted)) if len(wanted) <= DESCRIPTORS else None


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
