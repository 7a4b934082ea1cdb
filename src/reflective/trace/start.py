"""The child that is traced from its first instruction: it waits at a gate until it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from ..errors import load_error
from ..native.child import Setup
from ..native.prepare import Request
from ..native.run import replace
from ..plan.build import search
from ..plan.layout import Options
from ..plan.stack import encode

PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def find(name: str) -> str:
    """The file that execvp would run; LoadError if there is none."""
    if "/" in name:
        if not os.path.exists(name):
            raise load_error(2, "there is no such file", name)
        return name
    for directory in os.get_exec_path():
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise load_error(2, "it is not in PATH", name)


def gated(words: Sequence[str], reflective: bool) -> tuple[int, int]:
    """A child that becomes the program when a byte is written to the gate: its pid, and the gate's descriptor."""
    path = find(words[0])
    reader, gate = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(path, words, reader, reflective)
    os.close(reader)
    return pid, gate


def _become(path: str, words: Sequence[str], reader: int, reflective: bool) -> None:
    try:
        for number in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        if not os.read(reader, 1):  # the tracer is gone
            return
        if not reflective:
            os.execve(path, list(words), os.environb)
        plan = search(path, os.get_exec_path(), in_place=True)
        environ = tuple(name + b"=" + value for name, value in os.environb.items())
        replace(Request(plan, tuple(encode(word) for word in words), environ, Options(), Setup()))
    except OSError as error:
        os.write(2, f"reflective: {words[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(126)
