"""The child that is traced from its first instruction: it waits at a gate until it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from ..errors import printable
from ..native.child import Setup
from ..native.prepare import Request
from ..native.run import replace
from ..native.tracer import execve
from ..plan.build import build
from ..plan.kernel import find
from ..plan.layout import Options
from ..plan.stack import encode

PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def gated(words: Sequence[str], environ: tuple[bytes, ...], reflective: bool) -> tuple[int, int]:
    """A child that becomes the program when a byte is written to the gate: its pid, and the gate's descriptor.

    Raises LoadError if there is no such program, or if it can't be loaded.
    """
    path, refused = find(words[0], reflective)
    reader, gate = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become(path, words, environ, reader, reflective)
        except OSError as error:
            os.write(2, f"reflective: {printable(str(refused or f'{path}: {error.strerror}'))}\n".encode())
        finally:
            os._exit(126)
    os.close(reader)
    return pid, gate


def _become(path: str, words: Sequence[str], environ: tuple[bytes, ...], reader: int, reflective: bool) -> None:
    for number in PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    if not os.read(reader, 1):  # the tracer is gone
        return
    argv = tuple(encode(word) for word in words)
    if reflective:
        replace(Request(build(path, in_place=True), argv, environ, Options(), Setup()))
    execve(path, argv, environ)
