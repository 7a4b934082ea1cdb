"""`reflective plan`: what would be done, without doing it."""

from __future__ import annotations

import argparse
import errno
import os
import sys

from ..errors import LoadError
from ..plan.build import search
from ..views import json, text
from .exec import complain, status_of

WRITE_ERROR = 1


def show(args: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status that exec would give if there is none."""
    try:
        plan = search(args.program, os.get_exec_path(), interp=args.interp)
    except (LoadError, ValueError) as error:
        complain(error)
        return status_of(error)
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if args.json:
            print(json.plan(plan))
        else:
            text.write(text.plan(plan), args.color)
        sys.stdout.flush()
    except BrokenPipeError:
        return _silenced()
    except OSError as error:
        complain(f"can't write the plan: {error.strerror}")
        return _silenced()
    return 0


def _silenced() -> int:
    """Python flushes its stdout once more at its end, and would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return WRITE_ERROR
