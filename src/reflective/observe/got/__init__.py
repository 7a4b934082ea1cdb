"""The slots of the global offset tables, and who fills them with what."""

from __future__ import annotations

from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Watch


def watch(command: Sequence[str] = (), *, pid: int = 0, pin: bool = True, guards: Sequence[str] = ()) -> Watch:
    """Watches a program from its start, or a process that runs already: an iterator of typed events (events.py).

    `pin` puts tracer and program on one CPU, where a stop takes a seventh of the time. When the iterator ends, `status` is the
    program's wait status; `close()` detaches before the end. Raises LoadError if the program can't be found, SessionError if
    the process can't be watched. `guards`: up to four slots, each as [OBJECT:]NAME[@VERSION], of the program itself unless an
    object is named; whoever writes one is known (events.Write). ValueError for what is no symbol.
    """
    from .redirect import name
    from .session import Watch

    return Watch(command, pid, pin, guards=[name(one) for one in guards])
