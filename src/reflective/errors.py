"""What can go wrong, with the errno that execve would give, where it was found, and what to do about it."""

from __future__ import annotations

import errno
import os

UNWRITABLE = (errno.EBADF, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


class ReflectiveError(Exception):
    """Base of all errors that this package raises on purpose."""


class LoadError(ReflectiveError, OSError):
    """A program can't be loaded.

    `errno` is what execve gives for the same file, `filename` the program, `reason` one sentence that says what is wrong and
    where (offset, field, value), `hint` what to do about it ("" if there is nothing to say).
    """

    reason: str
    hint: str

    def __str__(self) -> str:
        path = os.fsdecode(self.filename) if isinstance(self.filename, (str, bytes)) else self.filename
        if path == "":
            path = "''"
        text = f"{path}: {self.reason}" if path is not None else self.reason
        return f"{text} ({self.hint})" if self.hint else text


class ProgramNotFound(LoadError, FileNotFoundError):
    """The program, its interpreter, or a directory on the way does not exist (ENOENT)."""


class NotAllowed(LoadError, PermissionError):
    """Permission to execute is missing (EACCES, EPERM)."""


class NotADirectory(LoadError, NotADirectoryError):
    """A component of the path is no directory (ENOTDIR)."""


class Degraded(LoadError):
    """`strict` was asked for, and something can't be as after execve."""


_BY_ERRNO: dict[int, type[LoadError]] = {
    errno.ENOENT: ProgramNotFound,
    errno.EACCES: NotAllowed,
    errno.EPERM: NotAllowed,
    errno.ENOTDIR: NotADirectory,
}


def load_error(
    number: int, reason: str, path: str | bytes | None, hint: str = "", kind: type[LoadError] | None = None
) -> LoadError:
    """A LoadError: of the given kind, or of the subclass that also is Python's own exception for this errno."""
    error = (kind or _BY_ERRNO.get(number, LoadError))(number, os.strerror(number), path)
    error.reason, error.hint = reason, hint
    return error


def printable(text: str) -> str:
    """The text on one line and without what a terminal would obey: control characters and stray bytes are escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(letter: str) -> str:
    return letter.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode("ascii")


def said(error: Exception) -> str:
    """What went wrong, for a line on stderr: LoadError and SessionError say it themselves."""
    if isinstance(error, LoadError) or not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if isinstance(error.filename, (str, bytes)):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return f"the output can't be written: {error.strerror}" if error.errno in UNWRITABLE else error.strerror


class SessionError(ReflectiveError):
    """A process can't be looked at: it is not there, or not ours, or ended too early. The message says what to do about it."""
