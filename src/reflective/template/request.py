"""From what a caller wants (native.child.Setup) to what a clone is given (native.template)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ..native.child import Setup
from ..native.template import DESCRIPTORS, Attributes, inheritable


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


def attributes(setup: Setup) -> Attributes:
    """What the clone has unlike this process."""
    to_default, to_ignore = (
        sum(1 << one - 1 for one in signals) for signals in (setup.default_signals, setup.ignored_signals)
    )
    return Attributes(to_default, to_ignore, setup.umask, setup.new_session)


def descriptors(setup: Setup) -> tuple[tuple[int, int], ...] | None:
    """What the program has: (ours, its), ascending by its; None: all that are not close-on-exec. Raises OSError: too many."""
    if not setup.close_fds and not setup.pass_fds and setup.streams == (None, None, None):
        return None
    wanted = {fd: fd for fd in (filter(_inheritable, range(3)) if setup.close_fds else inheritable())}
    for fd in setup.pass_fds:
        wanted[fd] = fd
    for target, stream in enumerate(setup.streams):
        if stream is not None:
            wanted[target] = stream
    if len(wanted) > DESCRIPTORS:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return tuple((wanted[target], target) for target in sorted(wanted))


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
