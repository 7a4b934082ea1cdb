"""`#!` by the kernel's exact rules: fs/binfmt_script.c: load_script, of which this is a transcription."""

from __future__ import annotations

import errno

from ..errors import LoadError, load_error
from ..values import Value

BUFFER = 256
BLANK = b" \t"
TERMINATOR = b" \t\0"


class Shebang(Value):
    """The interpreter's path and its one optional argument."""

    interpreter: bytes
    argument: bytes | None


def _find(seen: bytes, start: int, last: int, wanted: bytes) -> int | None:
    """The first position from start to last, inclusive, that holds one of the wanted bytes."""
    return next((at for at in range(start, last + 1) if seen[at] in wanted), None)


def _skip_blanks(seen: bytes, start: int, last: int) -> int | None:
    return next((at for at in range(start, last + 1) if seen[at] not in BLANK), None)


def parse(buffer: bytes, path: str) -> Shebang:
    """The first line of a script, of which the kernel sees 256 bytes, padded with NULs.

    Raises LoadError (ENOEXEC) if there is no interpreter, or if its path may have been cut off.
    """
    seen = buffer[:BUFFER].ljust(BUFFER, b"\0")
    last = BUFFER - 1
    end = seen.partition(b"\0")[0].find(b"\n")
    if end < 0:
        start = _skip_blanks(seen, 2, last)
        if start is None:
            raise _refuse("the first 256 bytes have nothing but blanks after #!", path)
        if _find(seen, start, last, TERMINATOR) is None:
            raise _refuse("the interpreter's path after #! does not end within the first 256 bytes", path)
        end = last
    while seen[end - 1] in BLANK:
        end -= 1
    name = _skip_blanks(seen, 2, end)
    if name is None or name == end:
        raise _refuse("no interpreter after #!", path)
    separator = _find(seen, name, end, TERMINATOR)
    argument = _skip_blanks(seen, separator, end) if separator is not None and seen[separator] else None
    stop = end if separator is None or argument is None else separator
    return Shebang(_string(seen, name, stop), None if argument is None else _string(seen, argument, end))


def _string(seen: bytes, start: int, end: int) -> bytes:
    return seen[start:end].partition(b"\0")[0]


def _refuse(reason: str, path: str) -> LoadError:
    return load_error(errno.ENOEXEC, reason, path)
