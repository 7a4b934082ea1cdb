"""`got-watch --writer`: the program once more, with debug registers on the slots that were hijacked the first time."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from glob import escape

from ..native.got import GUARDS
from ..observe.got.events import Event, Note, Write
from ..observe.got.redirect import Name
from ..observe.got.session import Watch
from ..observe.got.uprobe import UprobeWatch

STDIN = 0
AnyWatch = Watch | UprobeWatch


def input_position() -> int | None:
    """Where standard input is to be read from again; None for what has no position, as a terminal. ValueError: for a pipe."""
    mode = os.fstat(STDIN).st_mode
    if stat.S_ISREG(mode):
        return os.lseek(STDIN, 0, os.SEEK_CUR)
    if stat.S_ISCHR(mode):
        return None
    raise ValueError("--writer runs the program again: its input must be a file (< FILE) or a terminal, not a pipe")


def again(
    writes: Sequence[Write], position: int | None, start: Callable[[Sequence[Name]], AnyWatch], interrupts: list[int]
) -> Iterator[list[Event]]:
    """What is seen of these writes the second time: events Write, and a Note before and for whatever did not happen again."""
    slots = list(dict.fromkeys((one.object, one.symbol, one.version) for one in writes if one.writer is None))
    if position is not None:
        os.lseek(STDIN, position, os.SEEK_SET)
    watch = start([Name(escape(path), symbol, version) for path, symbol, version in slots[:GUARDS]])
    names = ", ".join(f"{path.rpartition('/')[2]} {symbol}" for path, symbol, _ in slots[:GUARDS])
    try:
        yield [_note(watch, f"once more, with a debug register on {names}")]
        for events in watch.batches():
            found: list[Event] = [one for one in events if isinstance(one, Write | Note)]
            seen = {(one.object, one.symbol, one.version) for one in found if isinstance(one, Write)}
            slots = [slot for slot in slots if slot not in seen]
            if found:
                yield found
        for path, symbol, _ in slots:
            yield [_note(watch, f"this time nothing was seen to write {path.rpartition('/')[2]} {symbol}")]
    finally:
        watch.close()
        if watch.status is None:  # detached before its end
            for number in (*interrupts[:1], signal.SIGCONT):
                os.kill(watch.pid, number)
            os.waitpid(watch.pid, 0)


def _note(watch: AnyWatch, words: str) -> Note:
    return Note(watch.pid, watch.pid, time.monotonic_ns(), words)
