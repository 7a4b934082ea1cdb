"""The caller's state at the moment of a start: what a clone must have of it."""

from __future__ import annotations

import os
import signal

from ..native.child import Setup
from ..values import Value


class State(Value):
    """What must be as it was when the template was made, and what is given to each clone."""

    identity: bytes
    blocked: int


def state() -> State | None:
    """That of the calling thread; None if it can't be told."""
    blocked = sum(1 << number - 1 for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    return State(b"", blocked)


def descriptors(setup: Setup) -> tuple[tuple[int, int], ...]:
    """What the program has: (ours, its), ascending by its."""
    wanted: dict[int, int] = {}
    for fd in range(3) if setup.close_fds else sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            if os.get_inheritable(fd):
                wanted[fd] = fd
        except OSError:
            continue
    for target, stream in enumerate(setup.streams):
        if stream is not None:
            wanted[target] = stream
    for fd in setup.pass_fds:
        wanted[fd] = fd
    return tuple((wanted[target], target) for target in sorted(wanted))
