"""Starts its arguments as a program from a template, as the third clone of it, and ends as it does (test_template.py).

usage: templated.py template|pool|ordinary PROGRAM [ARGUMENT...]

With `ordinary` it must take the ordinary way, for which there is no template.
"""

from __future__ import annotations

import os
import signal
import sys

from reflective.template import Template
from reflective.template.warm import Warm


def initial_environment() -> dict[bytes, bytes]:
    """What this process was given: Python may add to it (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        strings = file.read().split(b"\0")[:-1]
    return dict(string.split(b"=", 1) for string in strings)


def main() -> None:
    way, *words = sys.argv[1:]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # what Python ignores
        signal.signal(number, signal.SIG_DFL)
    started = initial_environment()
    with Template(words[0], pool=2 if way == "pool" else 0) as template:
        null = os.open("/dev/null", os.O_WRONLY)
        output = os.dup(1)
        os.dup2(null, 1)
        for _ in range(2):
            os.waitpid(template.spawn(words, started), 0)
        os.dup2(output, 1)
        os.close(null)
        os.close(output)
        status = os.waitpid(template.spawn(words, started), 0)[1]
        if any(isinstance(one, Warm) for one in template._warm.values()) != (way != "ordinary"):
            sys.exit(f"not by {way}: {template._warm}")
    sys.exit(os.waitstatus_to_exitcode(status))


main()
