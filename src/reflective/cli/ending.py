"""Signals that end a command which watches a program: it lets go of it first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # ^C, kill, a terminal that goes away


@contextmanager
def heeded(act: Callable[[int], object]) -> Iterator[None]:
    """`act` gets their numbers as they come. What nohup has ignored stays so; not SIGINT, which a shell ignores for a `&`."""
    numbers = [one for one in ENDING if one == signal.SIGINT or signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: act(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
