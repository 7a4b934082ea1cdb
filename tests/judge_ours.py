"""What reflective makes of many programs, one after another: the other side of tests/core/judge.c, in the same cell.

    judge_ours.py [UID]

Reads directory names from 0; starts "program" in each; answers on 1: struct answer, then what the program wrote.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import traceback

import reflective.plan.script  # which is imported when a script is met: then this may be a user who can't read it
import reflective.process
from reflective.errors import LoadError

ANSWER = struct.Struct("<iiI")
TIMEOUT_MS, RUNS_ON, LIVES, BROKEN = 2000, -1000, -1001, -1002
ARGV, ENV = (b"program", b"one", b"two words"), {b"A": b"1"}


def ended(pid: int) -> int:
    """How it ended, within the timeout."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        late = not poll.poll(TIMEOUT_MS)
        if late:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return RUNS_ON if late else status


def attempt(directory: bytes) -> tuple[int, int, bytes]:
    """errno, status, and the reason if it did not start."""
    os.chdir(directory)
    try:
        return 0, ended(reflective.process.spawn(b"program", ARGV, ENV)), b""
    except LoadError as error:
        return error.errno or -1, LIVES, os.fsencode(str(error))
    except BaseException:
        return -1, BROKEN, traceback.format_exc().encode()
    finally:
        os.chdir("..")


def become(uid: int) -> None:
    """Only now: the user may be one who can't read Python's own files."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def serve() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    for ignored in (signal.SIGXFSZ, signal.SIGPIPE):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    zero, output = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC), os.memfd_create("output")
    os.dup2(zero, 0)
    os.dup2(output, 1)
    for line in requests:
        os.ftruncate(output, 0)
        os.lseek(output, 0, os.SEEK_SET)
        error, status, broken = attempt(line.rstrip(b"\n"))
        text = broken or os.pread(output, os.fstat(output).st_size, 0)
        os.write(answers, ANSWER.pack(error, status, len(text)) + text)


if __name__ == "__main__":
    for uid in sys.argv[1:]:
        become(int(uid))
    serve()
