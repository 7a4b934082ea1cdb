"""The whole program's subprocess, started by this package."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from typing import Any

from .process import Popen

# All of a subprocess.Popen that starts the program. Replacing it in the class, rather than the class in its module, reaches
# what holds the class already (`from subprocess import Popen`, subclasses, asyncio), and leaves nothing behind.
_METHODS = ("_execute_child", "_load", "degraded")
_MISSING = object()

_lock = threading.Lock()
_users = 0
_originals: dict[str, Any] = {}
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class patch_subprocess(contextlib.ContextDecorator):
    """Context manager and decorator: in it subprocess starts programs as reflective.Popen does, in all threads.

    What is reached: subprocess.Popen, its subclasses, and everything that uses them, as subprocess.run and its kin, os.popen
    and asyncio.create_subprocess_exec do. What is not: os.system, os.posix_spawn, os.spawnv, pty.spawn, multiprocessing,
    uvloop, which start processes by other means; and Python programs that are started, unless they do the same.

    May be nested, and used by several threads at once: subprocess is as before when the last has left.
    """

    def __enter__(self) -> patch_subprocess:
        global _users
        with _lock:
            if not _users:
                for name in _METHODS:
                    _originals[name] = vars(subprocess.Popen).get(name, _MISSING)
                    setattr(subprocess.Popen, name, vars(Popen)[name])
            _users += 1
        return self

    def __exit__(self, *_: object) -> None:
        global _users
        with _lock:
            _users -= 1
            if not _users:
                for name, original in _originals.items():
                    if original is _MISSING:
                        delattr(subprocess.Popen, name)
                    else:
                        setattr(subprocess.Popen, name, original)
