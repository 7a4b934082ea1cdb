"""The source lines of calls that made the linker bind, where the calling file itself carries DWARF."""

from __future__ import annotations

import os

from ...elf import lines
from ...errors import LoadError
from .events import Bind, Event
from .process import Object, Process

LARGEST = 16 << 20  # bytes of a file whose DWARF is read: a larger one would hold everything up


class Callers:
    """Fills in `caller_line`, for all events of a batch at once: DWARF is read once a file and batch."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}
        self._without: set[str] = set()

    def fill(self, events: list[Event], processes: dict[int, Process]) -> list[Event]:
        """The same events, with source lines."""
        wanted: dict[str, tuple[Object, set[int]]] = {}
        for event in events:
            if isinstance(event, Bind) and event.caller and event.caller_object not in self._without:
                process = processes.get(event.pid)
                home = process.home(event.caller) if process else None
                if home:
                    wanted.setdefault(home.path, (home, set()))[1].add(event.caller)
        for home, callers in wanted.values():
            self._read(home, callers)
        return (
            [self._filled(event) if isinstance(event, Bind) and event.caller else event for event in events]
            if wanted
            else events
        )

    def _read(self, home: Object, callers: set[int]) -> None:
        calls = {caller - 1 - home.bias: caller for caller in callers if (home.path, caller) not in self._known}
        if not calls:
            return
        try:
            found = lines.sources(home.there.file, "", calls) if os.stat(home.there.file).st_size <= LARGEST else {}
        except (LoadError, OSError):
            found = {}
        if not found:
            self._without.add(home.path)
        for address, source in found.items():
            self._known[home.path, calls[address]] = f"{source.path}:{source.line}"

    def _filled(self, event: Bind) -> Bind:
        line = self._known.get((event.caller_object, event.caller or 0))
        return event.replace(caller_line=line) if line else event
