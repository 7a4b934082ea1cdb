"""What the kernel is asked to run: that may be more than reflective loads itself."""

from __future__ import annotations

import errno
import os
import shutil

from ..errors import LoadError
from .build import search


def find(name: str, reflective: bool = False) -> tuple[str, LoadError | None]:
    """The file that execvp would run, and why reflective would not load it. LoadError if the kernel would not either.

    Only the kernel can run a 32-bit program, or one that may not be read: it is asked, unless `reflective` is to load it.
    """
    try:
        return search(name, os.get_exec_path()).path, None
    except LoadError as error:
        path = None if reflective or error.errno not in (errno.ENOEXEC, errno.EACCES) else shutil.which(name)
        if path is None:
            raise
        return path, error
