"""got-watch --live: what is bound and what is not yet, object by object, redrawn in place while the program runs."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..observe.got.events import HOWS, LAZY, WRITE, Bind, Event, Exec, Exit, Fork, Object, Relro, Write
from .got import HIJACKED, LEGEND, QUIET, RESOLVED, STYLES, UNRESOLVED, Lines, clean

LATEST = 6  # events below the table
BAR = 20
OTHER_LINES = 6  # heads, blank lines, legend


class Row:
    """An object of a process: how many of its slots were bound how, and which of the lazy ones."""

    def __init__(self, lazy: int = 0, relro: str = "") -> None:
        self.lazy, self.relro = lazy, relro
        self.left: int | None = None
        self.bound: set[int] = set()
        self.hows: Counter[str] = Counter()
        self.hijacked = 0
        self.changed = 0

    def unbound(self) -> int:
        """Slots never bound so far; at the end as the end said."""
        return max(self.lazy - len(self.bound), 0) if self.left is None else self.left

    def copy(self) -> Row:
        """A fork's, which binds on its own."""
        other = Row(self.lazy, self.relro)
        other.__dict__.update(self.__dict__, bound=set(self.bound), hows=Counter(self.hows))
        return other


class Board:
    """Takes events, gives what to show. Processes that have ended give way to those that live; the last one stays."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.processes: dict[int, dict[str, Row]] = {}
        self.latest: deque[str] = deque(maxlen=LATEST)
        self.ended: set[int] = set()
        self.events = 0

    def add(self, events: Sequence[Event], wanted: Sequence[Event]) -> None:
        """All events count; those `wanted` are shown, and objects whose coming is among them."""
        shown = {event.object for event in wanted if isinstance(event, Object)}
        for event in events:
            self.events += 1
            self._count(event, shown)
        self.latest.extend(text.rstrip("\n") for text in map(self.lines.line, wanted) if text)

    def _count(self, event: Event, shown: set[str]) -> None:
        rows = self.processes.setdefault(event.pid, {})
        if isinstance(event, Exec):
            self.processes[event.pid] = {}
            return
        if isinstance(event, Fork):
            copies = rows if event.shared else {path: row.copy() for path, row in rows.items()}
            self.processes[event.child] = copies
            return
        if isinstance(event, Exit):
            self.ended.add(event.pid)
            for left in event.objects:
                if left.object in rows:
                    rows[left.object].lazy, rows[left.object].left = left.lazy, left.unbound
            return
        if isinstance(event, Object) and event.object in shown:
            rows.setdefault(event.object, Row()).lazy = event.lazy
            rows[event.object].relro = event.relro
        row = rows.get(getattr(event, "object", ""))
        if row is not None:
            row.changed = self.events
            _change(row, event)

    def table(self, height: int) -> RenderableType:
        """At most `height` lines: the objects that changed last, in the order they came in; the last events; a legend."""
        living = {pid: rows for pid, rows in self.processes.items() if pid not in self.ended}
        last = dict(list(self.processes.items())[:1])
        processes = living or last
        rows = [(pid, path, row) for pid, objects in processes.items() for path, row in objects.items()]
        room = max(height - OTHER_LINES - len(self.latest), 1)
        newest = sorted((row.changed for _, _, row in rows), reverse=True)[:room]
        kept = [one for one in rows if newest and one[2].changed >= newest[-1]][:room]
        table = _table(kept, len(processes) > 1)
        more = [Text(f"… {len(rows) - len(kept)} more objects", style=QUIET)] if len(rows) > len(kept) else []
        latest = [_line(text) for text in self.latest]
        return Group(table, *more, Text(""), *latest, Text(""), _legend(rows))


def _change(row: Row, event: Event) -> None:
    if isinstance(event, Relro) and "read-only" not in row.relro:
        row.relro += ", read-only"
    elif isinstance(event, Bind):
        row.hows[event.how] += 1
        if event.how in (LAZY, WRITE):
            row.bound.add(event.slot)
    elif isinstance(event, Write):
        row.hijacked += 1
        row.bound.add(event.slot)


def _table(rows: Sequence[tuple[int, str, Row]], many: bool) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    if many:
        table.add_column("process", justify="right")
    table.add_column("object", no_wrap=True)
    table.add_column("RELRO", no_wrap=True)
    hows = [how for how in HOWS if any(row.hows[how] for _, _, row in rows)]
    for how in hows:
        table.add_column(Text(how, style=STYLES[how]), justify="right")
    table.add_column("not yet", justify="right", style=UNRESOLVED)
    table.add_column("", no_wrap=True)
    for pid, path, row in rows:
        front = [str(pid)] if many else []
        name = Text(clean(path.rpartition("/")[2]), style=HIJACKED if row.hijacked else "")
        counts = [Text(str(row.hows[how] or ""), style=STYLES[how]) for how in hows]
        table.add_row(*front, name, row.relro, *counts, str(row.unbound() if row.lazy else ""), _bar(row))
    return table


def _bar(row: Row) -> Text:
    """Of the slots that wait for a first call, those that had it."""
    if not row.lazy:
        return Text("")
    full = (row.lazy - row.unbound()) * BAR // row.lazy
    return Text.assemble(("━" * full, RESOLVED), ("━" * (BAR - full), UNRESOLVED))


def _line(text: str) -> Text:
    line = Text.from_ansi(text)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _legend(rows: Sequence[tuple[int, str, Row]]) -> Text:
    hows = [how for how in HOWS if any(row.hows[how] for _, _, row in rows)]
    words = [(f"{how}: {LEGEND[how]}; ", STYLES[how]) for how in hows]
    return Text.assemble(("━ bound, by a first call ", RESOLVED), ("━ not yet; ", UNRESOLVED), *words)


class Screen:
    """A board on a terminal, drawn anew after each `show`; `close` leaves its last state there."""

    def __init__(self, file: TextIO, color: str, lines: Lines) -> None:
        self._fd, self._board = file.fileno(), Board(lines)
        self._console = Console(
            file=file, force_terminal=True, no_color=color == "never", highlight=False, legacy_windows=False
        )
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        self._console.show_cursor(True)  # the program may read from this very terminal

    def show(self, events: Sequence[Event], wanted: Sequence[Event]) -> None:
        """Raises OSError if the terminal is gone."""
        self._board.add(events, wanted)
        size = os.get_terminal_size(self._fd)
        if size.columns and size.lines:
            self._console.size = size
        self._live.update(self._board.table(self._console.size[1]), refresh=True)

    def close(self) -> None:
        """Raises OSError if the terminal is gone."""
        self._live.stop()
