"""Starts a program COUNT times and tells how each start went, one JSON object a line: for tests/core/inject.c to disturb.

faulty_host.py KIND PROGRAM COUNT
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import reflective
from reflective.errors import LoadError
from reflective.native.child import Setup
from reflective.plan.layout import Options

FORKED = Options(seed=1)  # a layout of its own; a start by way of a zygote ends in a fork, whatever fails
HERE = str(Path(__file__).parent)


def everything() -> Setup:
    """All that a caller may wish."""
    root = os.geteuid() == 0
    return Setup(
        streams=(0, 1, 2),
        close_fds=True,
        cwd=HERE,
        umask=0o22,
        new_session=True,
        groups=(1, 2) if root else None,
        gid=os.getgid() if root else None,
        uid=os.getuid() if root else None,
        default_signals=(13, 25),
        ignored_signals=(10,),
    )


def attempt(program: str, setup: Callable[[], Setup]) -> dict[str, object]:
    try:
        pid = reflective.spawn(program, [program], {"A": "1"}, setup=setup(), options=FORKED)
    except LoadError as error:
        result: dict[str, object] = {"errno": error.errno, "reason": error.reason, "filename": error.filename}
    except BaseException as error:
        result = {"unexpected": repr(error)}
    else:
        result = {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
    with contextlib.suppress(ChildProcessError):
        result["left"] = os.waitpid(-1, os.WNOHANG)[0] or "a child that runs"
    result["descriptors"] = len(os.listdir("/proc/self/fd"))
    return result


def main() -> None:
    kind, program, count = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))  # all are tried where /proc/self/fd can't be read
    for _ in range(int(count)):
        print(json.dumps(attempt(program, {"plain": Setup, "everything": everything}[kind])), flush=True)


if __name__ == "__main__":
    main()
